"""How a datasheet is made: from the version, from the rounds that led to it, and from what the job still plans. Pure.

The neighbour relation, the accountant and the cost of each round are those of the sites' ledgers
(`undersong.shared.secagg.private.event_of`), so that a sheet and a ledger say the same number for the same rounds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from undersong.shared.ids import JobId, VersionId
from undersong.shared.privacy.accounting import ACCOUNTANT, epsilon_of
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.secagg.private import expected_event
from undersong.shared.transparency.datasheet import (
    Datasheet,
    SheetAudit,
    SheetClaim,
    SheetData,
    SheetEngine,
    SheetGap,
    SheetLedger,
    SheetMapping,
    SheetMechanism,
    SheetSubject,
    SheetUtility,
)
from undersong.shared.transparency.releases import Release, charged, costs_of, exact_of, finite
from undersong.shared.wire.manifest import DataRef, RoundKind
from undersong.shared.wire.privacy import (
    NEIGHBOURS,
    GaussianEvent,
    PoissonGaussianEvent,
    PrivacyEvent,
    PrivacyModel,
    PrivacyTerms,
    PrivacyUnit,
    ZeroConcentratedEvent,
)

VALID_FOR: Final = timedelta(days=180)
NO_SAMPLING: Final = (
    "none: every unit is taken to be in every round, and no credit is given for sites that were not asked"
)
RECIPE_SAMPLING: Final = "Poisson sampling of rows, drawn by the recipe at each step inside the site"
_KINDS: Final[dict[RoundKind, tuple[str, str]]] = {
    RoundKind.TRAIN: ("training without noise", "the sums of updates were opened exactly"),
    RoundKind.EVALUATE: ("evaluations", "metrics are computed from exact sums over all sites' rows"),
    RoundKind.STATISTICS: (
        "statistics without noise",
        "exact sums over columns, such as those that standardise them or that trees grow by",
    ),
}


@dataclass(frozen=True, slots=True)
class SheetFacts:
    """What a version rests on.

    releases: the rounds of its job up to it, and those of the jobs that led to the version it started from. planned:
    what the noisy rounds of its own job promise, if it has some. unknown: ancestors of which no round is known here.
    """

    subject: SheetSubject
    releases: tuple[Release, ...]
    planned: PrivacyTerms | None = None
    unknown: tuple[VersionId, ...] = ()
    audits: tuple[SheetAudit, ...] = ()
    claim_broken: bool = False
    utility: SheetUtility = field(default_factory=SheetUtility)
    ledgers: tuple[SheetLedger, ...] = ()


def make_datasheet(account: SheetFacts, now: datetime) -> Datasheet:
    """Return the datasheet; computing what events cost together takes up to a second."""
    claims, gaps = tuple(_claims(account)), tuple(_gaps(account))
    engines = tuple(_engines(account.releases))
    return Datasheet(
        made_at=now,
        expires_at=now + VALID_FOR,
        subject=account.subject,
        data=tuple(_data(account.releases)),
        engines=engines,
        claims=claims,
        gaps=gaps,
        audits=account.audits,
        claim_broken=account.claim_broken,
        unknown=account.unknown,
        ledgers=account.ledgers,
        utility=account.utility,
        nist=tuple(_nist(account, claims, engines)),
    )


def _data(releases: Sequence[Release]) -> Iterator[SheetData]:
    by_name: dict[str, list[Release]] = {}
    for release in releases:
        by_name.setdefault(release.manifest.data.dataset, []).append(release)
    for name, found in sorted(by_name.items()):
        counts = [release.contributors for release in found if release.contributors is not None]
        widest = max((release.manifest.data for release in found), key=_columns)
        yield SheetData(
            dataset=name,
            features=widest.features,
            label=widest.label,
            rounds=len(found),
            fewest_sites=min(counts, default=None),
            most_sites=max(counts, default=None),
        )


def _columns(data: DataRef) -> int:
    return len(data.features) + (data.label is not None)


def _engines(releases: Sequence[Release]) -> Iterator[SheetEngine]:
    rounds = Counter(release.manifest.engine for release in releases)
    for name, count in sorted(rounds.items()):
        facts = ENGINES.get(name)
        yield SheetEngine(
            engine=name,
            rounds=count,
            min_cohort=min(release.manifest.min_cohort for release in releases if release.manifest.engine == name),
            protection=facts.wording.protection if facts else "this platform does not know the engine any more",
            collusion=facts.wording.collusion if facts else "not known",
        )


def _claims(account: SheetFacts) -> Iterator[SheetClaim]:
    costs = {cost.unit: cost for cost in costs_of(account.releases)}
    for unit in PrivacyUnit:
        planned = account.planned if account.planned is not None and account.planned.unit is unit else None
        deltas = [found.delta for found in (costs.get(unit), planned) if found is not None]
        if not deltas:
            continue
        noisy = [release for release in account.releases if release.unit is unit]
        events, ahead = [release.event for release in charged(noisy)], _ahead(account, planned, noisy)
        delta = min(deltas)
        sampled = any(isinstance(event, PoissonGaussianEvent) for event in [*events, *ahead])
        yield SheetClaim(
            unit=unit,
            neighbours=NEIGHBOURS,
            mechanisms=tuple(_mechanisms(account, planned, noisy)),
            released=len(noisy),
            epsilon=finite(epsilon_of(events, delta)),
            delta=delta,
            planned_epsilon=_planned_epsilon(planned, events, ahead, delta),
            accountant=ACCOUNTANT,
            accountant_version=_version_of(ACCOUNTANT),
            sampling=RECIPE_SAMPLING if sampled else NO_SAMPLING,
            exact=len(exact_of(account.releases)),
        )


def _planned_epsilon(
    planned: PrivacyTerms | None, events: Sequence[PrivacyEvent], ahead: Sequence[PrivacyEvent], delta: float
) -> float | None:
    if planned is not None and not events:
        return planned.epsilon  # as the coordinator computed it
    return finite(epsilon_of([*events, *ahead], delta))


def _ahead(account: SheetFacts, planned: PrivacyTerms | None, noisy: Sequence[Release]) -> list[PrivacyEvent]:
    """Return what the version's own job may still release, as one event."""
    own = [release for release in noisy if release.manifest.job_id == account.subject.job_id]
    if planned is not None and planned.correlated is not None:
        own = charged(own)
    done = [release.manifest.number for release in own if release.contributors is not None]
    failed = {release.manifest.number for release in own} - set(done)  # of any number of attempts, one of the plan
    left = planned.charged - len(done) - len(failed) if planned is not None else 0
    if planned is None or left <= 0:
        return []
    event = own[-1].event if own else expected_event(planned.model, planned.noise_multiplier, steps=planned.steps)
    if isinstance(event, GaussianEvent | ZeroConcentratedEvent | PoissonGaussianEvent):
        return [event.model_copy(update={"count": event.count * left})]
    return [event]


