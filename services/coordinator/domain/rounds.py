"""A round: one aggregation over one cohort.

``planned → keyed → collecting → published | failed(reason) | cancelled``. Between collecting and the end the
aggregator freezes, sums and publishes by its own machine. Every phase that is not an end has a deadline, and
`overdue` ends the round whatever anybody else does.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from undersong.shared.errors import Conflict
from undersong.shared.ids import JobId, RoundId, SiteId
from undersong.shared.wire.manifest import RoundKind

GRACE: Final = timedelta(seconds=30)
"""How long after its deadline a round may still be summed: one crash and restart of the aggregator."""

CHECK_EVERY: Final = timedelta(seconds=3)
"""How long a lost hint can delay a round."""


class Phase(StrEnum):
    """The state of a round at the coordinator."""

    PLANNED = "planned"
    KEYED = "keyed"
    COLLECTING = "collecting"
    PUBLISHED = "published"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({Phase.PUBLISHED, Phase.FAILED, Phase.CANCELLED})


class WrongPhase(Conflict):
    """The round is in another phase."""


@dataclass(frozen=True, slots=True)
class Round:
    """One aggregation. `outstanding` counts the tasks still waited for, `got` the sites that reported success."""

    id: RoundId
    job_id: JobId
    kind: RoundKind
    number: int
    attempt: int
    cohort: tuple[SiteId, ...]
    min_cohort: int
    target: int
    deadline: timedelta
    deadline_at: datetime
    next_check_at: datetime
    phase: Phase = Phase.PLANNED
    version: int = 1
    reason: str | None = None
    outstanding: int = 0
    got: int = 0
    closing: bool = False
    created_at: datetime | None = None
    opened_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether it is published, failed or cancelled."""
        return self.phase in ENDED

    def overdue(self, now: datetime) -> bool:
        """Return whether even the grace after the deadline is over."""
        return not self.ended and now >= self.deadline_at + GRACE

    def late(self, now: datetime) -> bool:
        """Return whether the deadline has passed."""
        return not self.ended and now >= self.deadline_at

    def keyed(self) -> "Round":
        """Return the aggregator made the round's key."""
        self._must_be(Phase.PLANNED)
        return replace(self, phase=Phase.KEYED)

    def opened(self, now: datetime) -> "Round":
        """Return the round with its tasks out; the deadline counts from here."""
        self._must_be(Phase.KEYED)
        return replace(
            self,
            phase=Phase.COLLECTING,
            outstanding=len(self.cohort),
            opened_at=now,
            deadline_at=now + self.deadline,
            next_check_at=now + CHECK_EVERY,
        )

    def checked(self, now: datetime) -> "Round":
        """Nothing new; look again later."""
        return replace(self, next_check_at=now + CHECK_EVERY)

    def waiting(self, change: int) -> "Round":
        """More or fewer tasks to wait for."""
        return replace(self, outstanding=max(0, min(len(self.cohort), self.outstanding + change)))

    def gained(self) -> "Round":
        """Return the round with one more site that has reported success; never more than the cohort."""
        return replace(self, got=min(len(self.cohort), self.got + 1))

    def close(self) -> "Round":
        """Nothing more is expected: the aggregator is told to make do with what it has."""
        self._must_be(Phase.COLLECTING)
        return replace(self, closing=True)

    def collect(self) -> "Round":
        """Sites are waited for again after all had answered."""
        self._must_be(Phase.COLLECTING)
        return replace(self, closing=False)

    @property
    def exhausted(self) -> bool:
        """Whether no site is waited for any more."""
        return self.phase is Phase.COLLECTING and self.outstanding == 0

    def published(self, now: datetime, counted: int) -> "Round":
        """Return the aggregator published the sum over `counted` sites."""
        if self.ended:
            raise WrongPhase(f"Round {self.id} is {self.phase}.")
        got = min(counted, len(self.cohort)) if counted > 0 else self.got
        return replace(self, phase=Phase.PUBLISHED, got=got, finished_at=now)

    def failed(self, reason: str, now: datetime) -> "Round":
        """Return the round as ended without a result."""
        if self.ended:
            raise WrongPhase(f"Round {self.id} is {self.phase}.")
        return replace(self, phase=Phase.FAILED, reason=reason, finished_at=now)

    def cancelled(self, reason: str, now: datetime) -> "Round":
        """Return the round cancelled for `reason`."""
        if self.ended:
            raise WrongPhase(f"Round {self.id} is {self.phase}.")
        return replace(self, phase=Phase.CANCELLED, reason=reason, finished_at=now)

    def _must_be(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise WrongPhase(f"Round {self.id} is {self.phase}, not {phase}.")
