"""SQL of the authority: its one sealed row, which also orders what it issues."""

from sqlalchemy import select

from undersong.services.keys.tables import AuthorityRow
from undersong.shared.database import Transaction


class AuthorityRepository:
    """The authority within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def authority(self) -> AuthorityRow | None:
        """Return the authority's sealed row, for `undersong.services.keys.authority` alone."""
        return await self._session.get(AuthorityRow, 1)

    async def add_authority(self, row: AuthorityRow) -> None:
        """Store a new authority unless another process has just done so."""
        names = ("id", "certificate_pem", "private_key", "token_key", "created_at")
        values = {name: getattr(row, name) for name in names}
        await self._session.execute(self._tx.insert(AuthorityRow).values(values).on_conflict_do_nothing())

    async def in_turn(self) -> None:
        """Wait for our turn: issuing, rotating and revoking happen one after the other, in the order of commits."""
        await self._session.execute(select(AuthorityRow.id).where(AuthorityRow.id == 1).with_for_update())
