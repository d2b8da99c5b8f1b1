"""What a job does next: decided from what it has done, never from what it was doing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from shared.wire.manifest import RoundKind

MAX_ATTEMPTS_PER_STEP: Final = 3
"""A step that failed this often fails the job."""


class JobState(StrEnum):
    """Where a job stands. `paused` lets the round that is out finish and plans no other."""

    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB_ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Stop when `metric` has not improved during the last `patience` evaluations."""

    metric: str
    mode: Literal["min", "max"]
    patience: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job is to do; `evaluate_every` of 0 never evaluates."""

    rounds: int
    statistics: bool
    evaluate_every: int = 0
    early_stop: EarlyStop | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a job has done: its model, rounds trained, last evaluation, and failures of the step it is at.

    `asked` counts the rounds of a statistics job that were answered.
    `settled` counts the steps that nobody will be asked again: done ones, and ones whose sites had begun to open the
    sum when the round failed. It is the number that manifests carry, the same in every attempt at a step.
    """

    statistics_done: bool = False
    has_model: bool = False
    trained: int = 0
    evaluated: int = 0
    failures: int = 0
    settled: int = 0
    asked: int = 0
    scores: Sequence[Mapping[str, float]] = field(default=())


@dataclass(frozen=True, slots=True)
class Step:
    """The next round to plan."""

    kind: RoundKind
    number: int
    attempt: int

    @property
    def draw(self) -> str:
        """The step's name for cohort choice: another attempt may draw other sites."""
        return f"{self.kind}/{self.number}/{self.attempt}"

    @property
    def task(self) -> str:
        """The step's name for the recipe's seed, the same in every attempt."""
        return f"{self.kind}/{self.number}"


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is over."""

    state: JobState
    reason: str


def next_step(plan: Plan, progress: Progress, last_failure: str | None = None) -> Step | Finished:
    """The round to plan now, or the job's end."""
    if progress.failures >= MAX_ATTEMPTS_PER_STEP:
        return Finished(JobState.FAILED, last_failure or "round-failed")
    attempt = progress.failures + 1
    if plan.statistics and not progress.statistics_done:
        return Step(RoundKind.STATISTICS, 0, attempt)
    if not progress.has_model:
        return Step(RoundKind.INITIALISE, 0, attempt)
    if _evaluation_due(plan, progress):
        return Step(RoundKind.EVALUATE, progress.trained, attempt)
    if plan.early_stop is not None and should_stop(plan.early_stop, progress.scores):
        return Finished(JobState.SUCCEEDED, "early-stop")
    if progress.trained < plan.rounds:
        return Step(RoundKind.TRAIN, progress.trained + 1, attempt)
    return Finished(JobState.SUCCEEDED, "completed")


def next_question(progress: Progress, last_failure: str | None = None) -> Step | Finished:
    """The next round of a statistics job, or its end."""
    if progress.failures >= MAX_ATTEMPTS_PER_STEP:
        return Finished(JobState.FAILED, last_failure or "round-failed")
    if progress.statistics_done:
        return Finished(JobState.SUCCEEDED, "completed")
    return Step(RoundKind.STATISTICS, progress.asked, progress.failures + 1)


def should_stop(rule: EarlyStop, scores: Sequence[Mapping[str, float]]) -> bool:
    """Whether the best score is at least `patience` evaluations old; evaluations without the metric do not count."""
    values = [score[rule.metric] for score in scores if rule.metric in score]
    if len(values) <= rule.patience:
        return False
    best = min(values) if rule.mode == "min" else max(values)
    return len(values) - 1 - values.index(best) >= rule.patience


def _evaluation_due(plan: Plan, progress: Progress) -> bool:
    if plan.evaluate_every == 0 or progress.trained == 0 or progress.evaluated >= progress.trained:
        return False
    return progress.trained % plan.evaluate_every == 0 or progress.trained >= plan.rounds
