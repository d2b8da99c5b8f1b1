"""Questions that are answered together."""

import asyncio
import gc
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from undersong.shared.database import Gathering
from undersong.shared.errors import NotFound, Unavailable

REQUEST: ContextVar[str] = ContextVar("request", default="none")


class Counting:
    """Doubles numbers, and keeps the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = asyncio.Event()

    async def __call__(self, batch: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(batch))
        await self.go_on.wait()
        if 13 in batch:
            raise RuntimeError("thirteen")
        return [NotFound(f"no {number}") if number < 0 else 2 * number for number in batch]


async def test_what_arrives_during_a_batch_is_the_next_batch() -> None:
    work = Counting()
    gathering = Gathering(work)
    asked = [asyncio.create_task(gathering.ask(1))]
    await asyncio.sleep(0.01)
    asked += [asyncio.create_task(gathering.ask(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0.01)
    work.go_on.set()
    assert await asyncio.gather(*asked) == [2, 4, 6, 8]
    assert work.batches == [[1], [2, 3, 4]]


async def test_a_batch_has_a_limit() -> None:
    work = Counting()
    work.go_on.set()
    gathering = Gathering(work, most=2)
    assert await asyncio.gather(*(gathering.ask(number) for number in range(5))) == [0, 2, 4, 6, 8]
    assert work.batches == [[0, 1], [2, 3], [4]]


async def test_each_gets_its_own_refusal_and_all_get_what_failed_them_all() -> None:
    work = Counting()
    work.go_on.set()
    gathering = Gathering(work)
    found = await asyncio.gather(*(gathering.ask(number) for number in (1, -1)), return_exceptions=True)
    assert found[0] == 2
    assert isinstance(found[1], NotFound)
    found = await asyncio.gather(*(gathering.ask(number) for number in (1, 13)), return_exceptions=True)
    assert [str(one) for one in found] == ["thirteen", "thirteen"]
    assert await gathering.ask(5) == 10


async def test_who_does_not_wait_any_more_takes_nothing_from_the_others() -> None:
    work = Counting()
    gathering = Gathering(work)
    gone, waits = (asyncio.create_task(gathering.ask(number)) for number in (1, 2))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.wait([gone])
    work.go_on.set()
    assert await waits == 4


async def test_a_worker_that_is_stopped_leaves_nobody_waiting() -> None:
    work = Counting()
    gathering = Gathering(work, most=1)
    asked = [asyncio.create_task(gathering.ask(number)) for number in (1, 2)]
    await asyncio.sleep(0.01)
    (worker,) = (task for task in asyncio.all_tasks() if "answer_all" in repr(task))
    worker.cancel()
    for each in asked:
        with pytest.raises(Unavailable):
            await each
    work.go_on.set()
    assert await gathering.ask(3) == 6


async def test_no_request_lends_its_context_to_the_others() -> None:
    seen: list[str] = []

    async def look(batch: Sequence[int]) -> list[int]:
        seen.append(REQUEST.get())
        return list(batch)

    REQUEST.set("mine")
    assert await Gathering(look).ask(1) == 1
    assert seen == ["none"]


async def test_who_has_hung_up_is_not_worked_for() -> None:
    work = Counting()
    gathering = Gathering(work)
    asked = [asyncio.create_task(gathering.ask(number)) for number in (1,)]
    await asyncio.sleep(0.01)
    asked += [asyncio.create_task(gathering.ask(number)) for number in (2, 3)]
    await asyncio.sleep(0.01)
    asked[1].cancel()
    work.go_on.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert (found[0], found[2]) == (2, 6)
    assert work.batches == [[1], [3]]


async def test_a_refusal_leaves_nothing_behind() -> None:
    """Neither it nor the batch's frames, which hold what was asked, wait for a full collection."""

    def judge(number: int) -> int:
        raise NotFound(f"no {number}")

    async def refuse(batch: Sequence[int]) -> list[int | Exception]:
        answers: list[int | Exception] = []
        for number in batch:
            try:
                answers.append(judge(number))
            except NotFound as refusal:
                answers.append(refusal)
        return answers

    gathering = Gathering(refuse)
    for _ in range(3):
        await asyncio.gather(*(gathering.ask(number) for number in range(3)), return_exceptions=True)
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            with pytest.raises(NotFound):
                await gathering.ask(number)
        assert gc.collect() < 50
    finally:
        gc.enable()
