"""The SQL of records: each is stored with its round's result, and is due until the keys service has it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import select, update

from undersong.services.aggregator.tables import RecordRow
from undersong.shared.database import Transaction
from undersong.shared.ids import RoundId

_FIRST_PAUSE_S: Final = 2.0


_LONGEST_PAUSE_S: Final = 600.0


class RecordRepository:
    """Records in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def prepare(self, round_id: RoundId, facts: Mapping[str, Any]) -> None:
        """Store the facts unless some are stored. Idempotent."""
        if await self._session.get(RecordRow, round_id) is None:
            self._session.add(RecordRow(round_id=round_id, facts=dict(facts), tries=0))
            await self._session.flush()

    async def complete(self, round_id: RoundId, result: Mapping[str, Any]) -> None:
        """Mark the round as published: its record may be submitted."""
        await self._set(round_id, result=dict(result), next_try_at=await self._tx.now())

    async def find(self, round_id: RoundId) -> RecordRow | None:
        """Return the row, if its record is to be submitted."""
        row = await self._session.get(RecordRow, round_id)
        return None if row is None or row.result is None or row.next_try_at is None else row

    async def due(self, limit: int = 100) -> list[RoundId]:
        """Return rounds whose record should be submitted by now."""
        query = select(RecordRow.round_id).where(RecordRow.next_try_at <= await self._tx.now())
        return [RoundId(one) for one in await self._session.scalars(query.order_by(RecordRow.next_try_at).limit(limit))]

    async def posted(self, round_id: RoundId) -> None:
        """Note that the keys service has it."""
        await self._set(round_id, posted_at=await self._tx.now(), next_try_at=None)

    async def refused(self, round_id: RoundId, why: str) -> None:
        """Keys will never take it."""
        await self._set(round_id, refused=why[:500], next_try_at=None)

    async def postpone(self, round_id: RoundId, tries: int) -> None:
        """Try again, later with every time."""
        pause = timedelta(seconds=min(_FIRST_PAUSE_S * 2 ** min(tries, 16), _LONGEST_PAUSE_S))
        await self._set(round_id, tries=tries + 1, next_try_at=await self._tx.now() + pause)

    async def _set(self, round_id: RoundId, **values: Any) -> None:
        query = update(RecordRow).where(RecordRow.round_id == round_id).values(**values)
        await self._session.execute(query, execution_options={"synchronize_session": False})
