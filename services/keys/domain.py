"""The rules of enrolment and rotation, pure: who gets a certificate, and why not."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from undersong.shared.errors import Conflict, Forbidden, Gone, Invalid, NotFound, TooMany, Unavailable
from undersong.shared.identity.authority import Subject
from undersong.shared.ids import Digest


class TokenUnknown(NotFound):
    """The enrolment token is not known."""


class TokenUsed(Conflict):
    """The enrolment token was used with another key."""


class TokenExpired(Gone):
    """The enrolment token has expired."""


class ApprovalPending(Unavailable):
    """The operator of the keys service has not approved this key yet."""


class InvitationUnknown(NotFound):
    """There is no such invitation."""


class InvitationsOff(Forbidden):
    """This keys service takes no invitations from the coordinator."""


class KeyNotWaiting(Conflict):
    """No key with this fingerprint waits for approval under the invitation."""


class ChallengeUnknown(NotFound):
    """The challenge is not known, has expired, or was made for another key."""


class ProofInvalid(Forbidden):
    """The proof does not show possession of the private key."""


class PublicKeyInvalid(Invalid):
    """The public key is not an Ed25519 key."""


class KeyInUse(Conflict):
    """This key already has a certificate for another party, or its certificate was revoked."""


class CertificateUnknown(NotFound):
    """No such certificate was issued."""


class NonceUnknown(NotFound):
    """This witness committed to no nonce for the round."""


class AlreadyWitnessed(Conflict):
    """This witness has signed something else for the same attempt at the round."""


class RoundVoided(Gone):
    """The round was begun before this witness was restored or changed its key; begin a new attempt."""


class ManifestUntrusted(Forbidden):
    """The manifest is not signed by a coordinator whose certificate is valid."""


class RecordUnknown(NotFound):
    """The log holds no record of this round."""


class RecordDiffers(Conflict):
    """The log holds another record of this round."""


class EntryUnknown(NotFound):
    """The log is not that long."""


class HeadOfAnother(Forbidden):
    """A site commits to the head of its own ledger only."""


class HeadsTooMany(TooMany):
    """A site has committed to too many heads of its ledger within an hour."""


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """A single-use right to a certificate for one subject. `used_by` is the public key that used it.

    With `invited_by` the coordinator asked for it, in a person's name: no certificate is issued before `approved_at`.
    """

    id: str
    subject: Subject
    expires_at: datetime
    used_by: bytes | None = None
    invited_by: str | None = None
    approved_at: datetime | None = None

    @property
    def needs_approval(self) -> bool:
        """Whether an operator must approve the key first."""
        return self.invited_by is not None and self.approved_at is None

    def pending(self, public_key: bytes) -> ApprovalPending:
        """Return what the site's agent is told while its key waits."""
        return ApprovalPending(
            f"the key {fingerprint_of(public_key)} waits for approval: the operator of the keys service compares it "
            f"and runs `undersong site approve {self.subject.name}`",
            retry_after_s=5,
        )

    def check(self, public_key: bytes, now: datetime) -> None:
        """Raise TokenUsed or TokenExpired; the key that used it may ask again at any time, because answers get lost."""
        if self.used_by is not None and self.used_by != public_key:
            raise TokenUsed(f"this enrolment token was used with another key; {self._remedy}")
        if self.used_by is None or self.needs_approval:
            self.check_life(now)

    def check_life(self, now: datetime) -> None:
        """Raise TokenExpired: no certificate is issued under it any more."""
        if now >= self.expires_at:
            raise TokenExpired(f"this enrolment token expired at {self.expires_at.isoformat()}; {self._remedy}")

    @property
    def _remedy(self) -> str:
        if self.invited_by is not None:
            return f"a later invitation ends it; ask for another one: undersong site invite {self.subject.name}"
        command = f": undersong site re-enroll {self.subject.name}" if self.subject.kind == "site" else ""
        return f"ask the operator for a new one{command}"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the coordinator asked a site's enrolment token for, and how far that went."""

    token: EnrolmentToken
    created_at: datetime
    asked_at: datetime | None

    def state(self, now: datetime) -> str:
        """Return one of invited, waiting (for approval), approved (or enrolled already), expired."""
        if self.token.approved_at is not None and self.token.used_by is not None:
            return "approved"
        if now >= self.token.expires_at:
            return "expired"
        return "invited" if self.token.used_by is None else "waiting"

    def check_approval(self, fingerprint: str, now: datetime) -> None:
        """Raise KeyNotWaiting unless the key with this fingerprint waits, or was approved before."""
        asked = self.token.used_by
        if asked is None or fingerprint_of(asked) != fingerprint:
            raise KeyNotWaiting("no key with this fingerprint waits: `undersong site invitations` lists those that do")
        if self.state(now) == "expired":
            raise KeyNotWaiting("the invitation expired: invite the site again")


@dataclass(frozen=True, slots=True)
class Challenge:
    """Random bytes that a new party must sign, so that a proof cannot be prepared or replayed."""

    id: str
    public_key: bytes
    challenge: bytes
    expires_at: datetime

    def check(self, public_key: bytes, now: datetime) -> None:
        """Check it; raises ChallengeUnknown."""
        if self.public_key != public_key or now >= self.expires_at:
            raise ChallengeUnknown("this challenge has expired or was made for another key; ask for a new one")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that this authority issued."""

    keyid: Digest
    subject: Subject
    public_key: bytes
    certificate_pem: str
    not_before: datetime
    not_after: datetime
    replaces: Digest | None = None
    revoked_at: datetime | None = None
    reason: str | None = None

    def check_same_party(self, subject: Subject) -> None:
        """Check it; raises KeyInUse unless asking again for this certificate is the same request."""
        if self.subject != subject or self.revoked_at is not None:
            raise KeyInUse("this key already has a certificate for another party, or a revoked one; make a new key")


@dataclass(frozen=True, slots=True)
class Revocation:
    """One entry of the revocation feed; `sequence` only grows."""

    sequence: int
    keyid: Digest
    revoked_at: datetime
    reason: str


def fingerprint_of(public_key: bytes) -> str:
    """Return the SHA-256 of a public key in hexadecimal, which people compare."""
    return hashlib.sha256(public_key).hexdigest()


def parse_public_key(raw: bytes) -> Ed25519PublicKey:
    """Return the key of 32 raw bytes; raises PublicKeyInvalid."""
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise PublicKeyInvalid("a public key is 32 bytes of Ed25519") from error


def check_proof(public_key: bytes, proof: bytes, data: bytes) -> None:
    """Check it; raises ProofInvalid unless `proof` is the key's signature of `data`."""
    try:
        parse_public_key(public_key).verify(proof, data)
    except InvalidSignature as error:
        raise ProofInvalid("the proof does not show possession of the private key") from error


def end_of_life(now: datetime, life: timedelta, authority_ends: datetime) -> datetime:
    """Return when a new certificate ends: after its life, and never after its authority."""
    return min(now.replace(microsecond=0) + life, authority_ends)


def with_descendants(keyid: Digest, replaced_by: Mapping[Digest, Iterable[Digest]]) -> list[Digest]:
    """Return the certificate and all that were rotated from it: who stole a key may have rotated it already."""
    found: list[Digest] = [keyid]
    for known in found:
        found.extend(child for child in replaced_by.get(known, ()) if child not in found)
    return found
