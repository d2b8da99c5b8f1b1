"""Jobs side by side."""

from datetime import datetime
from typing import Any

from pydantic import Field

from undersong.client import frames, plots
from undersong.client.showing import html_of
from undersong.client.types.base import Answer


class Curve(Answer):
    """Metrics of a job at each evaluation, oldest first, and what it had cost until then; all lists are as long."""

    rounds: list[int] = Field(default_factory=list)
    seconds: list[float] = Field(default_factory=list)
    update_bytes: list[int] | None = None
    metrics: dict[str, list[float | None]] = Field(default_factory=dict)


class ComparedJob(Answer):
    """One of the jobs of a comparison."""

    id: str
    name: str
    state: str
    kind: str = "train"
    engine: str = ""
    created_by: str | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float = 0.0
    trained: int = 0
    sites: float | None = None
    update_bytes: int | None = None
    epsilon: float | None = None
    delta: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    curve: Curve = Field(default_factory=Curve)


class SettingDifference(Answer):
    """A setting that is not the same in all compared jobs: its value in each, in their order."""

    path: str
    values: list[Any]


class JobComparison(Answer):
    """Up to eight jobs side by side: what differs in their settings, newest metrics, curves."""

    jobs: list[ComparedJob]
    settings: list[SettingDifference] = Field(default_factory=list)
    metrics: list[str] = Field(default_factory=list)

    def frame(self) -> Any:
        """Return a pandas data frame with a row for each evaluation of each job."""
        return frames.curves_frame(self)

    def plot(self, *metrics: str, over: str = "round") -> Any:
        """Draw metrics of all jobs over `round`, `seconds` or `update_bytes` (matplotlib's axes)."""
        return plots.curves(self, metrics, over)

    def _repr_html_(self) -> str:
        """Return the jobs with their newest metrics, for notebooks."""
        return html_of("Comparison", {job.name: {"state": job.state, **job.metrics} for job in self.jobs})
