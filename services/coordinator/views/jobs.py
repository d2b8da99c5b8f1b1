"""Jobs, as told: with their results, rounds and events."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, JsonValue

from undersong.services.coordinator.domain.causes import reason_sentence
from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.spec import AnySpec, StatisticsSpec
from undersong.services.coordinator.domain.statistics import rounds_of
from undersong.services.coordinator.domain.tasks import SiteTask
from undersong.services.coordinator.repository.jobs import JobEvent
from undersong.services.coordinator.repository.rounds import StoredRound
from undersong.services.coordinator.views import View
from undersong.services.coordinator.views.tasks import TaskView
from undersong.shared.errors import FieldError
from undersong.shared.learning.metrics import cautions_of
from undersong.shared.statistics.results import Result
from undersong.shared.wire.columns import Column, Unused
from undersong.shared.wire.privacy import PrivacyTerms


class FieldFinding(View):
    """Something about one field of the job document."""

    path: str = Field(examples=["/data/features/0"])
    message: str


class CauseView(View):
    """One distinct fault of the sites in the last attempt, and at how many sites it happened."""

    code: str = Field(examples=["recipe-error"])
    sentence: str
    sites: int


class ExclusionView(View):
    """A site that takes part in no later round of a job, because it broke the engine's protocol in one."""

    job_id: str
    round_id: str
    site_id: str
    site_name: str | None
    code: str = Field(examples=["dealer-at-fault"])
    message: str | None
    since: datetime | None


class AbsenceView(View):
    """A site that cannot take part in a job's rounds as it is now."""

    site_id: str
    site_name: str
    reason: str = Field(examples=["it cannot take work: its policy cannot be read"])
    consent: Literal["waiting", "denied"] | None = Field(
        default=None, description="Whether it waits for the consent of its owner, or was denied it."
    )


class JobProgressView(View):
    """How far a job has come; `scores` holds the metrics of each evaluation, oldest first.

    `rounds` is how many rounds are to be trained, or for a statistics job how many it takes at most; `asked` counts
    those that were answered.
    """

    statistics_done: bool
    trained: int
    rounds: int
    evaluated: int
    failures: int
    asked: int
    scores: list[dict[str, float]]


class JobView(View):
    """A job."""

    id: str = Field(examples=["job_01m0dwh5mdaecm6yfk3d8y9c8v"])
    federation_id: str
    name: str
    state: Literal["running", "paused", "succeeded", "failed", "cancelled"]
    reason: str | None
    explanation: str | None = Field(description="The reason as a sentence; of a paused job also what to do.")
    last_failure: str | None = Field(description="Why the last attempt at the present step failed, as a sentence.")
    causes: list[CauseView] = Field(description="What the sites said in that attempt, the most frequent first.")
    spec: AnySpec
    features: list[str]
    label: str | None
    columns: list[Column] = Field(description="Features and label as all sites agreed on them.")
    unused: list[Unused] = Field(description="The data set's other columns, and why the job does not read them.")
    recipe_digest: str
    sites: list[str] = Field(description="The sites that could take part when the job was submitted.")
    model_id: str | None
    version_id: str | None
    progress: JobProgressView
    round_id: str | None = Field(description="The round in flight.")
    waiting_since: datetime | None = Field(description="Since when too few sites are there for a round.")
    absent: list[AbsenceView] = Field(
        default=[],
        description="While a job waits, and only where one job is asked for: the sites that cannot take part, and why.",
    )
    excluded: list[ExclusionView] = Field(default=[], description="Sites without a part in the job's later rounds.")
    created_by: str
    created_at: datetime
    finished_at: datetime | None
    privacy: PrivacyTerms | None = Field(default=None, description="What noise bounds; without it sums are exact.")
    cautions: list[str] = Field(default=[], description="Why the newest metrics may say little.")
    warnings: list[FieldFinding] = Field(default=[], description="Told once, when the job is submitted.")


class ResultsView(View):
    """What a statistics job has found so far, in the order of its queries; all of it once the job has succeeded."""

    job_id: str
    state: Literal["running", "paused", "succeeded", "failed", "cancelled"]
    min_cell: int = Field(description="Counts below this, and answers from fewer rows, are not shown.")
    min_cohort: int = Field(description="Sums of fewer sites, and answers from fewer, are not shown.")
    rounds: int = Field(description="How many rounds were answered.")
    results: list[Result]


class JobVerdict(View):
    """What a job would do, had it been submitted."""

    valid: Literal[True] = True
    features: list[str]
    label: str | None
    columns: list[Column] = Field(description="Features and label as all sites agreed on them.")
    unused: list[Unused] = Field(description="The data set's other columns, and why the job does not read them.")
    recipe_digest: str
    weight_unit: int
    sites: list[str]
    privacy: PrivacyTerms | None = Field(default=None, description="What noise bounds; without it sums are exact.")
    warnings: list[FieldFinding]


class SiteFaultView(View):
    """What a site did against the engine's protocol in a round.

    `dealer-at-fault` and `wrong-share` are found; `shares-disputed` is what other sites say of it; it excludes no site.
    """

    site_id: str
    site_name: str | None
    code: str = Field(examples=["wrong-share"])
    message: str


