"""What a round may do next: pure rules over frozen values; the time is an argument.

Phases: collecting -> frozen -> aggregating -> checked -> published, or failed(reason), or cancelled; from frozen back
to collecting where a stored update turns out to be damaged before its sum is begun. Every phase that
is not terminal ends by a deadline: `deadline` while collecting, `finish_by` afterwards.

An engine of several steps has a step beside the phase: those up to the upload pass while the round is collecting,
those after it while it is frozen; `OPENED` follows the last. Each step ends by its own deadline.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from undersong.services.aggregator.domain.refusals import (
    FormUndecided,
    RoundClosed,
    StepNotOpen,
    UpdateDiffers,
    UpdateRejected,
)
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.secagg.engine import UPLOAD

BODY_LOST: Final = "body-lost"
"""The code of an update whose stored bytes were damaged or lost: not the site's fault, and it may send them again."""


class Phase(StrEnum):
    """The state of a round."""

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
SUMMING_PHASES: Final = (Phase.COLLECTING, Phase.FROZEN, Phase.AGGREGATING)
"""Phases in which updates are folded, before the sum is opened."""


class Reason(StrEnum):
    """Why a round failed."""

    QUORUM = "quorum"
    TIME_OUT = "aggregation-timed-out"
    UNFIT_SUM = "sum-out-of-range"
    UNDECIDED = "form-undecided"
    UNFIT_MODEL = "model-mismatch"
    UNFIT_STRATEGY = "strategy-refused"
    NOT_FINITE = "model-not-finite"
    REGISTRY_REFUSED = "registry-refused"
    GAVE_UP = "aggregation-failed"
    NOT_ENOUGH = "not-enough-shares"
    DEALER_AT_FAULT = "dealer-at-fault"
    ABORTED = "round-aborted"
    STEP_UNUSABLE = "step-unusable"
    WITNESS_REFUSED = "witness-refused"
    UPDATE_LOST = "update-lost"
    HELPER_AWAY = "helper-unreachable"
    HELPER_REFUSED = "helper-refused"
    CUSTODIANS_AWAY = "custodians-unreachable"
    CUSTODIAN_REFUSED = "custodian-refused"
    ROW_TAKEN = "noise-row-taken"


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
    step: str | None = None
    step_missing: int = 0
    step_deadline: datetime | None = None

    @property
    def tracks_steps(self) -> bool:
        """Whether the aggregator records its steps and closes each."""
        return self.step is not None


@dataclass(frozen=True, slots=True)
class Move:
    """A transition that is due."""

    phase: Phase
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """What all updates of a round have in common: how many words, and of an evaluation the layout."""

    length: int
    layout: str | None = None


def settled_form(forms: Sequence[Form], cohort_size: int, *, complete: bool) -> Form | None:
    """Return the form of a round whose manifest names none; None while it is open.

    It is the one that more than half of the cohort sent, or, once no site is left (`complete`), the one that most
    sent. Which site came first makes no difference. Raises FormUndecided when two forms were sent equally often.
    """
    most = Counter(forms).most_common(2)
    if most and 2 * most[0][1] > cohort_size:
        return most[0][0]
    if not complete or not most:
        return None
    if len(most) > 1 and most[0][1] == most[1][1]:
        one, other = most[0][0].length, most[1][0].length
        raise FormUndecided(f"{most[0][1]} sites each sent updates of {one} and {other} words")
    return most[0][0]


@dataclass(frozen=True, slots=True)
class Known:
    """What a site has given to the round before."""

    digest: Digest
    rejected_for: str | None

    def lost(self, digest: Digest) -> bool:
        """Return whether this site may send the same bytes again, because ours were damaged after its receipt was
        given.
        """
        return self.rejected_for == BODY_LOST and self.digest == digest


def answered(round_: Round) -> bool:
    """Return whether waiting longer brings nothing: enough updates, or no site left to send one."""
    if round_.tracks_steps:
        return round_.step == UPLOAD and round_.step_missing <= 0
    return round_.got >= round_.target or round_.got + round_.rejected >= round_.cohort_size


def due(round_: Round, now: datetime, *, closing: bool = False) -> Move | None:
    """Return the transition that the guards demand now; `closing`: the coordinator expects no more answers."""
    if round_.phase.over:
        return None
    if round_.phase is Phase.COLLECTING:
        if not (closing or answered(round_) or now >= round_.deadline):
            return None
        if round_.step not in (None, UPLOAD):
            return Move(Phase.FAILED, Reason.QUORUM)
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
    if round_.step not in (None, UPLOAD):
        raise StepNotOpen(f"the round is at step {round_.step}")


def may_send_again(round_: Round, now: datetime) -> bool:
    """Return whether a site whose stored update was damaged can still send it: then a frozen round collects again.

    Not once it was fixed for other parties which updates are summed; the caller looks at that.
    """
    return round_.phase in (Phase.COLLECTING, Phase.FROZEN) and now < round_.deadline


def repeated(known: Known, digest: Digest, site_id: SiteId) -> None:
    """Judge a site's second submission: return for the same bytes, raise for other ones or for rejected ones."""
    if known.digest != digest:
        raise UpdateDiffers(f"{site_id} has sent the update {known.digest[:16]}… for this round; the first one counts")
    if known.rejected_for is not None:
        raise UpdateRejected(f"the update was rejected: {known.rejected_for}")


def check_sum(round_: Round) -> None:
    """Nothing is opened over fewer sites than the manifest demands, whatever brought the round here."""
    if round_.got < round_.min_cohort:
        raise ValueError(f"round {round_.id}: {round_.got} of {round_.min_cohort} sites; the sum stays closed")