def _mechanisms(
    account: SheetFacts, planned: PrivacyTerms | None, noisy: Sequence[Release]
) -> Iterator[SheetMechanism]:
    found: Counter[tuple[JobId, PrivacyTerms, float | None]] = Counter()
    paths: dict[tuple[JobId, PrivacyTerms], list[float]] = {}
    for release in noisy:
        manifest, terms = release.manifest, release.manifest.privacy
        if terms is None:
            continue
        clip = manifest.encoding.clip_norm if manifest.encoding is not None else None
        if terms.adaptive_clip is not None and clip is not None:
            paths.setdefault((manifest.job_id, terms), []).append(clip)
            clip = None
        found[manifest.job_id, terms, clip if terms.steps is None else terms.steps.clip_norm] += 1
    own = account.subject.job_id
    if planned is not None and own is not None and not any(job_id == own for job_id, _, _ in found):
        found[own, planned, None] = 0
    for (job_id, terms, clip), count in found.items():
        yield SheetMechanism(
            job_id=job_id,
            model=terms.model,
            noise_multiplier=terms.noise_multiplier,
            clip_norm=clip,
            min_sites=terms.min_sites,
            colluding=terms.colluding,
            steps=terms.steps,
            adaptive_clip=terms.adaptive_clip,
            clip_path=tuple(paths.get((job_id, terms), ())),
            correlated=terms.correlated,
            released=count,
            planned=terms.rounds,
        )


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not known"


def _gaps(account: SheetFacts) -> Iterator[SheetGap]:
    """Say what no guarantee is given for: what can be counted first, then what is never bounded."""
    exact = exact_of(account.releases)
    for kind, (what, why) in _KINDS.items():
        if count := sum(release.manifest.kind is kind for release in exact):
            yield SheetGap(what=what, releases=count, why=f"{why}; no epsilon says anything about them")
    if count := sum(release.contributors is None for release in account.releases):
        yield SheetGap(
            what="rounds that failed while their sum was being opened",
            releases=count,
            why="what was seen of their sums, or of each update where the aggregator sees them, is not known; those "
            "with noise are counted in the claims as released",
        )
    yield from _other_units(account.releases)
    for version_id in account.unknown:
        yield SheetGap(
            what=f"the origin of {version_id}",
            why="it was brought in from outside, or its rounds are not known here: what it gives away is not counted",
        )
    if _models(account.releases) & {PrivacyModel.DISTRIBUTED, PrivacyModel.LOCAL}:
        yield SheetGap(
            what="noise that a dishonest site leaves out",
            why="each site adds its own part of the noise, and no proof shows that it did; a site that leaves it out "
            "weakens the bound for all others by its part. Noise by two servers does not depend on the sites",
        )
    yield SheetGap(what="other jobs", why=_OTHER_JOBS)
    yield SheetGap(what="the data's description", why=_SCHEMA)
    yield SheetGap(what="side channels", why=_SIDE_CHANNELS)