class RoundView(View):
    """A round. `result` is the aggregator's, without the sums; `tasks` and `faults` come with a single round only."""

    id: str
    job_id: str
    kind: str
    number: int
    attempt: int
    phase: Literal["planned", "keyed", "collecting", "published", "failed", "cancelled"]
    reason: str | None
    engine: str
    cohort: list[str]
    min_cohort: int
    target: int
    got: int
    outstanding: int
    closing: bool
    manifest_digest: str
    clip_norm: float | None = Field(default=None, description="The limit of an update's L2 norm in this round.")
    model_version_id: str | None
    epoch: int
    result: dict[str, JsonValue] | None
    metrics: dict[str, float] | None
    deadline_at: datetime
    created_at: datetime | None
    opened_at: datetime | None
    finished_at: datetime | None
    tasks: list[TaskView] | None = None
    faults: list[SiteFaultView] | None = Field(default=None, description="Sites that broke the engine's protocol.")


class EventView(View):
    """One thing that happened to a job."""

    number: int
    type: str
    actor: str
    data: dict[str, JsonValue]
    created_at: datetime


def exclusion_view(task: SiteTask, site_name: str | None) -> ExclusionView:
    """As told."""
    return ExclusionView(
        job_id=task.job_id,
        round_id=task.round_id,
        site_id=task.site_id,
        site_name=site_name,
        code=task.code or "",
        message=task.message,
        since=task.finished_at,
    )


def job_view(
    job: Job,
    warnings: tuple[FieldError, ...] = (),
    excluded: Sequence[ExclusionView] = (),
    absent: Sequence[AbsenceView] = (),
) -> JobView:
    """As told."""
    done = job.progress
    return JobView(
        id=job.id,
        federation_id=job.federation_id,
        name=job.spec.name,
        state=job.state.value,
        reason=job.reason,
        explanation=job.explanation,
        last_failure=reason_sentence(job.last_failure) if job.last_failure else None,
        causes=[CauseView(code=c.code, sentence=c.sentence, sites=c.sites) for c in done.causes],
        spec=job.spec,
        features=list(job.resolved.features),
        label=job.resolved.label,
        columns=list(job.resolved.columns),
        unused=list(job.resolved.unused),
        recipe_digest=job.resolved.recipe.digest,
        sites=list(job.resolved.eligible),
        model_id=job.model_id,
        version_id=job.version_id,
        progress=JobProgressView(
            statistics_done=done.statistics_done,
            trained=done.trained,
            rounds=_rounds(job.spec),
            evaluated=done.evaluated if job.progress.trained else len(done.scores),
            failures=done.failures,
            asked=done.asked,
            scores=[dict(score) for score in done.scores],
        ),
        round_id=job.round_id,
        waiting_since=job.waiting_since,
        absent=list(absent),
        excluded=list(excluded),
        created_by=job.created_by,
        created_at=job.created_at,
        finished_at=job.finished_at,
        privacy=job.resolved.privacy,
        cautions=cautions_of(done.scores[-1]) if done.scores else [],
        warnings=findings(warnings),
    )


def _rounds(spec: AnySpec) -> int:
    if isinstance(spec, StatisticsSpec):
        return rounds_of(spec)
    return spec.rounds if spec.trains else 1


def results_view(job: Job, spec: StatisticsSpec) -> ResultsView:
    """As told."""
    return ResultsView.model_validate(
        {
            "job_id": job.id,
            "state": job.state.value,
            "min_cell": spec.min_cell,
            "min_cohort": spec.cohort.min,
            "rounds": job.progress.asked,
            "results": [dict(result) for result in job.results or ()],
        }
    )


def findings(errors: tuple[FieldError, ...]) -> list[FieldFinding]:
    """As told."""
    return [FieldFinding(path=error.path, message=error.message) for error in errors]


def site_fault_view(event: JobEvent, names: Mapping[str, str]) -> SiteFaultView:
    """As told by the event."""
    site_id, code, message = (str(event.data.get(name, "")) for name in ("site_id", "code", "message"))
    return SiteFaultView(site_id=site_id, site_name=names.get(site_id), code=code, message=message)


def round_view(
    record: StoredRound, tasks: list[TaskView] | None = None, faults: list[SiteFaultView] | None = None
) -> RoundView:
    """As told."""
    round_, manifest = record.round, record.manifest.manifest
    return RoundView(
        id=round_.id,
        job_id=round_.job_id,
        kind=str(round_.kind),
        number=round_.number,
        attempt=round_.attempt,
        phase=round_.phase.value,
        reason=round_.reason,
        engine=manifest.engine,
        cohort=list(round_.cohort),
        min_cohort=round_.min_cohort,
        target=round_.target,
        got=round_.got,
        outstanding=round_.outstanding,
        closing=round_.closing,
        manifest_digest=manifest.digest(),
        clip_norm=None if manifest.encoding is None else manifest.encoding.clip_norm,
        model_version_id=manifest.model.version_id if manifest.model else None,
        epoch=manifest.epoch,
        result=dict(record.result) if record.result is not None else None,
        metrics=dict(record.metrics) if record.metrics is not None else None,
        deadline_at=round_.deadline_at,
        created_at=round_.created_at,
        opened_at=round_.opened_at,
        finished_at=round_.finished_at,
        tasks=tasks,
        faults=faults,
    )


def event_view(event: JobEvent) -> EventView:
    """As told."""
    data: dict[str, Any] = dict(event.data)
    return EventView(number=event.number, type=event.type, actor=event.actor, data=data, created_at=event.created_at)
