"""What the coordinator knows of sites when it judges a job: their recipes, data sets and columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from undersong.services.coordinator.domain.findings import Findings
from undersong.shared.ids import SiteId
from undersong.shared.names import Hints, Sights, hint, looks_like, near
from undersong.shared.wire.profiles import DatasetSchema, SiteProfile

TOLD: Final = "; sites tell of what their policies allow"
"""In what is said of a recipe or data set that no site has: it may be there, and not be allowed."""


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What the coordinator knows of one site when it judges a job."""

    id: SiteId
    name: str
    active: bool
    profile: SiteProfile | None


def profile_of(site: SiteFacts) -> SiteProfile:
    """Return what the site told about itself; it must have."""
    if site.profile is None:
        raise ValueError("a site without a profile is not eligible")
    return site.profile


def dataset_of(site: SiteFacts, name: str) -> DatasetSchema | None:
    """Return the site's data set of this name, if it has it."""
    return next((schema for schema in profile_of(site).datasets if schema.name == name), None)


def schema_of(site: SiteFacts, name: str) -> DatasetSchema:
    """Return the site's data set; it must have it."""
    found = dataset_of(site, name)
    if found is None:
        raise ValueError("a site without the data set is not eligible")
    return found


def lacks_dataset(site: SiteFacts, name: str) -> str | None:
    """Return why a site cannot take part with the data set of this name; None where it can."""
    if not site.active:
        return "it is suspended"
    if site.profile is None:
        return "its agent has not reported yet"
    if dataset_of(site, name) is not None:
        return None
    for fault in site.profile.faults:
        if fault.dataset in (None, name):
            return fault.sentence
    known = [schema.name for schema in site.profile.datasets]
    return f"its agent reports no such data set{hint(name, known)}" if known else "its agent reports no data set"


def columns_of(site: SiteFacts, dataset: str) -> set[str]:
    """Return the names of the data set's columns at the site."""
    return {column.name for column in schema_of(site, dataset).columns}


def sights_of(dataset: str, sites: Sequence[SiteFacts]) -> dict[SiteId, Sights]:
    """Return by site what its columns look like."""
    return {site.id: Sights(columns_of(site, dataset)) for site in sites}


def alike_columns(name: str, without: Sequence[SiteFacts], sights: Mapping[SiteId, Sights]) -> str:
    """Return a clause for each site without a column that has one which looks the same; else empty."""
    found = [(site.name, looks_like(name, sights[site.id])) for site in without]
    return "".join(f"; at {site} one{said[4:]}" for site, said in found if said)


def disability(profile: SiteProfile) -> str | None:
    """Return why the site can do no work at all, as it told; None where it can."""
    return next((f"it cannot take work: {fault.sentence}" for fault in profile.faults if fault.dataset is None), None)


CONSENTS: Final = {
    "waiting": "it waits for the consent of its owner",
    "denied": "its owner does not consent to this job",
}
"""Why a site takes no part, by the state of its owner's consent."""


def consent_of(site: SiteFacts, job_id: str) -> Literal["waiting", "denied"] | None:
    """Return `waiting` or `denied` where the site told that its owner has not consented to the job."""
    notes = site.profile.consents if site.profile is not None else ()
    return next((note.state for note in notes if note.job_id == job_id), None)


def holders_of(dataset: str, sites: Sequence[SiteFacts], findings: Findings) -> list[SiteFacts]:
    """Return the sites that have the data set; an error where there is none, a warning for each that cannot read its
    own.
    """
    for site in sites:
        told = [fault.sentence for fault in profile_of(site).faults if fault.dataset in (None, dataset)]
        for sentence in told:
            findings.warn("/data/dataset", f"site {site.name} cannot take work: {sentence}")
    holders = [site for site in sites if dataset_of(site, dataset) is not None]
    if not holders:
        known = sorted({schema.name for site in sites for schema in profile_of(site).datasets})
        has = hint(dataset, known) if known else "; no site has told its data sets yet"
        has += "".join(f"; {warning.message}" for warning in findings.warnings if warning.path == "/data/dataset")
        findings.error("/data/dataset", f"no active site has the data set {dataset!r}{has}{TOLD}")
        return holders
    for site in sites:
        if near(dataset, known := [schema.name for schema in profile_of(site).datasets]) and site not in holders:
            said = f"{site.name} has no data set {dataset!r}, and will not take part{hint(dataset, known)}"
            findings.warn("/data/dataset", said)
    return holders


def having(
    wanted: Sequence[tuple[str, str]], dataset: str, sites: Sequence[SiteFacts], findings: Findings
) -> list[SiteFacts]:
    """Return the sites that have all columns, of which each is asked for at a path of the document."""
    columns, sights = {site.id: columns_of(site, dataset) for site in sites}, sights_of(dataset, sites)
    lacking = {place: [site for site in sites if place[1] not in columns[site.id]] for place in wanted}
    hints = Hints(set[str]().union(*columns.values()))
    for (path, name), without in lacking.items():
        if not without:
            continue
        if len(without) == len(sites):
            findings.error(path, f"no site's data set {dataset!r} has the column {name!r}{hints(name)}")
        else:
            names = ", ".join(site.name for site in without)
            said = f"the column {name!r} is missing at {names}, which will not take part"
            findings.warn(path, said + alike_columns(name, without, sights))
    out = {site.id for without in lacking.values() for site in without}
    return [site for site in sites if site.id not in out]
