"""The agent's rules: what a site allows, what it has answered before, what may be said about a failure.

Pure: the manifest, the policy, the earlier answer and the time are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from enum import StrEnum
from typing import Final

from undersong.services.agent.domain.budgets import PrivacyRule
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg.engines import PUBLIC_ENGINE, EngineFloors
from undersong.shared.statistics.measures import MeasureInvalid, asked_of
from undersong.shared.statistics.tree_options import TreesInvalid, options_of
from undersong.shared.wire.manifest import STATISTICS_RECIPE, RoundKind, RoundManifest
from undersong.shared.wire.profiles import DatasetSchema, schema_fault

PROTOCOLS = (1,)  # this version, and the one before once there is one
EVERYTHING = "*"
OWN_FEDERATION = "own"
DATALESS_KINDS = frozenset({"initialise"})  # reads shapes only and releases nothing about the data
STANDARDISE = "standardise"  # of a policy's kinds: the sums by which a training job scales its columns
STATISTICS = STATISTICS_RECIPE
POLICY_UNREADABLE: Final = "policy-unreadable"
CONSENT_WAITING: Final = "consent-waiting"
CONSENT_DENIED: Final = "consent-denied"
POLICY_SIGNATURE: Final = "policy-signature"
SITE_UNREADABLE: Final = "site-unreadable"  # its data sets and recipes, as a whole


class TaskFailure(Exception):
    """A task that this site will not or cannot do; `code` goes to the coordinator, the text stays here."""

    def __init__(self, code: str, detail: str, *, where: Sequence[str] = (), text: str = "") -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.where = tuple(where)
        self.text = text


class Detail(StrEnum):
    """How much of a failure leaves the site."""

    CODE = "code"
    LOCATION = "location"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class RecipeRule:
    """One allowed recipe: any installed version by `name`, or one exact version by `digest`."""

    name: str | None
    digest: Digest | None

    def allows(self, name: str, digest: str, *, own: bool) -> bool:
        """Return whether this rule covers the recipe; a site's own code is only ever covered by its digest."""
        if self.digest is not None:
            return self.digest == digest and self.name in (None, name)
        return self.name == name and not own


@dataclass(frozen=True, slots=True)
class Hours:
    """A daily window in the policy's time zone; it may pass midnight."""

    start: time
    end: time

    def holds(self, at: time) -> bool:
        """Return whether the time of day lies in the window (start included, end excluded)."""
        if self.start <= self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


@dataclass(frozen=True, slots=True)
class Resources:
    """What a recipe may use at this site."""

    memory_bytes: int
    file_bytes: int
    disk_bytes: int
    model_bytes: int
    task_s: float
    cpus: float
    pids: int
    gpus: int


@dataclass(frozen=True, slots=True)
class StatisticsRule:
    """What statistics jobs may ask of this site, and what they must promise about everything that is shown."""

    measures: frozenset[str]  # what may be added up, {"*"} for all
    min_cell: int
    min_cohort: int
    max_sums: int


@dataclass(frozen=True, slots=True)
class SiteMetricsRule:
    """Which of its own metrics a site tells in the clear: of so many test rows, blurred by noise of this deviation."""

    min_rows: int
    noise: float


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a job may cost without an approval: epsilon, at a delta that is no larger than this one."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class ConsentRule:
    """Whether jobs that the policy allows need an owner's approval beside it.

    `ceilings`: by the digest of a recipe's code what its jobs may cost without one.
    """

    asked: bool = False
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the data owner allows. What is not named is refused."""

    federations: frozenset[str]
    recipes: tuple[RecipeRule, ...]
    datasets: Mapping[str, frozenset[str]]  # data set -> columns, {"*"} for all
    engines: frozenset[str]
    kinds: frozenset[str]
    min_cohort: int
    require_clip: bool
    hours: tuple[Hours, ...]  # none: always
    resources: Resources
    reports: Detail
    statistics: StatisticsRule
    engine_floors: EngineFloors
    privacy: PrivacyRule = field(default_factory=PrivacyRule)
    consent: ConsentRule = field(default_factory=ConsentRule)
    site_metrics: SiteMetricsRule | None = None  # none: the site's own metrics never leave it


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What the agent knows of itself when it judges a task."""

    site_id: SiteId
    federation_id: str
    recipes: Mapping[str, Digest]  # installed recipes by name
    own_recipes: frozenset[str]  # those that are the site's own code
    datasets: Mapping[str, DatasetSchema] = field(default_factory=dict)  # as declared, before the policy
    growing: frozenset[str] = frozenset()  # recipes whose models grow by rounds of sums


