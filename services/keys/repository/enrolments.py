"""SQL of enrolments: tokens that are used once, and challenges that a key answers."""

from datetime import datetime

from sqlalchemy import delete, select, update

from undersong.services.keys.domain import Challenge, ChallengeUnknown, EnrolmentToken, TokenUnknown
from undersong.services.keys.repository.subjects import party_of, subject_of
from undersong.services.keys.tables import ChallengeRow, EnrolmentTokenRow
from undersong.shared.database import Transaction


def token_of(row: EnrolmentTokenRow) -> EnrolmentToken:
    """Return the token of a row."""
    return EnrolmentToken(row.id, subject_of(row), row.expires_at, row.used_by, row.invited_by, row.approved_at)


class EnrolmentRepository:
    """Enrolment tokens and challenges within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def token(self, token_hash: str) -> EnrolmentToken:
        """Return the enrolment token, locked; raises TokenUnknown."""
        query = select(EnrolmentTokenRow).where(EnrolmentTokenRow.token_hash == token_hash).with_for_update()
        row = (await self._session.scalars(query)).one_or_none()
        if row is None:
            raise TokenUnknown("this enrolment token is not known")
        return token_of(row)

    async def add_token(self, token: EnrolmentToken, token_hash: str, now: datetime) -> bool:
        """Store a token; False when one with this hash is there already."""
        values = {
            "id": token.id,
            "token_hash": token_hash,
            "created_at": now,
            "expires_at": token.expires_at,
            "invited_by": token.invited_by,
            "approved_at": token.approved_at,
            **party_of(token.subject),
        }
        statement = self._tx.insert(EnrolmentTokenRow).values(values).on_conflict_do_nothing()
        return (await self._session.execute(statement.returning(EnrolmentTokenRow.id))).first() is not None

    async def use_token(self, token: EnrolmentToken, public_key: bytes, now: datetime) -> None:
        """Mark the token as used by this key."""
        row = update(EnrolmentTokenRow).where(EnrolmentTokenRow.id == token.id)
        await self._session.execute(row.values(used_at=now, used_by=public_key))

    async def add_challenge(self, challenge: Challenge) -> None:
        """Store a challenge."""
        self._session.add(
            ChallengeRow(
                id=challenge.id,
                public_key=challenge.public_key,
                challenge=challenge.challenge,
                expires_at=challenge.expires_at,
            )
        )

    async def take_challenge(self, challenge_id: str) -> Challenge:
        """Return the challenge, which cannot be taken again; raises ChallengeUnknown."""
        row = await self._session.get(ChallengeRow, challenge_id)
        if row is None:
            raise ChallengeUnknown("this challenge is not known or has expired; ask for a new one")
        await self._session.delete(row)
        return Challenge(row.id, row.public_key, row.challenge, row.expires_at)

    async def prune_challenges(self, now: datetime) -> None:
        """Forget expired challenges."""
        await self._session.execute(delete(ChallengeRow).where(ChallengeRow.expires_at < now))
