import asyncio

import pytest

from tests.shared.queues.hearing import Heard, consumer, event, until
from undersong.shared.queues import Event, Streams, background
from undersong.shared.telemetry.traces import continue_trace, current_trace


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
        await until(lambda: "b" in heard.subjects)
