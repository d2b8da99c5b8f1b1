"""What the tests of queues share: a schema, events, and a handler that remembers."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import DeclarativeBase

from undersong.shared.database import CommonTables, Database, Transaction, new_metadata
from undersong.shared.ids import new_id
from undersong.shared.queues import Consumer, Event, Streams


class Base(DeclarativeBase):
    metadata = new_metadata()


common = CommonTables(Base.metadata)


class Heard:
    """A handler that remembers, and fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.subjects: list[str] = []
        self.failures = failures

    async def __call__(self, event: Event) -> None:
        self.subjects.append(event.subject)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("handler broke")


def event(subject: str, trace: str | None = None) -> Event:
    return Event(new_id("evt"), "topic", "thing.done", subject, trace)


async def until(holds: Callable[[], Any], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while True:
            found = holds()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


def consumer(streams: Streams, heard: Callable[[Event], Awaitable[None]], **options: Any) -> Consumer:
    return Consumer(streams, "topic", "group", heard, **options)


async def emit(database: Database, *subjects: str) -> None:
    async def work(tx: Transaction) -> None:
        for subject in subjects:
            await tx.emit("topic", "thing.done", subject)

    await database.run("emit", work)


async def unsent(database: Database) -> int:
    async def work(tx: Transaction) -> int:
        count = select(func.count()).select_from(common.outbox).where(common.outbox.c.sent_at.is_(None))
        return await tx.session.scalar(count) or 0

    return await database.read("unsent", work)


async def age_outbox(database: Database, by: timedelta) -> None:
    async def work(tx: Transaction) -> None:
        past = await tx.now() - by
        await tx.session.execute(update(common.outbox).values(created_at=past))
        await tx.session.execute(update(common.outbox).where(common.outbox.c.sent_at.is_not(None)).values(sent_at=past))

    await database.run("age", work)
