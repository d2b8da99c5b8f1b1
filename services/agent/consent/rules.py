"""The states of a request, from what owners signed and what was used of it. Pure.

``asked → approved → active → used up | expired``, and from each of them ``denied | revoked``. `need` of the owners'
keys must approve; one owner is enough to deny or revoke. What was decided later holds: numbers order decisions, not
clocks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from pydantic import Field

from undersong.shared.identity.owner import CONSENT_CONTEXT, KeySignature, OwnerKey, OwnerKeyText
from undersong.shared.wire.forms import Digestible, DigestText, Document, Name


class ConsentState(StrEnum):
    """What holds for a request."""

    ASKED = "asked"
    APPROVED = "approved"
    ACTIVE = "active"
    USED_UP = "used-up"
    EXPIRED = "expired"
    DENIED = "denied"
    REVOKED = "revoked"


GIVEN: Final = frozenset({ConsentState.APPROVED, ConsentState.ACTIVE})
"""Rounds are run."""
REFUSED: Final = frozenset({ConsentState.DENIED, ConsentState.REVOKED})
"""Rounds are refused; in the other states they wait."""


class Decision(Digestible):
    """What one owner decided on a request.

    number: larger than that of every decision before it on the request. runs: how many rounds of the job may be run in
    all. until_ms: until when, in milliseconds since 1970.
    """

    decision: Literal["approve", "deny", "revoke"]
    request: DigestText
    number: int = Field(ge=1, lt=2**53, strict=True)
    runs: int | None = Field(default=None, ge=1, lt=2**53, strict=True)
    until_ms: int | None = Field(default=None, ge=0, lt=2**53, strict=True)
    at_ms: int = Field(ge=0, lt=2**53, strict=True)
    key: OwnerKeyText
    note: Name | None = None


class SignedDecision(Document):
    """A decision with the signature of the key that it names."""

    document: Decision
    signature: KeySignature

    @classmethod
    def by(cls, key: OwnerKey, decision: Decision) -> SignedDecision:
        """Sign a decision of the holder of this key."""
        return cls(document=decision, signature=key.sign(CONSENT_CONTEXT, decision.digest()))

    def holds(self, request: str, keys: Collection[str]) -> bool:
        """Return whether one of these keys decided this on this request."""
        return (
            self.document.request == request
            and self.document.key == self.signature.key
            and self.document.key in keys
            and self.signature.holds(CONSENT_CONTEXT, self.document.digest())
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds for a request now: `approvals` of `need`, and how many of the approved `runs` were `used`."""

    state: ConsentState
    approvals: int
    need: int
    used: int
    runs: int | None = None
    until_ms: int | None = None
    number: int = 0  # of the last decision that holds

    @property
    def runs_left(self) -> int | None:
        """How many more rounds may be run; None while nothing is approved."""
        return None if self.runs is None else max(0, self.runs - self.used)


@dataclass(frozen=True, slots=True)
class Ended:
    """That the decisions up to `number` are over: nothing up to it approves any more."""

    number: int = 0
    state: ConsentState | None = None


def standing(
    request: str,
    decisions: Sequence[SignedDecision],
    *,
    keys: Collection[str],
    need: int,
    planned: int,
    used: int,
    ended: Ended,
    now_ms: int,
) -> Standing:
    """Return what holds for a request.

    `planned`: the job's rounds, which an approval without `runs` allows. `ended`: what is known from outside the
    database to be over.
    """
    valid = sorted(
        (each.document for each in decisions if each.holds(request, keys)),
        key=lambda each: (each.number, each.decision != "approve"),
    )
    approvals: dict[str, Decision] = {}
    over: ConsentState | None = ended.state
    for each in valid:
        if each.decision == "approve":
            if each.number > ended.number:
                approvals[each.key] = each
        else:
            approvals = {}
            over = ConsentState.DENIED if each.decision == "deny" else ConsentState.REVOKED
    number = valid[-1].number if valid else 0
    if len(approvals) < need:
        state = over if over is not None and not approvals else ConsentState.ASKED
        return Standing(state, len(approvals), need, used, number=number)
    runs = min(each.runs or planned for each in approvals.values())
    until = min((each.until_ms for each in approvals.values() if each.until_ms is not None), default=None)
    if until is not None and now_ms >= until:
        state = ConsentState.EXPIRED
    elif used >= runs:
        state = ConsentState.USED_UP
    else:
        state = ConsentState.ACTIVE if used else ConsentState.APPROVED
    return Standing(state, len(approvals), need, used, runs, until, number)
