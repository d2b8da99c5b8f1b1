"""The coordinator's answers as what the pages show. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from undersong.services.coordinator.dashboard.views import (
    CauseItem,
    ComparisonItem,
    DatasetItem,
    DeadTask,
    ExclusionItem,
    FaultItem,
    JobItem,
    Measure,
    OperationsPage,
    PartItem,
    PublishedVersion,
    RoundItem,
    SiteItem,
    StepItem,
    TaskItem,
    TaskMove,
)
from undersong.services.coordinator.domain.spec import AnySpec, StatisticsSpec
from undersong.services.coordinator.job_timelines import ANSWER_EVENTS
from undersong.services.coordinator.operations import Depth, Record
from undersong.services.coordinator.repository.jobs import JobEvent
from undersong.services.coordinator.views.jobs import JobView, RoundView
from undersong.services.coordinator.views.members import ComparisonView, SiteView
from undersong.services.coordinator.views.participation import ParticipationView
from undersong.services.coordinator.views.tasks import DeadTaskView, TaskView
from undersong.shared.secagg.engine import SHARES_DISPUTED
from undersong.shared.wire.privacy import terms_sentence

VERSION_KINDS = frozenset({"initialise", "train"})  # the rounds that publish a model version


_GROUPS: Final = TypeAdapter(dict[str, dict[str, float] | None])
_SITES: Final = TypeAdapter(dict[str, dict[str, float]])
_SPREAD: Final = TypeAdapter(dict[str, dict[str, float | str]])
_STALENESS: Final = TypeAdapter(dict[str, int])
_STEPS: Final = TypeAdapter(list[StepItem])
_CURVES: Final = TypeAdapter(dict[str, list[list[float]]])


def job(found: JobView) -> JobItem:
    """Return a job."""
    spec = found.spec
    asks = isinstance(spec, StatisticsSpec)
    model_name, recipe, strategy = _words(spec)
    return JobItem(
        id=found.id,
        name=found.name,
        federation_id=found.federation_id,
        state=found.state,
        reason=found.reason,
        explanation=found.explanation,
        model_name=model_name,
        recipe=recipe,
        dataset=spec.data.dataset,
        strategy=strategy,
        engine=spec.engine,
        rounds_done=_done(found),
        # How many rounds a statistics job takes depends on what it finds, until it has found it.
        rounds_total=found.progress.asked if asks and found.state == "succeeded" else found.progress.rounds,
        kind=spec.kind,
        created_at=found.created_at,
        ended_at=found.finished_at,
        version_id=found.version_id,
        waiting_since=found.waiting_since,
        awaits=tuple(site.site_name for site in found.absent if site.consent == "waiting"),
        spec=spec.model_dump(mode="json"),
        last_failure=found.last_failure,
        excluded=tuple(
            ExclusionItem(each.site_name or each.site_id, each.round_id, each.code, each.message or "")
            for each in found.excluded
        ),
        causes=tuple(CauseItem(cause.code, cause.sentence, cause.sites) for cause in found.causes),
        features=tuple(found.features),
        label=found.label,
        cautions=tuple(found.cautions),
        tags=spec.tags,
        owner=found.created_by,
        unused=tuple((column.name, column.reason) for column in found.unused),
        privacy=terms_sentence(found.privacy.model_dump()) if found.privacy is not None else "",
    )


def _done(found: JobView) -> int:
    if isinstance(found.spec, StatisticsSpec):
        return found.progress.asked
    return found.progress.trained if found.spec.trains else found.progress.evaluated


def _words(spec: AnySpec) -> tuple[str, str, str]:
    """Return the names of model, recipe and strategy; for a statistics job what it asks, in place of the recipe."""
    if isinstance(spec, StatisticsSpec):
        return "", ", ".join(dict.fromkeys(query.query for query in spec.queries)), ""
    weighted = "equally" if spec.strategy.weighting == "equal" else "by examples"
    return spec.model.name, spec.recipe.name, f"{spec.strategy.name}, weighted {weighted}"


def round_(found: RoundView, last_answer: datetime | None = None) -> RoundItem:
    """Return a round; `last_answer` is when the last site had answered, where the tasks do not come with the round."""
    began = found.created_at or found.deadline_at
    tasks = tuple(task(item) for item in found.tasks or ())
    answers = [item.finished_at for item in found.tasks or () if item.finished_at is not None]
    if len(answers) == len(found.cohort):
        last_answer = max(answers)
    times = [("prepare", began)]
    if found.opened_at is not None:
        times.append(("collect", found.opened_at))
        if last_answer is not None and (found.outstanding == 0 or found.finished_at is not None):
            last_answer = max(last_answer, found.opened_at)
            times.append(("sum", min(last_answer, found.finished_at) if found.finished_at else last_answer))
    return RoundItem(
        id=found.id,
        job_id=found.job_id,
        number=found.number,
        attempt=found.attempt,
        kind=found.kind,
        state=found.phase,
        reason=found.reason,
        engine=found.engine,
        got=found.got,
        min_cohort=found.min_cohort,
        target=found.target,
        created_at=began,
        deadline=found.deadline_at,
        ended_at=found.finished_at,
        phase_times=tuple(times),
        version_id=_version_of(found),
        manifest_digest=found.manifest_digest,
        model_version=found.model_version_id,
        epoch=found.epoch,
        clip_norm=found.clip_norm,
        within=_within(found),
        clipped=_clipped(found),
        staleness=tuple(sorted(_STALENESS.validate_python((found.result or {}).get("staleness") or {}).values())),
        steps=tuple(_STEPS.validate_python((found.result or {}).get("steps") or [])),
        tasks=tasks,
        cohort=tuple(found.cohort),
        faults=tuple(
            FaultItem(item.site_name or item.site_id, item.code, item.message, item.code == SHARES_DISPUTED)
            for item in found.faults or ()
        ),
    )


def _clipped(found: RoundView) -> int | None:
    """Return how many updates were clipped to the round's limit; None where that is not told."""
    clipped = (found.result or {}).get("clipped")
    return clipped if type(clipped) is int else None