@dataclass(frozen=True, slots=True)
class Reason:
    """One objection to a task."""

    code: str
    detail: str


def objections(policy: Policy, manifest: RoundManifest, site: SiteFacts, local_now: datetime) -> tuple[Reason, ...]:
    """Return every reason why this site must not run the task; empty when it may."""
    found = [
        *_identity(policy, manifest, site),
        *_recipe(policy, manifest, site),
        *_data(policy, manifest, site),
        *_protection(policy, manifest, site),
        *(Reason(each.code, each.detail) for each in policy.engine_floors.objections(manifest)),
        *(_statistics(policy.statistics, manifest) if manifest.recipe.name == STATISTICS else ()),
        *(_growth(policy.statistics, manifest) if _grows(manifest, site) else ()),
        *(Reason("policy-privacy", detail) for detail in policy.privacy.objections(manifest)),
    ]
    if policy.hours and not any(window.holds(local_now.time()) for window in policy.hours):
        found.append(Reason("policy-hours", "outside the hours of this site"))
    return tuple(found)


def _identity(policy: Policy, manifest: RoundManifest, site: SiteFacts) -> list[Reason]:
    found: list[Reason] = []
    if manifest.protocol not in PROTOCOLS:
        found.append(Reason("protocol-unknown", f"manifest protocol {manifest.protocol}"))
    if manifest.federation_id != site.federation_id:
        found.append(Reason("manifest-federation", "the manifest belongs to another federation"))
    allowed = {site.federation_id if name == OWN_FEDERATION else name for name in policy.federations}
    if EVERYTHING not in allowed and manifest.federation_id not in allowed:
        found.append(Reason("policy-federation", f"federation {manifest.federation_id} is not allowed"))
    if site.site_id not in manifest.cohort:
        found.append(Reason("manifest-cohort", "this site is not in the cohort"))
    return found


def _recipe(policy: Policy, manifest: RoundManifest, site: SiteFacts) -> list[Reason]:
    name, digest = manifest.recipe.name, manifest.recipe.digest
    installed = site.recipes.get(name)
    if installed is None:
        return [Reason("recipe-unknown", f"recipe {name} is not installed here")]
    if installed != digest:
        return [Reason("recipe-digest", f"recipe {name} is installed here with other code")]
    own = name in site.own_recipes
    if not any(rule.allows(name, digest, own=own) for rule in policy.recipes):
        return [Reason("policy-recipe", f"recipe {name} is not allowed")]
    return []


def _data(policy: Policy, manifest: RoundManifest, site: SiteFacts) -> list[Reason]:
    columns = policy.datasets.get(manifest.data.dataset)
    if columns is None:
        return [Reason("policy-dataset", f"data set {manifest.data.dataset} is not allowed")]
    own = site.datasets.get(manifest.data.dataset)
    everything = [column.name for column in own.columns] if own is not None else []
    wanted = [*manifest.data.read, *(everything if not manifest.data.features else [])]
    refused = sorted(set(wanted) - columns) if EVERYTHING not in columns else []
    if refused:
        return [Reason("policy-columns", f"columns not allowed: {', '.join(refused)}")]
    fault = schema_fault(own, manifest.data) if own is not None else None
    return [Reason("schema-mismatch", fault)] if fault is not None else []