def _other_units(releases: Sequence[Release]) -> Iterator[SheetGap]:
    """Say what noise that protects one unit leaves open for the other, where a version rests on both."""
    counts = Counter(release.unit for release in releases)
    if not (counts[PrivacyUnit.SITE] and counts[PrivacyUnit.RECORD]):
        return
    yield SheetGap(
        what="rounds whose noise protects records, for a site",
        releases=counts[PrivacyUnit.RECORD],
        why="nothing bounds there what all records of one site say together; the claim for a site does not cover them",
    )
    yield SheetGap(
        what="rounds whose noise protects sites, for a record",
        releases=counts[PrivacyUnit.SITE],
        why="the claim for a record does not cover them; one record moves its site's update by two clip norms at most, "
        "so they cost a record at most what half their noise would",
    )


_OTHER_JOBS: Final = (
    "jobs over the same data that this version does not descend from add to what the data gives away; each site's "
    "ledger counts all of them"
)
_SCHEMA: Final = (
    "names, types, categories and declared ranges of columns, numbers of rows where a site declares them, and which "
    "sites took part are told as they are"
)
_SIDE_CHANNELS: Final = (
    "noise is drawn as integers from a cryptographic generator, without rounding of floating-point numbers; how long "
    "drawing and training take is not hidden"
)


def _models(releases: Iterable[Release]) -> set[PrivacyModel]:
    return {
        release.manifest.privacy.model
        for release in releases
        if release.manifest.privacy is not None and release.unit is not None
    }


def _nist(account: SheetFacts, claims: Sequence[SheetClaim], engines: Sequence[SheetEngine]) -> Iterator[SheetMapping]:
    """Map the topics of NIST SP 800-226 to what this sheet says."""
    bounded = [claim for claim in claims if claim.epsilon is not None]
    said = "; ".join(f"epsilon {claim.epsilon:.4g} at delta {claim.delta:g} for each {claim.unit}" for claim in bounded)
    yield _topic("Privacy parameters", "Claims", said or "no epsilon is claimed")
    units = ", ".join(f"one {claim.unit}" for claim in claims)
    yield _topic(
        "Unit of privacy and neighbouring data sets",
        "Claims",
        f"{units}, contribution added or removed" if units else "none: sums were opened exactly",
    )
    yield _topic("Bounded contribution (sensitivity)", "Claims", _sensitivity(claims))
    yield _topic("Mechanism and floating-point hazards", "No guarantee", _SIDE_CHANNELS)
    yield _topic("Data collection exposure and trust", "Engines", "; ".join(_trust(engines)) or "no data was used")
    yield _topic(
        "Composition and privacy budget",
        "Claims",
        "the rounds above are composed by the accountant that is named; budgets are the owners' own: each site's "
        "ledger charges every job and refuses what its budget does not cover",
    )
    groups = len(account.utility.groups)
    yield _topic(
        "Utility and bias",
        "Utility",
        f"metrics of {groups} groups" if groups else "no metrics of groups: effects on small groups are not known",
    )
    count = len(account.audits)
    tested = f"{count} audits" if count != 1 else "one audit"
    yield _topic("Testing", "Audits", tested if count else "no audit of this version is recorded")
    yield _topic("Access control and deployment", "Subject", "docs/threat-model.md and docs/authorisation.md")


def _topic(topic: str, section: str, answer: str) -> SheetMapping:
    return SheetMapping(topic=topic, section=section, answer=answer)


def _sensitivity(claims: Sequence[SheetClaim]) -> str:
    mechanisms = [one for claim in claims for one in claim.mechanisms]
    fixed = {one.clip_norm for one in mechanisms if one.clip_norm is not None}
    norms = sorted(fixed.union(*(one.clip_path for one in mechanisms)))
    if norms:
        said = ", ".join(f"{norm:g}" for norm in norms)
        if any(one.clip_path for one in mechanisms):
            said = f"{norms[0]:.4g} to {norms[-1]:.4g}, as each round's manifest says"
        return f"each contribution is clipped to an L2 norm of {said}; what rounding to integers adds is counted in"
    return "bounds of each measure" if claims else "none"


def _trust(engines: Sequence[SheetEngine]) -> Iterator[str]:
    yield from (f"{one.engine}: {one.collusion}" for one in engines)
