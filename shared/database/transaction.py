"""What the work inside one transaction may use."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from undersong.shared.clock import Clock, utc_now
from undersong.shared.database.common import CommonTables
from undersong.shared.database.fresh import EmittedEvent
from undersong.shared.database.types import UtcDateTime
from undersong.shared.ids import new_id
from undersong.shared.telemetry.traces import current_trace

log = structlog.get_logger(__name__)


def insert_for(dialect: str, table: Any) -> Any:
    """Run `Transaction.insert` for statements that are built once per dialect."""
    return (sqlite if dialect == "sqlite" else postgresql).insert(table)


class Transaction:
    """One open transaction: the session, the clock, the outbox, and what to do once it is committed."""

    def __init__(self, session: AsyncSession, common: CommonTables, clock: Clock | None) -> None:
        self.session = session
        self.common = common
        self.events: list[EmittedEvent] = []
        self.callbacks: list[Callable[[], object]] = []
        self._clock = clock
        self._now: datetime | None = None

    async def now(self) -> datetime:
        """Return the database's clock (aware UTC), read once per transaction; SQLite shares the clock of this
        machine.
        """
        if self._now is None:
            self._now = await self._read_clock()
        return self._now

    def insert(self, table: Any) -> Any:
        """Return an insert that can skip or settle conflicts (`on_conflict_…`), in the database's own dialect."""
        return insert_for(self.dialect, table)

    @property
    def dialect(self) -> str:
        """The database's kind, as SQLAlchemy names it."""
        return self.session.get_bind().dialect.name

    async def emit(self, topic: str, type: str, subject: str) -> None:  # noqa: A002  (the word of the outbox)
        """Write an event into the outbox of this transaction; it carries the current trace and no payload."""
        event = EmittedEvent(new_id("evt"), topic, type, subject, current_trace())
        row = {
            "event_id": event.id,
            "topic": topic,
            "type": type,
            "subject": subject,
            "trace": event.trace,
            "created_at": await self.now(),
        }
        await self.session.execute(self.common.into_outbox, row)
        self.events.append(event)

    async def unsent(self) -> tuple[int, datetime | None]:
        """Return the number of events not yet announced, and since when the oldest waits."""
        outbox = self.common.outbox
        query = select(func.count(), func.min(outbox.c.created_at)).where(outbox.c.sent_at.is_(None))
        count, oldest = (await self.session.execute(query)).one()
        return count, oldest

    def after_commit(self, callback: Callable[[], object]) -> None:
        """Call this once the transaction is committed; never called when it is rolled back or run again."""
        self.callbacks.append(callback)

    async def _read_clock(self) -> datetime:
        if self._clock is not None:
            return self._clock()
        if self.dialect == "sqlite":
            return utc_now()
        now = await self.session.scalar(select(func.clock_timestamp(type_=UtcDateTime())))
        return now if now is not None else utc_now()

    def finish(self) -> None:
        """Run what waits for the commit; an error there cannot undo it, so it is only logged."""
        for callback in self.callbacks:
            try:
                callback()
            except Exception:
                log.exception("transaction.callback_failed")