def _protection(policy: Policy, manifest: RoundManifest, site: SiteFacts) -> list[Reason]:
    found: list[Reason] = []
    kind = str(_charged_as(manifest.kind).value)
    if policy.kinds.isdisjoint(allowing := _allowing(manifest, site)):
        line = _line("kinds", min(allowing))
        found.append(Reason("policy-kind", f"rounds of kind {min(allowing)} are not allowed here{line}"))
    if manifest.engine not in policy.engines and (kind, manifest.engine) != ("initialise", PUBLIC_ENGINE):
        line = _line("engines", manifest.engine)
        found.append(Reason("policy-engine", f"engine {manifest.engine} is not allowed here{line}"))
    size = min(len(set(manifest.cohort)), manifest.min_cohort)
    if kind not in DATALESS_KINDS and size < policy.min_cohort:
        found.append(Reason("policy-cohort", _too_small(size, policy.min_cohort)))
    clip = manifest.encoding.clip_norm if manifest.encoding is not None else None
    if kind == "train" and policy.require_clip and clip is None:
        found.append(Reason("policy-clip", "the round does not clip updates"))
    return found


def _charged_as(kind: RoundKind) -> RoundKind:
    """Return the kind that owners know: an order to train ahead of a round is training."""
    return RoundKind.TRAIN if kind is RoundKind.PREPARE else kind


def _grows(manifest: RoundManifest, site: SiteFacts) -> bool:
    """Return whether the round's sums are those that a model grows by: they are training in other words."""
    return manifest.kind is RoundKind.STATISTICS and manifest.recipe.name in site.growing


def _allowing(manifest: RoundManifest, site: SiteFacts) -> frozenset[str]:
    """Return the kinds of a policy that allow this round; `standardise` is the statistics round of a training job."""
    if _grows(manifest, site):
        return frozenset({str(RoundKind.TRAIN)})
    kind = str(_charged_as(manifest.kind).value)
    training = kind == RoundKind.STATISTICS and manifest.recipe.name != STATISTICS
    return frozenset({kind, STANDARDISE} if training else {kind})


def _line(setting: str, value: str) -> str:
    """Return which line would allow what is refused; a generated policy has it as a comment."""
    return f": to allow it, uncomment or add the line `- {value}` under `{setting}` in policy.yaml"


def _too_small(size: int, wanted: int) -> str:
    return (
        f"sums over {size} sites may open, this site asks for {wanted}: "
        f"to allow it, put `min_cohort: {size}` into policy.yaml"
    )


def _statistics(rule: StatisticsRule, manifest: RoundManifest) -> list[Reason]:
    """Return what speaks against a round of a statistics job, beside what speaks against any round."""
    try:
        asked = asked_of(manifest.recipe.params)
    except MeasureInvalid as invalid:
        return [Reason("statistics-unreadable", invalid.detail)]
    found: list[Reason] = []
    if hidden := sorted(asked.reads - set(manifest.data.features)):
        found.append(Reason("manifest-columns", f"columns read but not declared: {', '.join(hidden)}"))
    refused = sorted(set(asked.job_measures) - rule.measures)
    if refused and EVERYTHING not in rule.measures:
        lines = ", ".join(f"`- {name}`" for name in refused)
        found.append(
            Reason(
                "policy-measures",
                f"measures not allowed here: {', '.join(refused)}: to allow them, uncomment or add {lines} "
                "under `measures` of `statistics` in policy.yaml",
            )
        )
    if asked.min_cell < rule.min_cell:
        found.append(
            Reason("policy-cell", f"counts of {asked.min_cell} would be shown, this site asks for {rule.min_cell}")
        )
    size = min(len(set(manifest.cohort)), manifest.min_cohort, asked.min_sites)
    if size < rule.min_cohort:
        found.append(Reason("policy-cohort", _too_small(size, rule.min_cohort)))
    if asked.length > rule.max_sums:
        found.append(Reason("policy-sums", f"{asked.length} sums in one round, this site allows {rule.max_sums}"))
    return found


