import asyncio
from datetime import timedelta

import pytest

from tests.shared.queues.hearing import Heard, age_outbox, consumer, emit, event, unsent, until
from undersong.shared.database import Database
from undersong.shared.queues import Relay, Streams, background


async def test_committed_events_are_rung_at_once_and_marked(database: Database, streams: Streams) -> None:
    heard = Heard()
    async with background(Relay(database, streams).run(), consumer(streams, heard).run()):
        await emit(database, "warm")
        await until(lambda: heard.subjects)
        started = asyncio.get_running_loop().time()
        await emit(database, "a", "b")
        await until(lambda: heard.subjects == ["warm", "a", "b"])
        assert asyncio.get_running_loop().time() - started < 0.5

        async def all_sent() -> bool:
            return await unsent(database) == 0

        await until(all_sent)


async def test_events_of_a_process_that_died_before_ringing_are_rung_by_another(
    database: Database, streams: Streams
) -> None:
    await emit(database, "a")
    database.committed.take()  # the process died here
    await age_outbox(database, timedelta(seconds=5))
    heard = Heard()
    async with background(Relay(database, streams).run(), consumer(streams, heard).run()):
        await until(lambda: heard.subjects == ["a"])


async def test_a_crash_between_ringing_and_marking_rings_again(database: Database, streams: Streams) -> None:
    """At least once: never lost, sometimes twice."""
    await emit(database, "a")
    await streams.notify_all(database.committed.take())  # announced; killed before the mark
    await age_outbox(database, timedelta(seconds=5))
    assert await Relay(database, streams).sweep() == 1
    assert await streams.redis.xlen(streams.key("topic")) == 2
    assert await Relay(database, streams).sweep() == 0


async def test_two_relays_ring_each_leftover_once(database: Database, streams: Streams) -> None:
    await emit(database, *[f"s{number}" for number in range(30)])
    database.committed.take()
    await age_outbox(database, timedelta(seconds=5))
    await asyncio.gather(*[Relay(database, streams).sweep() for _ in range(3)])
    assert await unsent(database) == 0
    assert await streams.redis.xlen(streams.key("topic")) == 30


async def test_old_sent_events_are_pruned_and_unsent_never(database: Database, streams: Streams) -> None:
    await emit(database, "a")
    database.committed.take()
    await age_outbox(database, timedelta(seconds=5))
    relay = Relay(database, streams)
    await relay.sweep()
    await emit(database, "b")
    await age_outbox(database, timedelta(days=2))
    assert await relay.prune() == 1
    assert await unsent(database) == 1


async def test_hints_nobody_consumes_are_dropped(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    await streams.notify(event("a"))
    await streams.tidy()
    assert await streams.redis.xlen(streams.key("topic")) == 1
    monkeypatch.setattr("undersong.shared.queues.streams._HINT_LIFETIME_S", -60)
    await streams.tidy()
    assert await streams.redis.xlen(streams.key("topic")) == 0
