"""Failed sign-ins by address, and sessions that were ended before their time."""

from datetime import datetime

from sqlalchemy import case, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from undersong.services.coordinator.tables import EndedSessionRow, SignInFailureRow
from undersong.shared.database import Transaction


class SignInRepository:
    """What the sign-in limiter stores, in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._session = tx.session
        bind = tx.session.get_bind()
        self._insert = sqlite.insert if bind.dialect.name == "sqlite" else postgresql.insert

    async def failures(self, address: str, now: datetime) -> tuple[int, datetime] | None:
        """Return how many in a row, and until when they count; None when none count any more."""
        row = await self._session.get(SignInFailureRow, address)
        return None if row is None or row.until <= now else (row.failures, row.until)

    async def add_failure(self, address: str, now: datetime, until: datetime) -> None:
        """Count one more; what no longer counted begins at one again. Counted in the database, so that none is lost."""
        fresh = self._insert(SignInFailureRow).values(address=address, failures=1, until=until)
        failures = case((SignInFailureRow.until > now, SignInFailureRow.failures + 1), else_=1)
        await self._session.execute(
            fresh.on_conflict_do_update(index_elements=["address"], set_={"failures": failures, "until": until})
        )

    async def clear(self, address: str) -> None:
        """Delete the failed attempts from this address."""
        await self._session.execute(delete(SignInFailureRow).where(SignInFailureRow.address == address))

    async def end(self, session_id: str, until: datetime) -> None:
        """No request with this session is believed any more; `until` is when it would have ended by itself."""
        await self._session.execute(
            self._insert(EndedSessionRow).values(id=session_id, until=until).on_conflict_do_nothing()
        )

    async def claim(self, flow_id: str, until: datetime) -> bool:
        """Return whether this is the first use of a single-use id; of several at once one is told so."""
        found = await self._session.execute(
            self._insert(EndedSessionRow)
            .values(id=flow_id, until=until)
            .on_conflict_do_nothing()
            .returning(EndedSessionRow.id)
        )
        return found.first() is not None

    async def ended(self, session_id: str) -> bool:
        """Return whether it was ended."""
        found = await self._session.scalar(select(EndedSessionRow.id).where(EndedSessionRow.id == session_id))
        return found is not None

    async def prune(self, now: datetime) -> None:
        """Forget what no longer counts."""
        await self._session.execute(delete(SignInFailureRow).where(SignInFailureRow.until <= now))
        await self._session.execute(delete(EndedSessionRow).where(EndedSessionRow.until <= now))
