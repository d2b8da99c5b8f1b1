"""The one set of a round: which sites' bodies are summed, and the witness's signature over it."""

from dataclasses import dataclass

from undersong.shared.errors import Forbidden
from undersong.shared.secagg import transcript
from undersong.shared.secagg.oneshot.messages import SetAsk, Witnessed
from undersong.shared.secagg.oneshot.terms import OneshotTerms, terms
from undersong.shared.secagg.strict import exact, packed, unpacked
from undersong.shared.secagg.transcript import nonce_commitment, tagged_hash
from undersong.shared.wire.manifest import RoundManifest


class SetRefused(Forbidden):
    """The witness does not sign this set."""


@dataclass(frozen=True, slots=True)
class WitnessedSet:
    """What stays of a round in its record."""

    asked: SetAsk
    witnessed: Witnessed

    def pack(self) -> bytes:
        """As bytes."""
        return packed({"set": self.asked.pack(), "witnessed": self.witnessed.pack()})

    @classmethod
    def unpack(cls, data: bytes) -> "WitnessedSet":
        """Strictly; raises MessageMalformed."""
        found = exact(unpacked(data, most=0), {"set": None, "witnessed": None})
        return cls(SetAsk.unpack(found["set"]), Witnessed.unpack(found["witnessed"]))


def nonce_opens(nonce: bytes, commitment: bytes) -> bool:
    """Return whether this is the nonce to which the manifest commits."""
    return nonce_commitment(nonce) == commitment


def set_statement(fixed: OneshotTerms, asked: SetAsk, nonce: bytes) -> bytes:
    """Return what the witness signs: the only set of this attempt, when all its bodies were stored."""
    return tagged_hash("oneshot-set", fixed.digest, asked.members, asked.root, nonce)


def statement_to_sign(manifest: RoundManifest, asked: SetAsk, nonce: bytes) -> bytes:
    """Return what a witness that chose this nonce signs; raises SetRefused."""
    fixed = terms(manifest)
    try:
        members = transcript.members(asked.members, len(manifest.cohort))
    except ValueError as error:
        raise SetRefused(str(error)) from error
    if len(members) < manifest.min_cohort:
        raise SetRefused(f"{len(members)} sites are fewer than the minimum cohort of {manifest.min_cohort}")
    if not nonce_opens(nonce, fixed.commitment):
        raise SetRefused("the manifest does not hold this witness's commitment")
    return set_statement(fixed, asked, nonce)
