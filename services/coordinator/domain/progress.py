"""What a job does next: decided from what it has done, never from what it was doing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Final, Literal

from undersong.services.coordinator.domain.causes import Cause
from undersong.shared.ids import SiteId
from undersong.shared.wire.manifest import RoundKind

MAX_ATTEMPTS_PER_STEP: Final = 10
"""A step that failed this often since the job was started or resumed pauses the job: some six minutes of rests."""

_FIRST_REST: Final = timedelta(seconds=2)
_LONGEST_REST: Final = timedelta(minutes=2)


DIVERGED: Final = "diverged"
DIVERGED_TIMES: Final = 1000.0
"""A loss so many times that of the first round is no setback of training any more."""
_LEAST_LOSS: Final = 1e-3  # updates say their loss in thousandths,
_MOST_LOSS: Final = 1e6  # and this is about the largest that they can say


class JobState(StrEnum):
    """The state of a job. `paused` lets the round in flight finish and plans no other."""

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
    """What a job is to do; `evaluate_every` of 0 never evaluates, and a job without `rounds` does so once.

    grows: no round trains: rounds of sums lead to the model, which is made and evaluated when they are done.
    """

    rounds: int
    statistics: bool
    evaluate_every: int = 0
    early_stop: EarlyStop | None = None
    grows: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What a job has done: its model, rounds trained, last evaluation, and failures of the step it is at.

    `excused` are the failures before a person last resumed the job. `causes` say why the last attempt failed, and
    `unable` are the sites that would fail again at this step in the same way, with the code; both end with the step.
    `asked` counts the rounds of a statistics job, or of sums that a model grows by, that were answered. `clip_norm` is
    that of the next round of training where rounds have moved it.
    `settled` counts the steps that no site will be asked again: done ones, and ones whose sites had begun to open the
    sum when the round failed. It is the number that manifests carry, the same in every attempt at a step.
    `beside` are those of them that trained nothing. `first_loss` is the first round's loss, where it is opened;
    `diverged`: a later one was beyond all measure, and its version is not gone on with.
    """

    statistics_done: bool = False
    has_model: bool = False
    trained: int = 0
    evaluated: int = 0
    failures: int = 0
    settled: int = 0
    asked: int = 0
    scores: Sequence[Mapping[str, float]] = field(default=())
    excused: int = 0
    causes: tuple[Cause, ...] = ()
    unable: Mapping[SiteId, str] = field(default_factory=dict)
    clip_norm: float | None = None
    beside: int = 0
    first_loss: float | None = None
    diverged: bool = False

    def lost(self, loss: float | None) -> "Progress":
        """Take in the loss of a round of training; None where it is not opened."""
        if loss is None:
            return self
        if self.first_loss is None:
            return replace(self, first_loss=loss)
        limit = max(min(DIVERGED_TIMES * max(self.first_loss, _LEAST_LOSS), _MOST_LOSS), self.first_loss)
        return replace(self, diverged=loss > limit)

    def settle(self, kind: RoundKind) -> "Progress":
        """Return the progress after the step, which no site will be asked again; its failures are forgotten."""
        return replace(self.leave(kind), failures=0, excused=0, causes=(), unable={})

    def leave(self, kind: RoundKind) -> "Progress":
        """Return the progress under the next number, as no site will be asked under this one again."""
        beside = self.beside + int(kind is not RoundKind.TRAIN)
        return replace(self, settled=self.settled + 1, beside=beside)

    @property
    def row(self) -> int:
        """The row of correlated noise that the next sum of updates gets, from 1: no opened sum has had it."""
        return self.settled - self.beside + 1

    @property
    def tries(self) -> int:
        """How many attempts at the step have failed since the job was started or resumed."""
        return self.failures - self.excused

    @property
    def rest(self) -> timedelta:
        """How long to wait before the next attempt: not at all after the first failure, then twice as long each time.

        >>> [Progress(failures=n).rest.total_seconds() for n in (1, 2, 3, 9)]
        [0.0, 2.0, 4.0, 120.0]
        """
        if self.tries < 2:
            return timedelta()
        return min(_LONGEST_REST, _FIRST_REST * (1 << (self.tries - 2)))


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


@dataclass(frozen=True, slots=True)
class Stalled:
    """The job cannot go on by itself: it pauses until a person resumes it."""

    reason: str


def next_step(plan: Plan, progress: Progress, last_failure: str | None = None) -> Step | Finished | Stalled:
    """Return the round to plan now, or the job's end or pause."""
    # Attempts are numbered over all tries, also those before a pause: an attempt's number is never used twice, because
    # sites answer a (kind, number, attempt) once.
    if progress.diverged:
        return Finished(JobState.FAILED, DIVERGED)
    if progress.tries >= MAX_ATTEMPTS_PER_STEP:
        return Stalled(last_failure or "round-failed")
    attempt = progress.failures + 1
    if (plan.statistics or plan.grows) and not progress.statistics_done:
        return Step(RoundKind.STATISTICS, progress.asked, attempt)
    if not progress.has_model:
        return Step(RoundKind.INITIALISE, 0, attempt)
    if _evaluation_due(plan, progress):
        return Step(RoundKind.EVALUATE, progress.trained, attempt)
    if plan.early_stop is not None and should_stop(plan.early_stop, progress.scores):
        return Finished(JobState.SUCCEEDED, "early-stop")
    if progress.trained < plan.rounds:
        return Step(RoundKind.TRAIN, progress.trained + 1, attempt)
    return Finished(JobState.SUCCEEDED, "completed")


def next_question(progress: Progress, last_failure: str | None = None) -> Step | Finished | Stalled:
    """Return the next round of a statistics job, or its end or pause."""
    # Attempts are numbered over all tries, also those before a pause: an attempt's number is never used twice, because
    # sites answer a (kind, number, attempt) once.
    if progress.tries >= MAX_ATTEMPTS_PER_STEP:
        return Stalled(last_failure or "round-failed")
    if progress.statistics_done:
        return Finished(JobState.SUCCEEDED, "completed")
    return Step(RoundKind.STATISTICS, progress.asked, progress.failures + 1)


def should_stop(rule: EarlyStop, scores: Sequence[Mapping[str, float]]) -> bool:
    """Return whether the best score is at least `patience` evaluations old; evaluations without the metric do not
    count.
    """
    values = [score[rule.metric] for score in scores if rule.metric in score]
    if len(values) <= rule.patience:
        return False
    best = min(values) if rule.mode == "min" else max(values)
    return len(values) - 1 - values.index(best) >= rule.patience


def _evaluation_due(plan: Plan, progress: Progress) -> bool:
    if plan.rounds == 0:
        return not progress.scores
    if plan.evaluate_every == 0 or progress.trained == 0 or progress.evaluated >= progress.trained:
        return False
    return progress.trained % plan.evaluate_every == 0 or progress.trained >= plan.rounds
