"""A warm child: started when needed, kept between rounds, killed and confirmed dead when anything goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import structlog

from services.agent.domain import TaskFailure
from services.agent.runner.protocol import (
    RESULT_FILE,
    SUMS_FILE,
    Description,
    Frame,
    FrameError,
    Order,
    Outcome,
    Progress,
    Setup,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

START_S = 60.0  # an interpreter on a cold disk
DESCRIBE_S = 300.0  # reads the heads of all data sets


class ChildGone(Exception):
    """The child ended or stopped speaking; the text says how."""


class Channel(Protocol):
    """A running child, whatever it runs in."""

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Say something; ChildGone."""

    async def receive(self) -> Frame:
        """The next frame; ChildGone or FrameError."""

    async def kill(self) -> str:
        """Kill everything that belongs to the child, wait until it is gone, and say how it ended."""


class Launcher(Protocol):
    """Starts children of one kind."""

    name: str

    async def start(self) -> Channel:
        """A new child, before its setup."""

    async def clean(self) -> None:
        """Kill what an earlier agent process left behind."""


class WarmRunner:
    """The Runner over a Launcher. One order at a time."""

    def __init__(self, launcher: Launcher, setup: Setup, *, idle_s: float = 600.0) -> None:
        self.name = launcher.name
        self._launcher, self._setup, self._idle_s = launcher, setup, idle_s
        self._child: Channel | None = None
        self._lock = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def clean(self) -> None:
        """Kill what an earlier agent process left behind."""
        await self._launcher.clean()

    async def describe(self) -> Description:
        """Ask a child of its own, so that an idle agent keeps nothing warm."""
        async with self._lock:
            try:
                frame = await self._converse({"type": "describe"}, lambda _: None, DESCRIBE_S)
            finally:
                await self._end()
        return Description(
            recipes=frame["recipes"],
            own_recipes=frame["own_recipes"],
            datasets=frame["datasets"],
            hardware=frame["hardware"],
            faults=frame["faults"],
        )

    async def run(self, order: Order, progress: Progress, *, limit_s: float) -> Outcome:
        """Run one order in the warm child."""
        async with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            frame = await self._converse(order.frame(), progress, limit_s)
            self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._close_soon)
        return _outcome(frame, order.folder)

    async def close(self) -> None:
        """End the warm child."""
        if self._idle is not None:
            self._idle.cancel()
        async with self._lock:
            await self._end()

    def _close_soon(self) -> None:
        self._closing = asyncio.get_running_loop().create_task(self.close())

    async def _converse(self, frame: Frame, progress: Progress, limit_s: float) -> Frame:
        """Send an order and wait for its end; the child survives only an ordinary one."""
        try:
            async with asyncio.timeout(START_S):
                child = await self._warm()
            async with asyncio.timeout(limit_s):
                await child.send(frame)
                answer = await _answer(child, progress)
        except TimeoutError:
            await self._end()
            raise TaskFailure("task-time", f"the recipe took longer than {limit_s:.0f} s") from None
        except (ChildGone, FrameError) as error:
            how = await self._end()
            raise TaskFailure("child-died", "the recipe's process ended", text=f"{error}; {how}") from error
        except BaseException:  # a cancelled order must not go on running
            await self._end()
            raise
        if answer["type"] == "failure":
            if answer["code"] == "out-of-memory":
                await self._end()  # what it still holds is not ours to guess
            raise TaskFailure(
                str(answer["code"]), str(answer["detail"]), where=list(answer["where"]), text=str(answer["text"])
            )
        return answer

    async def _warm(self) -> Channel:
        if self._child is None:
            started = time.monotonic()
            self._child = child = await self._start()
            await child.send(self._setup.frame())
            hello = await child.receive()
            if hello["type"] != "hello":
                raise FrameError(f"the child began with {hello['type']}")
            log.info(
                "child.started",
                runner=self.name,
                network=hello.get("network"),
                duration_ms=round((time.monotonic() - started) * 1000),
            )
        return self._child

    async def _start(self) -> Channel:
        """A new child; one whose start is cancelled is awaited and killed, because somebody must."""
        starting = asyncio.ensure_future(self._launcher.start())
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(TaskFailure):
                child = await starting
                await child.kill()
            raise

    async def _end(self) -> str:
        child, self._child = self._child, None
        if child is None:
            return "not started"
        killing = asyncio.ensure_future(child.kill())
        try:
            return await asyncio.shield(killing)
        except asyncio.CancelledError:
            await killing  # who cancels twice still waits until the group is gone
            raise


async def _answer(child: Channel, progress: Progress) -> Frame:
    while True:
        frame = await child.receive()
        if frame["type"] == "progress":
            progress(float(frame["value"]))
        elif frame["type"] in ("result", "failure", "description"):
            return frame
        else:
            raise FrameError(f"unexpected frame {frame['type']}")


def _outcome(frame: Frame, folder: Path) -> Outcome:
    """The result, with paths that this side chose itself."""
    made: Callable[[str], Path | None] = lambda name: path if (path := folder / name).is_file() else None  # noqa: E731
    return Outcome(
        tensors=made(RESULT_FILE),
        sums=made(SUMS_FILE),
        examples=int(frame.get("examples") or 0),
        loss=float(frame.get("loss") or 0.0),
        metrics_layout=frame.get("metrics_layout"),
    )
