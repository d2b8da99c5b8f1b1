"""Jobs that are submitted by the platform: schedules and sweeps."""

from datetime import datetime
from typing import Any

from pydantic import Field

from undersong.client import frames, plots
from undersong.client.types.base import Answer


class ScheduledTime(Answer):
    """What came of a schedule's last time: `outcome` is submitted, skipped or refused."""

    at: datetime
    outcome: str
    job_id: str | None = None
    reason: str | None = None


class Schedule(Answer):
    """A job document that is submitted again and again; `state` is active, paused or ended."""

    id: str
    federation_id: str
    name: str
    cron: str
    timezone: str = "UTC"
    words: str = ""
    overlap: bool = False
    document: dict[str, Any] = Field(default_factory=dict)
    created_by: str = ""
    created_at: datetime | None = None
    state: str = ""
    upcoming: list[datetime] = Field(default_factory=list)
    last: ScheduledTime | None = None


class SweepPlan(Answer):
    """What a sweep would be: how many jobs, what it varies, and what all may cost in privacy."""

    jobs: int
    parameters: list[str] = Field(default_factory=list)
    epsilon: float | None = None
    delta: float | None = None
    sites: list[str] = Field(default_factory=list)


class SweepItem(Answer):
    """A sweep in a list; `states` counts its jobs."""

    id: str
    federation_id: str
    name: str
    created_by: str = ""
    created_at: datetime | None = None
    state: str = ""
    parallel: int = 1
    states: dict[str, int] = Field(default_factory=dict)


class SweepJob(Answer):
    """One job of a sweep: what it varies, its state and its newest metrics."""

    place: int
    values: list[Any] = Field(default_factory=list)
    state: str = ""
    job_id: str | None = None
    reason: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class Sweep(SweepItem):
    """A sweep with its jobs."""

    document: dict[str, Any] = Field(default_factory=dict)
    parameters: list[str] = Field(default_factory=list)
    metrics: list[str] = Field(default_factory=list)
    better_small: list[str] = Field(default_factory=list)
    epsilon: float | None = None
    delta: float | None = None
    jobs: list[SweepJob] = Field(default_factory=list)

    def frame(self) -> Any:
        """Return a pandas data frame with a row for each job."""
        return frames.sweep_frame(self)

    def plot(self, parameter: str | None = None, metric: str | None = None) -> Any:
        """Draw a metric of each job over one parameter (matplotlib's axes); by default the first of each."""
        return plots.sweep(self, parameter, metric)
