"""What a round may do next: pure rules over frozen values; the time is an argument.

Phases: collecting -> frozen -> aggregating -> checked -> published, or failed(reason), or cancelled. Every phase that
is not terminal ends by a deadline: `deadline` while collecting, `finish_by` afterwards.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from shared.errors import Conflict, Forbidden, Gone, Invalid, NotFound
from shared.ids import Digest, RoundId, SiteId


class Phase(StrEnum):
    """Where a round stands."""

    COLLECTING = "collecting"
    FROZEN = "frozen"
    AGGREGATING = "aggregating"
    CHECKED = "checked"
    PUBLISHED = "published"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing can change any more."""
        return self in _TERMINAL


_TERMINAL: Final = frozenset({Phase.PUBLISHED, Phase.FAILED, Phase.CANCELLED})
OPEN_PHASES: Final = tuple(phase for phase in Phase if phase not in _TERMINAL)


class Reason(StrEnum):
    """Why a round failed."""

    QUORUM = "quorum"
    TIME_OUT = "aggregation-timed-out"
    UNFIT_SUM = "sum-out-of-range"
    UNFIT_MODEL = "model-mismatch"
    UNFIT_STRATEGY = "strategy-refused"
    NOT_FINITE = "model-not-finite"
    REGISTRY_REFUSED = "registry-refused"
    GAVE_UP = "aggregation-failed"


class RoundUnknown(NotFound):
    """There is no such round."""


class RoundClosed(Gone):
    """The round takes no more updates."""


class RoundDiffers(Conflict):
    """The round was opened with another manifest."""


class RoundOver(Conflict):
    """The round has ended and cannot be changed."""


class NotInCohort(Forbidden):
    """The site was not asked to take part in this round."""


class UpdateDiffers(Conflict):
    """The site has sent another update for this round before."""


class UpdateRejected(Invalid):
    """The update was accepted but could not be used, and does not count."""


class WrongLength(Invalid):
    """The update's length is not that of the round's model or of the first update."""


class ManifestUntrusted(Forbidden):
    """The manifest is not signed by the coordinator."""


@dataclass(frozen=True, slots=True)
class Round:
    """What the rules need to know of a round."""

    id: RoundId
    phase: Phase
    got: int
    rejected: int
    cohort_size: int
    min_cohort: int
    target: int
    deadline: datetime
    finish_by: datetime


@dataclass(frozen=True, slots=True)
class Move:
    """A transition that is due."""

    phase: Phase
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What a site has given to the round before."""

    digest: Digest
    rejected_for: str | None


def answered(round_: Round) -> bool:
    """Whether waiting longer brings nothing: enough updates, or nobody left to send one."""
    return round_.got >= round_.target or round_.got + round_.rejected >= round_.cohort_size


def due(round_: Round, now: datetime, *, closing: bool = False) -> Move | None:
    """The transition that the guards demand now; `closing` when the coordinator says that nobody else will answer."""
    if round_.phase.over:
        return None
    if round_.phase is Phase.COLLECTING:
        if not (closing or answered(round_) or now >= round_.deadline):
            return None
        return Move(Phase.FROZEN) if round_.got >= round_.min_cohort else Move(Phase.FAILED, Reason.QUORUM)
    if round_.phase is not Phase.CHECKED and round_.got < round_.min_cohort:
        return Move(Phase.FAILED, Reason.QUORUM)
    return Move(Phase.FAILED, Reason.TIME_OUT) if now >= round_.finish_by else None


def admit(round_: Round, now: datetime) -> None:
    """Raise `RoundClosed` unless the round takes updates now."""
    if round_.phase is not Phase.COLLECTING:
        raise RoundClosed(f"the round is {round_.phase}")
    if now >= round_.deadline:
        raise RoundClosed("the round's deadline has passed")


def repeated(known: Known, digest: Digest, site_id: SiteId) -> None:
    """Judge a site's second submission: return for the same bytes, raise for other ones or for rejected ones."""
    if known.digest != digest:
        raise UpdateDiffers(f"{site_id} has sent the update {known.digest[:16]}… for this round; it stands")
    if known.rejected_for is not None:
        raise UpdateRejected(f"the update was rejected: {known.rejected_for}")


def check_sum(round_: Round) -> None:
    """Nothing is opened over fewer sites than the manifest demands, whatever brought the round here."""
    if round_.got < round_.min_cohort:
        raise ValueError(f"round {round_.id}: {round_.got} of {round_.min_cohort} sites; the sum stays closed")
