"""Sweeps, as told."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, JsonValue

from undersong.services.coordinator.domain.comparison import PublishedRound, metric_names, rises
from undersong.services.coordinator.domain.progress import JobState
from undersong.services.coordinator.domain.sweeps import Sweep, parameters, values
from undersong.services.coordinator.views import View
from undersong.shared.ids import JobId

WAITS = ("waiting", "running", "paused")


class SweepItemView(View):
    """A sweep in a list."""

    id: str = Field(examples=["swp_01m0dwh5mdaecm6yfk3d8y9c8v"])
    federation_id: str
    name: str = Field(description="Its jobs have the tag `sweep:` and this name.")
    created_by: str = Field(description="With whose roles the jobs are submitted.")
    created_at: datetime
    state: Literal["running", "ended", "cancelled"] = Field(description="ended: no job waits or runs.")
    parallel: int = Field(description="How many of its jobs run at a time.")
    states: dict[str, int] = Field(description="Jobs by state; those that wait for their turn are `waiting`.")


class SweepJobView(View):
    """One job of a sweep."""

    place: int
    values: list[JsonValue] = Field(description="What it has at each of the sweep's parameters; null: not changed.")
    state: str = Field(description="The job's, or waiting, refused, left_out (the sweep was cancelled before).")
    job_id: str | None
    reason: str | None = Field(description="Why it was refused when its turn came.")
    metrics: dict[str, float] = Field(description="Metrics of the newest evaluation.")


class SweepView(SweepItemView):
    """A sweep with its jobs."""

    document: dict[str, Any] = Field(description="The job document that is changed.")
    parameters: list[str] = Field(description="The paths that are varied.", examples=[["/recipe/params/lr"]])
    metrics: list[str] = Field(description="Every metric that a job has, the most usual first.")
    better_small: list[str] = Field(description="Metrics that are taken for better where they are smaller.")
    epsilon: float | None = Field(
        description="The sum of what its jobs may cost in privacy (basic composition); null where sums are exact."
    )
    delta: float | None
    jobs: list[SweepJobView]


class SweepPlanView(View):
    """What a sweep would be."""

    jobs: int
    parameters: list[str] = Field(description="The paths that are varied.")
    epsilon: float | None = Field(description="What all jobs may cost in privacy together; null where sums are exact.")
    delta: float | None
    sites: list[str] = Field(description="The sites that can take part in every job.")


def item_view(sweep: Sweep, states: Mapping[JobId, JobState]) -> SweepItemView:
    """As told in a list."""
    counts = Counter(sweep.state_of(child, states) for child in sweep.children)
    ended = not any(counts[each] for each in WAITS)
    return SweepItemView(
        id=sweep.id,
        federation_id=sweep.federation_id,
        name=sweep.name,
        created_by=sweep.created_by,
        created_at=sweep.created_at,
        state="cancelled" if sweep.cancelled_at is not None else "ended" if ended else "running",
        parallel=sweep.parallel,
        states=dict(counts),
    )


def sweep_view(sweep: Sweep, states: Mapping[JobId, JobState], rounds: Sequence[PublishedRound] = ()) -> SweepView:
    """As told."""
    newest: dict[JobId, Mapping[str, float]] = {}
    for each in sorted(rounds, key=lambda each: each.finished_at):
        if each.metrics:
            newest[each.job_id] = each.metrics
    paths = parameters([child.changes for child in sweep.children])
    jobs = [
        SweepJobView(
            place=child.place,
            values=values(child.changes, paths),
            state=sweep.state_of(child, states),
            job_id=child.job_id,
            reason=child.reason,
            metrics=dict(newest.get(child.job_id, {})) if child.job_id else {},
        )
        for child in sweep.children
    ]
    return SweepView(
        **item_view(sweep, states).model_dump(),
        document=dict(sweep.document),
        parameters=paths,
        metrics=(names := metric_names(each.metrics for each in jobs)),
        better_small=[name for name in names if not rises(name)],
        epsilon=None if sweep.cost is None else sweep.cost[0],
        delta=None if sweep.cost is None else sweep.cost[1],
        jobs=jobs,
    )
