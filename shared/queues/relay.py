"""The relay: from the outbox, where events are safe, to Redis, where they are heard."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog
from sqlalchemy import delete, func, select, update

from undersong.shared.clock import monotonic
from undersong.shared.database import Database, Transaction
from undersong.shared.faults import point
from undersong.shared.queues.events import Event
from undersong.shared.queues.notifier import Notifier
from undersong.shared.queues.streams import REDIS_FAULTS, Streams, heed_cancellation
from undersong.shared.telemetry.metrics import OUTBOX_OLDEST_SECONDS, OUTBOX_UNSENT, REDIS_MEMORY_RATIO

log = structlog.get_logger(__name__)

_POLL_S = 1.0
_LONGEST_POLL_S = 5.0
_LINGER_S = 0.2  # many events are marked in one statement; one that is marked late may be announced twice
_ANNOUNCE_AT_MOST_S = 1.0
_BATCH = 100
_TIDY_EVERY_S = 60.0
_KEEP_SENT = timedelta(days=1)


class Relay:
    """Announces what this process has just committed at once, and every second what any process has left behind.

    At least once: an event may be announced again after a crash, and consumers look at SQL anyway. With Redis away it
    wakes the waiters of this process only and keeps trying. Every process that commits events runs one.
    """

    def __init__(self, database: Database, streams: Streams, *, notifier: Notifier | None = None) -> None:
        self._database = database
        self._streams = streams
        self._notifier = notifier
        self._outbox = database.common.outbox
        self._unmarked: list[str] = []
        self._tidy_at = 0.0

    async def run(self) -> None:
        """Relay until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._announce_fresh())
            group.create_task(self._announce_leftovers())

    async def _announce_fresh(self) -> None:
        fresh = self._database.committed
        while True:
            heed_cancellation()
            await fresh.wait()
            events = fresh.take()
            if self._notifier is not None:
                for event in events:
                    self._notifier.notify_for(event)
            if self._streams.failing:  # the outbox keeps them: listeners read it, and the sweep announces them later
                continue
            try:
                point("relay.announcing")
                async with asyncio.timeout(_ANNOUNCE_AT_MOST_S):
                    await self._streams.notify_all(events)
            except REDIS_FAULTS as error:  # TimeoutError is an OSError
                self._streams.note_failure("announce", error)
                log.warning("relay.redis_away", error=type(error).__name__)
                continue
            point("relay.announced")
            self._unmarked.extend(event.id for event in events)

    async def _announce_leftovers(self) -> None:
        """Mark announced events outside the announcing path, and announce older unmarked ones."""
        pause_s = _POLL_S
        poll_at = monotonic()
        while True:
            heed_cancellation()
            try:
                await self._mark()
                if monotonic() >= poll_at:
                    await self.sweep()
                    await self._tidy()
                    poll_at, pause_s = monotonic() + _POLL_S, _POLL_S
            except REDIS_FAULTS as error:
                self._streams.note_failure("relay", error)
                log.warning("relay.redis_away", error=type(error).__name__)
                pause_s = min(pause_s * 2, _LONGEST_POLL_S)
                poll_at = monotonic() + pause_s
            except Exception:
                log.exception("relay.failed")
                poll_at = monotonic() + _LONGEST_POLL_S
            await asyncio.sleep(_LINGER_S if self._unmarked else min(max(poll_at - monotonic(), 0.0), _LINGER_S))

    async def _mark(self) -> None:
        marking, self._unmarked = self._unmarked, []
        if not marking:
            return

        async def mark(tx: Transaction) -> None:
            await self._mark_sent(tx, marking)

        await self._database.run("outbox.mark", mark)

    async def sweep(self) -> int:
        """Announce up to 100 events that are unsent for longer than a second and return how many."""
        if not await self._database.read("outbox.look", self._any_left) or self._streams.failing:
            return 0
        await self._streams.ping()  # before rows are locked: a server that hangs must not hold up their writers
        return await self._database.run("outbox.sweep", self._announce_stale)

    async def _any_left(self, tx: Transaction) -> bool:
        count, oldest = await tx.unsent()
        age_s = 0.0 if oldest is None else (await tx.now() - oldest).total_seconds()
        OUTBOX_UNSENT.set(count)
        OUTBOX_OLDEST_SECONDS.set(age_s)
        return bool(age_s > _POLL_S)

    async def _announce_stale(self, tx: Transaction) -> int:
        outbox = self._outbox
        stale = (
            select(outbox)
            .where(outbox.c.sent_at.is_(None), outbox.c.created_at < await tx.now() - timedelta(seconds=_POLL_S))
            .order_by(outbox.c.id)
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )
        rows = (await tx.session.execute(stale)).all()
        events = [Event(row.event_id, row.topic, row.type, row.subject, row.trace) for row in rows]
        if events:
            async with asyncio.timeout(_ANNOUNCE_AT_MOST_S):  # the rows are locked meanwhile
                await self._streams.notify_all(events)
            await self._mark_sent(tx, [event.id for event in events])
        return len(events)

    async def _mark_sent(self, tx: Transaction, event_ids: Sequence[str]) -> None:
        outbox = self._outbox
        await tx.session.execute(
            update(outbox)
            .where(outbox.c.event_id.in_(event_ids), outbox.c.sent_at.is_(None))
            .values(sent_at=await tx.now())
        )

    async def _tidy(self) -> None:
        if monotonic() < self._tidy_at:
            return
        self._tidy_at = monotonic() + _TIDY_EVERY_S
        await self.prune()
        await self._streams.tidy()
        REDIS_MEMORY_RATIO.set(await self._streams.fullness())

    async def prune(self) -> int:
        """Delete events that were sent more than a day ago; returns how many."""
        outbox = self._outbox

        async def look(tx: Transaction) -> int:
            old = select(func.count()).where(outbox.c.sent_at < await tx.now() - _KEEP_SENT)
            return await tx.session.scalar(old) or 0

        async def forget(tx: Transaction) -> None:
            await tx.session.execute(delete(outbox).where(outbox.c.sent_at < await tx.now() - _KEEP_SENT))

        count = await self._database.read("outbox.old", look)
        if count:
            await self._database.run("outbox.prune", forget)
        return count
