"""The outbox tail: reads events from the outbox itself while Redis fails, so that hints stay optional.

While Redis answers it does nothing but one ping a second. While Redis is frozen, away or flapping it looks at the
outbox ten times a second and hands what is new to this process's notifier and consumers, who look at SQL anyway.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy import func, select

from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Unavailable
from undersong.shared.queues.consumer import Consumer
from undersong.shared.queues.events import Event
from undersong.shared.queues.notifier import Notifier
from undersong.shared.queues.streams import REDIS_FAULTS, Streams, heed_cancellation
from undersong.shared.telemetry.metrics import OUTBOX_TAILED

log = structlog.get_logger(__name__)

_PROBE_EVERY_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.1
_OVERLAP: Final = 200  # rows: transactions commit in another order than they take their row numbers in
_BATCH: Final = 1000
_LOOK_BACK: Final = timedelta(seconds=30)  # what is older was heard, or the sweepers have seen to it


class OutboxTail:
    """Follows the outbox of this process's service while Redis fails; every process that waits for hints runs one."""

    def __init__(
        self,
        database: Database,
        streams: Streams,
        *,
        notifier: Notifier | None = None,
        consumers: Sequence[Consumer] = (),
    ) -> None:
        self._database, self._streams, self._notifier = database, streams, notifier
        self._consumers = {consumer.topic: consumer for consumer in consumers}
        self._topics = sorted({*self._consumers, *(notifier.topics if notifier is not None else ())})
        self._floor: int | None = None
        self._seen: set[int] = set()

    async def run(self) -> None:
        """Probe Redis, and follow the outbox while it fails, until cancelled."""
        async with asyncio.TaskGroup() as handling:
            while True:
                heed_cancellation()
                if not self._streams.failing:
                    with suppress(*REDIS_FAULTS):
                        await self._streams.ping()
                if self._streams.failing:
                    await self._follow(handling)
                else:
                    await self._streams.wait_failing(_PROBE_EVERY_S)

    async def _follow(self, handling: asyncio.TaskGroup) -> None:
        log.warning("outbox.followed", topics=self._topics)
        self._floor = None  # Redis may have answered for days: what it announced meanwhile is not read again
        while self._streams.failing:
            heed_cancellation()
            try:
                events = await self._database.read("outbox.tail", self._new_events)
            except Unavailable:
                events = []
            for event in events:
                if self._notifier is not None:
                    self._notifier.notify_for(event)
                consumer = self._consumers.get(event.topic)
                if consumer is not None:
                    handling.create_task(consumer.take(event))
            OUTBOX_TAILED.inc(len(events))
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _new_events(self, tx: Transaction) -> list[Event]:
        """Return events that this tail has not handed on; the first look goes a little back."""
        outbox, since = self._database.common.outbox, await tx.now() - _LOOK_BACK
        if self._floor is None:
            last = await tx.session.scalar(select(func.max(outbox.c.id)).where(outbox.c.created_at <= since)) or 0
            self._floor = max(0, last - _OVERLAP)
        query = select(outbox).where(outbox.c.id > self._floor, outbox.c.topic.in_(self._topics))
        rows = (await tx.session.execute(query.order_by(outbox.c.id).limit(_BATCH))).all()
        new = [row for row in rows if row.id not in self._seen and row.created_at > since]
        self._seen.update(row.id for row in new)
        if rows:
            self._floor = max(self._floor, rows[-1].id - _OVERLAP)
            self._seen = {id_ for id_ in self._seen if id_ > self._floor}
        return [Event(row.event_id, row.topic, row.type, row.subject, row.trace) for row in new]
