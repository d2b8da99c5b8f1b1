"""Jobs, their rounds, and what happens to them."""

from datetime import datetime
from functools import partial
from typing import Any

from pydantic import Field

from undersong.client import frames, plots
from undersong.client.showing import html_of
from undersong.client.types.base import Answer
from undersong.client.types.privacy import JobPrivacy
from undersong.shared.statistics.results import Result

TERMINAL_JOB_STATES = frozenset({"succeeded", "failed", "cancelled"})
LAST_EVENTS = frozenset(f"job.{state}" for state in TERMINAL_JOB_STATES)
PROGRESS_EVENTS = frozenset({"job.created", "round.published", "round.failed", "job.waiting"})
ENDED_ROUND_PHASES = frozenset({"published", "failed", "cancelled"})


class Cause(Answer):
    """One distinct fault of the sites in a job's last attempt, and at how many sites it happened."""

    code: str
    sentence: str
    sites: int


class Exclusion(Answer):
    """A site that takes part in no later round of a job, and why."""

    site_id: str
    site_name: str | None = None
    round_id: str
    code: str
    message: str | None = None
    since: datetime | None = None


class Absence(Answer):
    """A site that cannot take part in a waiting job's rounds as it is now."""

    site_id: str
    site_name: str
    reason: str
    consent: str | None = None


class Job(Answer):
    """A training job; `absent` is told only of one job, and only while it waits."""

    id: str
    name: str
    federation_id: str
    state: str
    reason: str | None = None
    explanation: str | None = None
    last_failure: str | None = None
    causes: list[Cause] = Field(default_factory=list)
    excluded: list[Exclusion] = Field(default_factory=list)
    spec: dict[str, Any] = Field(default_factory=dict)
    unused: list[dict[str, str]] = Field(default_factory=list)
    model_id: str | None = None
    version_id: str | None = None
    warnings: list[dict[str, Any]] = Field(default_factory=list)
    progress: dict[str, Any] = Field(default_factory=dict)
    privacy: JobPrivacy | None = None
    cautions: list[str] = Field(default_factory=list)
    features: list[str] = Field(default_factory=list)
    label: str | None = None
    waiting_since: datetime | None = None
    absent: list[Absence] = Field(default_factory=list)
    created_by: str | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None

    def rounds_frame(self) -> Any:
        """Return a pandas data frame with a row for each round; of an asynchronous client, a coroutine of it."""
        return frames.asked(self._client, lambda client: client.rounds(self.id), frames.rounds_frame)

    def metrics_frame(self) -> Any:
        """Return a pandas data frame with a row for each evaluation; of an asynchronous client, a coroutine of it."""
        return frames.asked(self._client, lambda client: client.compare_jobs([self.id]), frames.curves_frame)

    def plot(self, *metrics: str, over: str = "round") -> Any:
        """Draw metrics of the evaluations (matplotlib's axes); of an asynchronous client, return a coroutine of them.

        over: `round`, `seconds` or `update_bytes`. Raises UndersongError for a metric that there is not.
        """
        draw = partial(plots.curves, metrics=metrics, over=over)
        return frames.asked(self._client, lambda client: client.compare_jobs([self.id]), draw)

    def _repr_html_(self) -> str:
        """Return how far the job is, for notebooks."""
        fields = {
            "why": self.explanation or self.reason or self.last_failure,
            "recipe": (self.spec.get("recipe") or {}).get("name"),
            "data set": (self.spec.get("data") or {}).get("dataset"),
            "engine": self.spec.get("engine"),
            "tags": self.spec.get("tags"),
            "newest version": self.version_id,
            "privacy": None if self.privacy is None else self.privacy.sentence,
            "id": self.id,
        }
        done, rounds = self.progress.get("trained"), self.progress.get("rounds")
        bar = (done, rounds) if isinstance(done, int) and isinstance(rounds, int) else None
        return html_of(self.name, fields, bar=bar, state=self.state)

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in TERMINAL_JOB_STATES

    @property
    def stalled(self) -> bool:
        """Whether the platform paused it because it cannot go on: `resume_job` continues it."""
        return self.state == "paused" and self.reason is not None


class Round(Answer):
    """One round of a job."""

    id: str
    job_id: str
    number: int
    kind: str
    phase: str
    attempt: int = 1
    clip_norm: float | None = None
    reason: str | None = None
    cohort: list[str] = Field(default_factory=list)
    got: int = 0
    created_at: datetime | None = None
    finished_at: datetime | None = None
    metrics: dict[str, Any] | None = None
    result: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.phase in ENDED_ROUND_PHASES


class Participation(Answer):
    """One site's part in a job, counted in tasks over all rounds and attempts."""

    site_id: str
    site_name: str | None = None
    asked: int = 0
    done: int = 0
    rejected: int = 0
    expired: int = 0
    dead: int = 0
    outstanding: int = 0
    receipts: int = 0
    answered_at: datetime | None = None
    faults: dict[str, int] = Field(default_factory=dict)
    code: str | None = None
    message: str | None = None
    round_id: str | None = None


class StatisticsResults(Answer):
    """What a statistics job has found so far, in the order of its queries; hidden numbers are None."""

    job_id: str
    state: str
    min_cell: int
    min_cohort: int
    rounds: int
    results: list[Result]


class Event(Answer):
    """One entry of a job's append-only history."""

    id: str
    type: str
    data: dict[str, Any] = Field(default_factory=dict)


class Validation(Answer):
    """What a valid job would do: which columns it would read, at which sites."""

    features: list[str] = Field(default_factory=list)
    label: str | None = None
    columns: list[dict[str, Any]] = Field(default_factory=list)
    unused: list[dict[str, str]] = Field(default_factory=list)
    sites: list[str] = Field(default_factory=list)
    privacy: JobPrivacy | None = None
    warnings: list[dict[str, Any]] = Field(default_factory=list)
