"""SQL of the operators' tokens."""

from datetime import datetime

from sqlalchemy import select, update

from undersong.services.keys.tables import OperatorTokenRow
from undersong.shared.database import Transaction


class OperatorRepository:
    """Tokens of operators within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._session = tx.session

    async def operator(self, token_hash: str) -> str | None:
        """Return the id of a valid operator token."""
        query = select(OperatorTokenRow.id).where(
            OperatorTokenRow.token_hash == token_hash, OperatorTokenRow.revoked_at.is_(None)
        )
        return (await self._session.scalars(query)).one_or_none()

    async def add_operator(self, token_id: str, token_hash: str, now: datetime) -> None:
        """Store an operator token."""
        self._session.add(OperatorTokenRow(id=token_id, token_hash=token_hash, created_at=now))

    async def revoke_operators(self, now: datetime) -> None:
        """Revoke every operator token."""
        row = update(OperatorTokenRow).where(OperatorTokenRow.revoked_at.is_(None))
        await self._session.execute(row.values(revoked_at=now))
