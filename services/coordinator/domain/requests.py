"""What a job's manifests tell the owners of sites: who asks, why, and what is planned. Pure."""

from collections.abc import Iterator

from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.recipes import standardises
from undersong.services.coordinator.domain.spec import JobSpec, StatisticsSpec
from undersong.services.coordinator.domain.statistics import rounds_of
from undersong.shared.wire.manifest import JobRequest, PlannedRounds, RoundKind


def job_request(job: Job, clip_norm: float | None) -> JobRequest:
    """Return what sites' owners are asked to consent to; `clip_norm` is that of all rounds of training, if it is one.

    It is the same in every round: what it says is what owners sign.
    """
    group = [job.resolved.group.name] if job.resolved.group is not None else []
    columns = (*(column.name for column in job.resolved.columns), *group)
    label = [job.resolved.label] if job.resolved.label is not None else []
    return JobRequest(
        name=job.spec.name,
        requester=job.created_by,
        reason=job.spec.reason,
        planned=tuple(_planned(job, clip_norm)),
        columns=tuple(sorted({*columns, *job.resolved.features, *label})),
    )


def _planned(job: Job, clip_norm: float | None) -> Iterator[PlannedRounds]:
    spec = job.spec
    if isinstance(spec, StatisticsSpec):
        yield PlannedRounds(kind=RoundKind.STATISTICS, rounds=rounds_of(spec), privacy=job.resolved.privacy)
        return
    if job.growth is not None:
        yield PlannedRounds(kind=RoundKind.STATISTICS, rounds=job.growth.options.most_rounds(spec.rounds))
        if spec.evaluation.every:
            yield PlannedRounds(kind=RoundKind.EVALUATE, rounds=1)
        return
    if spec.trains and standardises(job.resolved.recipe, spec.recipe.params):
        yield PlannedRounds(kind=RoundKind.STATISTICS, rounds=1)
    if spec.trains:
        yield PlannedRounds(kind=RoundKind.TRAIN, rounds=spec.rounds, clip_norm=clip_norm, privacy=job.resolved.privacy)
    if evaluations := _evaluations(spec):
        yield PlannedRounds(kind=RoundKind.EVALUATE, rounds=evaluations)


def _evaluations(spec: JobSpec) -> int:
    """Return how often the model is evaluated at most: every so many rounds, and after the last."""
    if not spec.trains:
        return 1
    every = spec.evaluation.every
    return -(-spec.rounds // every) if every else 0
