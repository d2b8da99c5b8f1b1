"""Running a process's loops until it is told to stop."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
import uvloop

log = structlog.get_logger(__name__)

_GRACE_S = 10.0

Loop = Coroutine[Any, Any, None]


async def run_all(*loops: Loop) -> None:
    """Run the loops until SIGTERM or SIGINT, then cancel them and give them 10 s to finish.

    A loop that fails stops all and its error comes through; a loop that returns stops none of the others.
    """
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)
    tasks = {asyncio.ensure_future(loop) for loop in loops}
    stopping = asyncio.create_task(stop.wait())
    try:
        pending: set[asyncio.Future[Any]] = set(tasks)
        while pending and not stop.is_set():
            done, pending = await asyncio.wait({*pending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            pending.discard(stopping)
            for task in done - {stopping}:
                task.result()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            running.remove_signal_handler(number)
        await _finish({*tasks, stopping})


@asynccontextmanager
async def background(*loops: Loop) -> AsyncIterator[None]:
    """Run the loops beside the body, for an API's lifespan; a loop that fails is logged, the body goes on."""
    tasks = {asyncio.ensure_future(loop) for loop in loops}
    for task in tasks:
        task.add_done_callback(_report)
    try:
        yield
    finally:
        await _finish(tasks)


def worker_loop(main: Loop) -> None:
    """Run a worker's main coroutine on uvloop; returns when it ends, so the process can exit 0."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, suppress(KeyboardInterrupt):
        runner.run(main)


def _report(task: "asyncio.Future[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("loop.failed", exc_info=task.exception())


async def _finish(tasks: "Iterable[asyncio.Future[Any]]") -> None:
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    if cancelled:
        _, late = await asyncio.wait(cancelled, timeout=_GRACE_S)
        if late:
            log.error("loop.would_not_stop", count=len(late))
