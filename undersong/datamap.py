"""The data map of a job, from what the coordinator tells about it."""

from collections.abc import Mapping
from typing import Any

from undersong.client import Client
from undersong.client.types import Job, Round, Site
from undersong.shared.ids import JobId, SiteId
from undersong.shared.transparency.datamap import DataMap, MappedJob, MappedSite, make_datamap
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.privacy import PrivacyTerms


def datamap_of(client: Client, job: Job) -> DataMap:
    """Return the data map of a job; ApiError or UndersongError where the platform does not answer."""
    rounds, members = client.rounds(job.id), {site.id: site for site in client.sites(job.federation_id)}
    spec = job.spec
    asks = spec.get("kind") == "statistics"
    grows = not asks and any(recipe.get("grows") for recipe in _recipes(spec, members))
    manifest = _newest(client, rounds, RoundKind.STATISTICS if asks or grows else RoundKind.TRAIN)
    return make_datamap(
        MappedJob(
            job_id=JobId(job.id),
            name=job.name,
            engine=str(spec.get("engine")),
            sites=_sites(client, job, manifest, members),
            recipe=str((spec.get("recipe") or {}).get("name", "")),
            model=None if asks else str((spec.get("model") or {}).get("name", "")),
            queries=tuple(dict.fromkeys(str(query.get("query")) for query in spec.get("queries") or ())),
            grows=grows,
            standardises=not (asks or grows)
            and (any(each.kind == RoundKind.STATISTICS for each in rounds) or _will(spec, members)),
            reduces=next((str(each["reduces"]) for each in _recipes(spec, members) if each.get("reduces")), None),
            evaluates=not asks and bool((spec.get("evaluation") or {}).get("every")),
            terms=_terms(job, manifest),
        )
    )


def _newest(client: Client, rounds: list[Round], wanted: RoundKind) -> RoundManifest | None:
    """Return the manifest of the newest round of this kind; None before there is one.

    Of a training job only rounds that train: the sums that standardise columns have no noise, whatever the job's terms.
    """
    found = [each for each in rounds if each.kind == wanted]
    return client.manifest(found[-1].id).manifest if found else None


def _will(spec: Mapping[str, Any], members: Mapping[str, Site]) -> bool:
    """Return whether a training job will add up columns before it trains, as the sites tell of its recipe."""
    params = (spec.get("recipe") or {}).get("params") or {}
    found = _recipes(spec, members)
    return any(recipe.get("statistics") and not params.get(recipe.get("reduces") or "ranges") for recipe in found)


def _recipes(spec: Mapping[str, Any], members: Mapping[str, Site]) -> list[Mapping[str, Any]]:
    """Return the forms of the job's recipe that sites tell of."""
    name = (spec.get("recipe") or {}).get("name")
    recipes = [recipe for site in members.values() for recipe in (site.profile or {}).get("recipes") or ()]
    return [recipe for recipe in recipes if recipe.get("name") == name]


def _terms(job: Job, manifest: RoundManifest | None) -> PrivacyTerms | None:
    """Return what the job's noisy rounds promise: from its newest manifest, before the first round as it was
    settled.
    """
    if manifest is not None:
        return manifest.privacy
    return None if job.privacy is None else PrivacyTerms.model_validate(job.privacy.model_dump(exclude_none=True))


def _sites(
    client: Client, job: Job, manifest: RoundManifest | None, members: Mapping[str, Site]
) -> tuple[MappedSite, ...]:
    """Return the sites that the job asks, with the columns that it reads of each."""
    answered = {part.site_id: part.done for part in client.participation(job.id)}
    eligible: Any = (job.model_extra or {}).get("sites") or ()
    asked = sorted({*answered, *map(str, eligible)} & set(members), key=lambda site_id: members[site_id].name)
    columns = (*job.features, *([job.label] if job.label else []))
    if not columns and manifest is not None:
        columns = manifest.data.features
    return tuple(
        MappedSite(
            site_id=SiteId(site_id),
            name=members[site_id].name,
            organisation=members[site_id].owner or members[site_id].name,
            dataset=str((job.spec.get("data") or {}).get("dataset", "")),
            columns=columns,
            answered=answered.get(site_id, 0),
        )
        for site_id in asked
    )
