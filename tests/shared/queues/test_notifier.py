import asyncio
from dataclasses import replace

import pytest

from tests.shared.queues.hearing import event, until
from undersong.shared.queues import Notifier, Streams, background


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
    async with asyncio.timeout(20):
        assert not await notifier.wait("a", 30)
    bell_task = asyncio.create_task(notifier.wait("a", 1))
    await asyncio.sleep(0.01)
    notifier.notify_local("a")
    assert await bell_task
    await streams.close()
