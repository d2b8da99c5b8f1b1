"""Several jobs side by side, as told."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from undersong.services.coordinator.domain.comparison import LearningCurve, PublishedRound, SettingDifference
from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.views import View


class CurveView(View):
    """Metrics of a job at each evaluation, oldest first; all lists have the same length."""

    rounds: list[int] = Field(description="The number of the round that evaluated.")
    seconds: list[float] = Field(description="Seconds since the job was submitted.")
    update_bytes: list[int] | None = Field(
        description="Bytes of all updates summed until then, before the engine's encryption and proofs; null where "
        "nothing was trained."
    )
    metrics: dict[str, list[float | None]] = Field(description="Each metric's values; null where it was not told.")


class ComparedJob(View):
    """One of the jobs that are compared."""

    id: str
    name: str
    federation_id: str
    kind: Literal["train", "evaluate", "statistics"]
    state: Literal["running", "paused", "succeeded", "failed", "cancelled"]
    engine: str
    created_by: str
    created_at: datetime
    finished_at: datetime | None
    seconds: float = Field(description="From submission to the end, or until now.")
    trained: int = Field(description="Rounds of training that were published.")
    sites: float | None = Field(description="Mean number of sites in those rounds; null where there is none.")
    update_bytes: int | None = Field(description="Bytes of the updates summed in them, before the engine's encryption.")
    epsilon: float | None = Field(description="What the whole job may cost in privacy; null where sums are exact.")
    delta: float | None
    metrics: dict[str, float] = Field(description="Metrics of the newest evaluation.")
    curve: CurveView


class SettingView(View):
    """A setting that is not the same in all jobs."""

    path: str = Field(examples=["/recipe/params/epochs"])
    values: list[JsonValue] = Field(description="One for each job, in their order; null where a job has none.")


class JobComparisonView(View):
    """Up to eight jobs side by side."""

    jobs: list[ComparedJob]
    settings: list[SettingView] = Field(description="The settings that differ, in the order of the job document.")
    metrics: list[str] = Field(description="Every metric that has a curve, the most usual first.")


def compared_job(
    job: Job, rounds: Sequence[PublishedRound], curve: LearningCurve, bytes_of_update: int | None, now: datetime
) -> ComparedJob:
    """As told."""
    trained = [each.got for each in rounds if each.trains]
    terms = job.resolved.privacy
    newest = max((each for each in rounds if each.metrics), key=lambda each: each.finished_at, default=None)
    return ComparedJob(
        id=job.id,
        name=job.spec.name,
        federation_id=job.federation_id,
        kind=job.spec.kind,
        state=job.state.value,
        engine=job.spec.engine,
        created_by=job.created_by,
        created_at=job.created_at,
        finished_at=job.finished_at,
        seconds=round(((job.finished_at or now) - job.created_at).total_seconds(), 3),
        trained=len(trained),
        sites=round(sum(trained) / len(trained), 2) if trained else None,
        update_bytes=None if bytes_of_update is None else bytes_of_update * sum(trained),
        epsilon=None if terms is None else terms.epsilon,
        delta=None if terms is None else terms.delta,
        metrics=dict(newest.metrics or {}) if newest is not None else {},
        curve=CurveView(
            rounds=list(curve.rounds),
            seconds=list(curve.seconds),
            update_bytes=None if curve.update_bytes is None else list(curve.update_bytes),
            metrics={name: list(values) for name, values in curve.metrics.items()},
        ),
    )


def setting_view(found: SettingDifference) -> SettingView:
    """As told."""
    return SettingView(path=found.path, values=list(found.values))
