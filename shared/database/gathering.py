"""Work that is asked for one by one and done together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Final, Generic, TypeVar

import structlog

from undersong.shared.errors import Refusal, Unavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")
MOST: Final = 200
"""In one batch: it holds locks and a connection while it lasts."""


class Gathering(Generic[Q, A]):
    """Questions that arrive together share one transaction: while one batch is worked on, the next one gathers.

    `work` gives an answer to each question, in order; an exception as an answer is raised to the one who asked. What
    `work` itself raises, all of the batch get. It runs outside the context of any one request, and goes on when
    a caller no longer waits, so it must be safe to repeat for the next caller.
    """

    def __init__(self, work: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]], most: int = MOST) -> None:
        self._work, self._most = work, most
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """Return the answer; raises Unavailable where the process ends before there is one."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, answer))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._answer_all(), context=Context())
        try:
            return await answer
        finally:
            del answer  # a refusal's traceback leads here: it must not lead on to the refusal

    async def _answer_all(self) -> None:
        while self._waiting:
            asked = [(question, answer) for question, answer in self._waiting if not answer.done()]
            batch, self._waiting = asked[: self._most], asked[self._most :]  # without those who have hung up
            if not batch:
                return
            try:
                found = await self._work([question for question, _ in batch])
            except BaseException as error:
                if not isinstance(error, Exception):
                    batch, self._waiting = batch + self._waiting, []
                    self._give(batch, [Unavailable("the service is stopping")] * len(batch))
                    raise
                if not isinstance(error, Refusal):
                    log.warning("batch.failed", error=type(error).__name__, exc_info=error)
                self._give(batch, [error] * len(batch))
                continue
            self._give(batch, found)

    @staticmethod
    def _give(batch: Sequence[tuple[Q, "asyncio.Future[A]"]], found: Sequence[A | Exception]) -> None:
        for (_, answer), one in zip(batch, found, strict=True):
            if answer.done():  # its caller no longer waits
                continue
            if isinstance(one, Exception):
                answer.set_exception(one.with_traceback(None))  # whose frames hold the whole batch
            else:
                answer.set_result(one)
