"""Enrolment: an operator's token, a challenge, a proof of possession, a certificate."""

import base64
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from undersong.services.keys.authority import Authority
from undersong.services.keys.domain import (
    ApprovalPending,
    Challenge,
    EnrolmentToken,
    Issued,
    check_proof,
    parse_public_key,
)
from undersong.services.keys.issuing import issue, revoke_earlier
from undersong.services.keys.repository.authority import AuthorityRepository
from undersong.services.keys.repository.certificates import CertificateRepository
from undersong.services.keys.repository.enrolments import EnrolmentRepository
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Conflict
from undersong.shared.identity.authority import Subject
from undersong.shared.identity.enrol import enrolment_proof_data
from undersong.shared.ids import new_id
from undersong.shared.web.access import token_hash

TOKEN_PREFIX: Final = "use_"  # noqa: S105  (what tokens begin with, so that scanners and our logs know them)
_CHALLENGE_BYTES: Final = 32


class TokenRequestDiffers(Conflict):
    """This Idempotency-Key made an enrolment token for something else."""


def fresh_token(authority: Authority, principal: str, key: str | None) -> str:
    """Return a new token in clear; with an idempotency key the same for the same request."""
    secret = secrets.token_bytes(32) if key is None else authority.derived_secret(principal, key)
    return TOKEN_PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token in clear: shown once, stored hashed."""

    token_id: str
    token: str
    expires_at: datetime


class Enrolments:
    """The use cases, one transaction each."""

    def __init__(self, database: Database, authority: Authority, life: timedelta, challenge_s: int) -> None:
        self._database, self._authority = database, authority
        self._life, self.challenge_s = life, challenge_s

    async def create_token(
        self, subject: Subject, expires_in: timedelta, *, principal: str = "", key: str | None = None
    ) -> NewToken:
        """Return a single-use token for this subject.

        With an idempotency key the token is derived from it, so that asking again gives the same token although only
        its hash is stored. Raises TokenRequestDiffers.
        """
        token = fresh_token(self._authority, principal, key)

        async def work(tx: Transaction) -> NewToken:
            repository, now = EnrolmentRepository(tx), await tx.now()
            fresh = EnrolmentToken(new_id("tok"), subject, now.replace(microsecond=0) + expires_in)
            if await repository.add_token(fresh, token_hash(token), now):
                return NewToken(fresh.id, token, fresh.expires_at)
            known = await repository.token(token_hash(token))
            if known.subject != subject:
                raise TokenRequestDiffers("this Idempotency-Key made an enrolment token for another party")
            return NewToken(known.id, token, known.expires_at)

        return await self._database.run("enrolment.token", work)

    async def challenge(self, public_key: bytes) -> Challenge:
        """Random bytes for the holder of this key to sign; raises PublicKeyInvalid."""
        parse_public_key(public_key)

        async def work(tx: Transaction) -> Challenge:
            expires_at = await tx.now() + timedelta(seconds=self.challenge_s)
            fresh = Challenge(new_id("chl"), public_key, secrets.token_bytes(_CHALLENGE_BYTES), expires_at)
            await EnrolmentRepository(tx).add_challenge(fresh)
            return fresh

        return await self._database.run("enrolment.challenge", work)

    async def enrol(self, token: str, challenge_id: str, public_key: bytes, proof: bytes) -> tuple[Issued, bool]:
        """Return the certificate, and whether it is new.

        The same token and key give the same certificate however often they are sent. Under an invitation the first
        key that asks is the one that may be approved; its certificate ends the site's earlier ones.
        Raises TokenUnknown, TokenUsed, TokenExpired, ChallengeUnknown, ProofInvalid, KeyInUse or ApprovalPending.
        """

        async def work(tx: Transaction) -> tuple[Issued, bool] | ApprovalPending:
            repository, now = EnrolmentRepository(tx), await tx.now()
            await AuthorityRepository(tx).in_turn()
            right = await repository.token(token_hash(token))
            right.check(public_key, now)
            challenge = await repository.take_challenge(challenge_id)
            challenge.check(public_key, now)
            check_proof(public_key, proof, enrolment_proof_data(challenge.challenge, token, public_key))
            known = await CertificateRepository(tx).certificate_of_key(public_key)
            if known is not None:
                known.check_same_party(right.subject)
            if right.used_by is None:
                await repository.use_token(right, public_key, now)
            if known is not None:
                return known, False
            right.check_life(now)  # also of a key that was approved and has not asked since
            if right.needs_approval:
                return right.pending(public_key)  # what was noted so far stays: the key that asked
            if right.invited_by is not None:
                await revoke_earlier(tx, right.subject, "enrolled again")
            return await issue(tx, self._authority.ca, public_key, right.subject, self._life), True

        done = await self._database.run("enrolment.enrol", work)
        if isinstance(done, ApprovalPending):
            raise done
        return done

    async def prune_challenges(self) -> int:
        """Forget expired challenges; a job for the sweeper."""

        async def work(tx: Transaction) -> None:
            await EnrolmentRepository(tx).prune_challenges(await tx.now())

        await self._database.run("enrolment.prune", work)
        return 0  # housekeeping is no repair