def _growth(rule: StatisticsRule, manifest: RoundManifest) -> list[Reason]:
    """Return what speaks against sums that trees grow by: the rows behind what the model will tell."""
    try:
        asked = options_of(manifest.recipe.params)
    except TreesInvalid as invalid:
        return [Reason("statistics-unreadable", invalid.detail)]
    if asked.min_rows < rule.min_cell:
        said = f"leaves of {asked.min_rows} rows would be told, this site asks for {rule.min_cell}"
        return [Reason("policy-cell", f"{said}: submit the job with min_rows: {rule.min_cell} in its recipe's params")]
    return []


BODY_LOST: Final = "body-lost"
"""The aggregator's copy of the update was damaged after its receipt was given: the same bytes are sent again."""


class Earlier(StrEnum):
    """What became of a contribution that this site has made."""

    PENDING = "pending"
    ANSWERED = "answered"
    LATE = "late"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class EarlierAnswer:
    """An earlier contribution as the state remembers it."""

    state: Earlier
    manifest_digest: Digest
    epoch: int


class TaskAction(StrEnum):
    """What to do with a leased task."""

    TRAIN = "train"
    RESEND = "resend"
    CONFIRM = "confirm"


def next_step(
    manifest_digest: Digest,
    epoch: int,
    *,
    same_round: EarlierAnswer | None,
    same_place: EarlierAnswer | None,
    highest_epoch: int,
) -> TaskAction:
    """Decide by the crash rules; `same_place` is an answer to the same (job, kind, number, attempt).

    A round is only ever answered with one byte string. An epoch never goes back, and what was answered
    before a restore is not answered again after it.
    """
    if epoch < highest_epoch:
        raise TaskFailure("epoch-stale", f"epoch {epoch} after epoch {highest_epoch} was seen")
    if same_round is None:
        if same_place is not None and same_place.epoch < epoch:
            raise TaskFailure("round-answered", "this place in the job was answered before the platform was restored")
        return TaskAction.TRAIN
    if same_round.manifest_digest != manifest_digest:
        raise TaskFailure("round-answered", "this round was answered under another manifest")
    if same_round.state is Earlier.LOST:
        raise TaskFailure("bytes-lost", "this round's bytes are gone, and it is not answered twice")
    if same_round.state is Earlier.LATE:
        raise TaskFailure("round-closed", "this round closed before the bytes arrived")
    return TaskAction.RESEND if same_round.state is Earlier.PENDING else TaskAction.CONFIRM


@dataclass(frozen=True, slots=True)
class FailureReport:
    """What the coordinator is told of a failure."""

    code: str
    message: str
    trace: tuple[str, ...]


OWNERS_ALONE: Final = frozenset({"budget-exceeded", "ledger-damaged"})
"""Codes whose text is for the owner alone: it tells what this site's data cost in other jobs."""
TRACE_LINES = 8
MESSAGE_CHARS = 2000


def report(failure: TaskFailure, detail: Detail) -> FailureReport:
    """Cut a failure down to what the policy lets out.

    An exception's text can quote data ("could not convert 'Smith'"), so by default only the type and
    the places in the code leave; the whole text is in the site's own log.
    """
    if failure.code in OWNERS_ALONE:
        return FailureReport(failure.code, "", ())
    ours = not failure.where and not failure.text
    if detail is Detail.CODE:
        return FailureReport(failure.code, "", ())
    if detail is Detail.LOCATION or ours:
        return FailureReport(failure.code, failure.detail[:MESSAGE_CHARS], failure.where[-TRACE_LINES:])
    lines = tuple(line[:MESSAGE_CHARS] for line in failure.text.strip().splitlines()[-TRACE_LINES:])
    return FailureReport(failure.code, lines[-1] if lines else failure.detail[:MESSAGE_CHARS], lines)