def _within(found: RoundView) -> float | None:
    """Return the noisy share of updates within the round's clip norm; None where it does not move."""
    clipping = (found.result or {}).get("clipping")
    within = clipping.get("within") if isinstance(clipping, dict) else None
    return float(within) if isinstance(within, int | float) else None


def recent(
    rounds: Sequence[RoundView], events: Sequence[JobEvent], count: int
) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return for each site its newest rounds, at most `count`: the round's name, and how the site's task ended."""
    ended = {(move.round_id, move.site_id): move.state for move in moves(events)}
    found: dict[str, list[tuple[str, str]]] = {}
    for each in rounds:
        for site in each.cohort:
            state = ended.get((each.id, site), "expired" if each.finished_at is not None else "open")
            found.setdefault(site, []).append((f"{each.kind} {each.number}", state))
    return {site: tuple(told[-count:]) for site, told in found.items()}


def part(found: ParticipationView, recent: tuple[tuple[str, str], ...] = ()) -> PartItem:
    """Return one site's part in a job."""
    return PartItem(
        site_name=found.site_name or found.site_id,
        asked=found.asked,
        answered=found.done,
        missed=found.expired + found.dead,
        refused=found.rejected,
        outstanding=found.outstanding,
        faults=tuple(sorted(found.faults.items())),
        answered_at=found.answered_at,
        trained=found.trained,
        code=found.code,
        message=found.message,
        round_id=found.round_id,
        recent=recent,
    )


def task(found: TaskView) -> TaskItem:
    """Return one site's part."""
    return TaskItem(
        site_id=found.site_id,
        site_name=found.site_name or found.site_id,
        state=found.state,
        phase=found.phase or "",
        progress=found.progress,
        attempts=found.attempt,
        seen_at=found.updated_at if found.attempt else None,
        code=found.code,
        message=found.message,
        trace=tuple(found.trace),
    )


def comparison(found: ComparisonView) -> ComparisonItem:
    """Return a data set over its sites."""
    faults = [fault for column in found.columns for fault in column.faults]
    faults += [f"the column {c.name!r} is missing at {', '.join(c.missing)}" for c in found.columns if c.missing]
    if len(set(found.labels.values())) > 1:
        labels = ", ".join(f"{label or 'none'} at {site}" for site, label in found.labels.items())
        faults.append(f"the sites declare different labels: {labels}")
    notes = [note for column in found.columns for note in column.notes]
    return ComparisonItem(found.dataset, tuple(found.sites), tuple(faults), tuple(notes), tuple(found.absent.items()))


