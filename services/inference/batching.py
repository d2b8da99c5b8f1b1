"""Micro-batches: rows of requests that wait are predicted together, while a bound holds of how many may wait.

One thread predicts, so that a model's code never runs twice at a time. While it does, requests gather; when it is done,
it takes as many whole requests as a batch holds. A request waits for no other that has not come yet.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from undersong.shared.clock import monotonic
from undersong.shared.errors import TooMany, Unavailable
from undersong.shared.telemetry.metrics import INFERENCE_BATCH_ROWS, INFERENCE_BATCH_SECONDS, INFERENCE_QUEUED_ROWS

Columns = Mapping[str, Sequence[Any]]
Answer = dict[str, Any]
Predict = Callable[[Columns], list[Answer]]


class QueueFull(TooMany):
    """As many rows wait for a prediction as may: ask again as Retry-After says."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """`batch_rows`: of one batch; `rows` and `requests`: how many may wait."""

    batch_rows: int
    rows: int
    requests: int


@dataclass(slots=True)
class _Waiting:
    columns: Columns
    count: int
    answered: asyncio.Future[list[Answer]]


@dataclass
class Batcher:
    """Predicts rows of many requests in batches; see the module."""

    predict: Predict
    limits: QueueLimits
    _queue: deque[_Waiting] = field(default_factory=deque)
    _rows: int = 0
    _ended: bool = False
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, columns: Columns, count: int) -> list[Answer]:
        """Return an answer for each of `count` rows; raises QueueFull, Unavailable at the end, and what `predict` does.

        A request of more rows than may wait is taken where nothing waits.
        """
        if self._ended:
            raise Unavailable("the service is ending", retry_after_s=1)
        if self._queue and (self._rows + count > self.limits.rows or len(self._queue) >= self.limits.requests):
            raise QueueFull(f"{self._rows} rows of {len(self._queue)} requests wait, and no more may", retry_after_s=1)
        waiting = _Waiting(columns, count, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._count(count)
        self._came.set()
        return await waiting.answered

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Predict until the end of the block; what waits then is answered with Unavailable."""
        with ThreadPoolExecutor(1, thread_name_prefix="predict") as thread:
            task = asyncio.create_task(self._run(thread))
            try:
                yield
            finally:
                self._ended = True
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                _end(self._queue)

    async def _run(self, thread: ThreadPoolExecutor) -> None:
        while True:
            await self._came.wait()
            batch = self._next()
            if not batch:
                self._came.clear()
                continue
            await self._answer(batch, thread)

    def _next(self) -> list[_Waiting]:
        """Take the longest waiting requests that fit into a batch, and one at least; those given up are left out."""
        batch: list[_Waiting] = []
        rows = 0
        while self._queue and (not batch or rows + self._queue[0].count <= self.limits.batch_rows):
            waiting = self._queue.popleft()
            self._count(-waiting.count)
            if not waiting.answered.done():
                batch.append(waiting)
                rows += waiting.count
        return batch

    async def _answer(self, batch: list[_Waiting], thread: ThreadPoolExecutor) -> None:
        started = monotonic()
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(thread, self.predict, _joined(batch))
        except asyncio.CancelledError:
            _end(batch)
            raise
        except Exception as error:  # noqa: BLE001 (whatever a model's code raises is the answer to its request)
            if len(batch) == 1 and not batch[0].answered.done():
                batch[0].answered.set_exception(error)
            for waiting in batch if len(batch) > 1 else ():  # one request's rows do not fail those of another
                await self._answer([waiting], thread)
            return
        INFERENCE_BATCH_ROWS.observe(len(answers))
        INFERENCE_BATCH_SECONDS.observe(monotonic() - started)
        at = 0
        for waiting in batch:
            if not waiting.answered.done():
                waiting.answered.set_result(answers[at : at + waiting.count])
            at += waiting.count

    def _count(self, rows: int) -> None:
        self._rows += rows
        INFERENCE_QUEUED_ROWS.set(self._rows)


def _end(requests: Iterable[_Waiting]) -> None:
    for waiting in requests:
        if not waiting.answered.done():
            waiting.answered.set_exception(Unavailable("the service is ending", retry_after_s=1))


def _joined(batch: list[_Waiting]) -> Columns:
    if len(batch) == 1:
        return batch[0].columns
    return {name: [cell for each in batch for cell in each.columns[name]] for name in batch[0].columns}
