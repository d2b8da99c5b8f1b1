"""Micro-batches: what waits is predicted together, bounded, and one request's fault is its own."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from undersong.services.inference.batching import Batcher, QueueFull, QueueLimits
from undersong.shared.errors import Invalid, Unavailable


class Model:
    """Answers with the value; waits for `go` where one is held."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.begun = threading.Event()

    def __call__(self, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        self.begun.set()
        assert self.go.wait(60)
        self.sizes.append(len(columns["x"]))
        if -1 in columns["x"]:
            raise Invalid("minus one")
        return [{"value": value} for value in columns["x"]]


def limited(rows: int = 100, requests: int = 100, batch: int = 10) -> tuple[Model, Batcher]:
    model = Model()
    return model, Batcher(model, QueueLimits(batch, rows, requests))


async def first(model: Model, batcher: Batcher) -> asyncio.Task[Any]:
    """Return a request that the thread is busy with."""
    task = asyncio.create_task(batcher.ask({"x": [0]}, 1))
    await asyncio.to_thread(model.begun.wait, 60)
    return task


async def test_waiting_requests_share_batches_in_order() -> None:
    model, batcher = limited()
    async with batcher.running():
        tasks = [await first(model, batcher)]
        tasks += [asyncio.create_task(batcher.ask({"x": [n, n + 0.5]}, 2)) for n in range(1, 8)]
        await asyncio.sleep(0)
        model.go.set()
        answers = await asyncio.gather(*tasks)
    assert model.sizes == [1, 10, 4]
    assert answers[3] == [{"value": 3}, {"value": 3.5}]


async def test_a_request_larger_than_a_batch_is_predicted_alone() -> None:
    model, batcher = limited(rows=5)
    model.go.set()
    async with batcher.running():
        assert len(await batcher.ask({"x": list(range(50))}, 50)) == 50
    assert model.sizes == [50]


async def test_no_more_wait_than_may() -> None:
    model, batcher = limited(rows=4, requests=3)
    async with batcher.running():
        tasks = [await first(model, batcher)]
        tasks += [asyncio.create_task(batcher.ask({"x": [n] * 2}, 2)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as refused:
            await batcher.ask({"x": [9]}, 1)
        assert refused.value.retry_after_s == 1
        model.go.set()
        assert len(await asyncio.gather(*tasks)) == 3


async def test_one_fault_is_its_own() -> None:
    model, batcher = limited()
    async with batcher.running():
        busy = await first(model, batcher)
        tasks = [asyncio.create_task(batcher.ask({"x": [n]}, 1)) for n in (1, -1, 2)]
        await asyncio.sleep(0)
        model.go.set()
        good, bad, other = await asyncio.gather(*tasks, return_exceptions=True)
        await busy
    assert (good, other) == ([{"value": 1}], [{"value": 2}])
    assert isinstance(bad, Invalid)


async def test_a_request_that_was_given_up_is_left_out() -> None:
    model, batcher = limited()
    async with batcher.running():
        busy = await first(model, batcher)
        gone, kept = (asyncio.create_task(batcher.ask({"x": [n]}, 1)) for n in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        model.go.set()
        assert await kept == [{"value": 2}]
        await busy
    assert model.sizes == [1, 1]


async def test_what_waits_at_the_end_is_told() -> None:
    model, batcher = limited(batch=1)
    async with batcher.running():
        busy = await first(model, batcher)
        waiting = asyncio.create_task(batcher.ask({"x": [1]}, 1))
        await asyncio.sleep(0)
        threading.Timer(0.05, model.go.set).start()  # the end waits for the thread
    for found in await asyncio.gather(busy, waiting, return_exceptions=True):
        assert isinstance(found, Unavailable)
    with pytest.raises(Unavailable, match="ending"):
        await batcher.ask({"x": [1]}, 1)