def site(found: SiteView) -> SiteItem:
    """Return a site with the profile that its agent told."""
    profile = found.profile
    hardware = profile.hardware if profile else None
    sets = profile.datasets if profile else ()
    return SiteItem(
        id=found.id,
        name=found.name,
        owner=found.owner,
        federation_id=found.federation_id,
        suspended=found.state == "suspended",
        online=found.online,
        seen_at=found.last_seen_at,
        agent_version=profile.agent_version if profile else None,
        runner=str(profile.runner) if profile else None,
        datasets=tuple(DatasetItem(item.name, item.kind, item.rows, len(item.columns), item.label) for item in sets),
        recipes=tuple(f"{item.name} {item.version}" for item in profile.recipes) if profile else (),
        cpus=hardware.cpus if hardware else None,
        memory_bytes=hardware.memory_bytes if hardware else None,
        gpus=hardware.gpus if hardware else (),
        alarms=tuple(f"{item.kind}: {item.detail}" for item in profile.alarms) if profile else (),
        faults=tuple(f"{item.code}: {item.sentence}" for item in profile.faults) if profile else (),
    )


def newest_measure(rounds: Sequence[RoundView]) -> Measure | None:
    """Return the metrics of the newest round that has some."""
    return next((_measure(item, item.metrics) for item in reversed(rounds) if item.metrics), None)


def _measure(item: RoundView, metrics: Mapping[str, float]) -> Measure:
    told = item.result or {}
    return Measure(
        item.number,
        metrics,
        _groups(item),
        _CURVES.validate_python(told.get("curves") or {}),
        _SITES.validate_python(told.get("sites") or {}),
        _SPREAD.validate_python(told.get("spread") or {}),
    )


def _groups(item: RoundView) -> Mapping[str, Mapping[str, float] | None]:
    """Return a round's metrics by group, None for a group of few rows; nothing where there are no groups."""
    return _GROUPS.validate_python((item.result or {}).get("groups") or {})


def releases(of_job: JobView, rounds: Sequence[RoundView]) -> list[PublishedVersion]:
    """Return the versions that the job's rounds published, with the metrics that were measured for each."""
    if isinstance(of_job.spec, StatisticsSpec):
        return []
    measured = {item.number: item.metrics for item in rounds if item.metrics}
    found = []
    for item in rounds:
        version_id = _version_of(item)
        if version_id is None or item.finished_at is None:
            continue
        metrics = measured.get(item.number, {}) if item.kind == "train" else {}
        found.append(
            PublishedVersion(
                version_id=version_id,
                model_name=of_job.spec.model.name,
                job_id=of_job.id,
                job_name=of_job.name,
                round_id=item.id,
                round_number=item.number,
                contributors=item.got,
                published_at=item.finished_at,
                metrics=metrics or {},
            )
        )
    return found


def operations(depth: Depth, record: Record, dead: Sequence[DeadTaskView], *, may_act: bool) -> OperationsPage:
    """Return the operators' page."""
    return OperationsPage(
        outbox=depth.outbox,
        outbox_age_s=depth.outbox_age_s,
        open_rounds=depth.open_rounds,
        overdue_s=depth.overdue_s,
        open_tasks=depth.open_tasks,
        leased_tasks=depth.leased_tasks,
        sites_recent=depth.sites_recent,
        sites_silent=depth.sites_silent,
        database_bytes=depth.database_bytes,
        redis=depth.redis,
        epoch=depth.epoch,
        published=record.published,
        failed=record.failed,
        cancelled=record.cancelled,
        typical_s=record.typical_s,
        slow_s=record.slow_s,
        late_share=record.late_share,
        dead=tuple(
            DeadTask(
                id=item.id,
                job_id=item.job_id,
                round_id=item.round_id,
                site_name=item.site_name or item.site_id,
                kind=item.kind,
                attempts=item.attempt,
                code=item.code,
                message=item.message,
                given_up_at=item.finished_at,
                requeueable=item.requeueable,
            )
            for item in dead
        ),
        may_act=may_act,
    )


def moves(events: Sequence[JobEvent]) -> tuple[TaskMove, ...]:
    """Return the moves of tasks among a job's events."""
    return tuple(_move(event) for event in events if event.type.startswith("task."))


def _move(event: JobEvent) -> TaskMove:
    code, message = event.data.get("code"), event.data.get("message")
    return TaskMove(
        round_id=str(event.data.get("round_id")),
        site_id=str(event.data.get("site_id")),
        state=str(event.data.get("state")),
        at=event.created_at,
        attempt=int(event.data.get("attempt") or 0),
        code=None if code is None else str(code),
        message=None if message is None else str(message),
    )


def last_answers(events: Sequence[JobEvent]) -> dict[str, datetime]:
    """Round id to the moment of the last answer of a site."""
    return {str(event.data["round_id"]): event.created_at for event in events if event.type in ANSWER_EVENTS}


def _version_of(found: RoundView) -> str | None:
    version_id = (found.result or {}).get("version_id") if found.kind in VERSION_KINDS else None
    return version_id if isinstance(version_id, str) else None
