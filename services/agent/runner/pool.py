"""Warm children: one for each kind of order, kept between orders, killed and confirmed dead when anything goes wrong.

At most `MOST` are kept, and together they hold at most the memory that the policy gives to one: the least recently used
end first. While one works, those with a site's own recipes are frozen: they take no processor time, and meet nothing of
the others' tasks.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.runner.protocol import Excess, Frame, FrameError, Setup

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MOST: Final = 4  # a child with torch takes about 300 MB; two or three jobs at a time are usual
FREE_S: Final = 2.0  # a child that waits answers at once
LOOK_S: Final = {True: 0.5, False: 5.0}  # how often the site's own code, and ours, is looked after


class ChildGone(Exception):
    """The child ended or stopped speaking; the text says how."""


class Channel(Protocol):
    """A running child, whatever it runs in."""

    async def send(self, frame: Mapping[str, object]) -> None:
        """Say something; ChildGone."""

    async def receive(self) -> Frame:
        """Return the next frame; ChildGone or FrameError."""

    def excess(self) -> Excess | None:
        """Return whether the child uses more than it was given; asked in a thread."""

    def memory(self) -> int:
        """Return how many bytes of memory the child holds; asked in a thread."""

    def freeze(self, *, stopped: bool) -> None:
        """Stop all of the child's processes, or let them go on; asked in a thread."""

    async def kill(self) -> str:
        """Kill everything that belongs to the child, wait until it is gone, and say how it ended."""


class Launcher(Protocol):
    """Starts children of one kind."""

    name: str

    async def start(self, setup: Setup) -> Channel:
        """Return a new child, before it has got its setup."""

    async def clean(self) -> None:
        """Kill what an earlier agent process left behind."""


@dataclass(eq=False, slots=True)
class Child:
    """A running child, what it was made for, and why it was killed, if the agent did that."""

    channel: Channel
    setup: Setup
    files: tuple[object, ...]  # what was replaced is another file, which the walls of the old child do not let it read
    verdict: Excess | None = None
    guard: asyncio.Task[None] | None = None
    busy: bool = False  # with an order, whose end the runner sees to
    frozen: bool = False
    idle: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        """Whether an order may go to it."""
        return self.verdict is None and not self.outdated

    @property
    def outdated(self) -> bool:
        """Whether a file that it was given has been replaced since it started (`mv new.csv rows.csv`)."""
        return self.files != _identities(self.setup.given)


class Pool:
    """The children of one runner, which gives out one order at a time; `memory_bytes` of all together, 0: no limit."""

    def __init__(self, launcher: Launcher, *, memory_bytes: int, idle_s: float, most: int = MOST) -> None:
        self.closed: dict[str, str] = {}  # what the last child said of its confinement
        self._launcher, self._memory_bytes, self._idle_s, self._most = launcher, memory_bytes, idle_s, most
        self._children: OrderedDict[Setup, Child] = OrderedDict()  # the least recently used first
        self._ending: set[asyncio.Task[str]] = set()

    async def take(self, setup: Setup) -> Child:
        """Return the child that serves this setup, started when there is none; it is busy until `release`.

        Raises ChildGone, FrameError and TaskFailure.
        """
        child = self._children.get(setup)
        if child is not None and not (child.usable and await _is_free(child)):
            await self.end(child)
            child = None
        if child is None:
            while len(self._children) >= self._most:
                await self.end(next(iter(self._children.values())))
            child = await self._start(setup)
            self._children[setup] = child
        child.busy = True
        self._children.move_to_end(setup)
        if child.idle is not None:
            child.idle.cancel()
        try:
            await self._freeze_others(child)
            await self._make_room()
        except BaseException:
            child.busy = False
            raise
        return child

    def release(self, child: Child) -> None:
        """Keep a child warm until it has been idle for long."""
        child.busy = False
        if self._children.get(child.setup) is child:
            child.idle = asyncio.get_running_loop().call_later(self._idle_s, self._end_soon, child)

    async def end(self, child: Child) -> str:
        """Kill a child, wait until it is gone, and say how it ended. Idempotent."""
        if self._children.get(child.setup) is child:
            del self._children[child.setup]
        if child.idle is not None:
            child.idle.cancel()
        killing = asyncio.ensure_future(_killed(child))
        try:
            return await asyncio.shield(killing)
        except asyncio.CancelledError:
            await killing  # who cancels twice still waits until the group is gone
            raise

    async def drop(self, setup: Setup) -> None:
        """End the child that serves this setup, if there is one."""
        if (child := self._children.get(setup)) is not None:
            await self.end(child)

    async def close(self) -> None:
        """End all children."""
        for child in list(self._children.values()):
            await self.end(child)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _end_soon(self, child: Child) -> None:
        if not child.busy:
            ending = asyncio.get_running_loop().create_task(self.end(child))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _start(self, setup: Setup) -> Child:
        started = time.monotonic()
        child = Child(await self._launch(setup), setup, _identities(setup.given))
        try:
            await child.channel.send(setup.frame())
            hello = _hello(await child.channel.receive())
        except (ChildGone, FrameError) as error:
            how = await self.end(child)
            raise ChildGone(f"{error}; {how}") from error
        except BaseException:
            await self.end(child)
            raise
        self.closed = {str(name): str(state) for name, state in dict(hello.get("closed") or {}).items()}
        log.info(
            "child.started",
            runner=self._launcher.name,
            closed=self.closed,
            own_code=bool(setup.allowed_digests),
            children=len(self._children) + 1,
            duration_ms=round((time.monotonic() - started) * 1000),
        )
        if setup.required and (left := sorted(name for name, state in self.closed.items() if state == "open")):
            await self.end(child)
            raise TaskFailure("not-contained", f"this machine cannot close to recipes: {', '.join(left)}")
        child.guard = asyncio.create_task(self._guarded(child))
        return child

    async def _launch(self, setup: Setup) -> Channel:
        """Start a child; where the start is cancelled, await the child and kill it, as no other code would."""
        starting = asyncio.ensure_future(self._launcher.start(setup))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(TaskFailure):
                channel = await starting
                await channel.kill()
            raise

    async def _freeze_others(self, working: Child) -> None:
        for child in list(self._children.values()):
            stopped = child is not working and bool(child.setup.allowed_digests)
            if child.frozen != stopped:
                await asyncio.to_thread(child.channel.freeze, stopped=stopped)
                child.frozen = stopped

    async def _make_room(self) -> None:
        """End idle children, the least recently used first, while all together hold more than one may."""
        while self._memory_bytes and len(self._children) > 1:
            children = list(self._children.values())
            held = await asyncio.gather(*(asyncio.to_thread(child.channel.memory) for child in children))
            idle = next((child for child in self._children.values() if not child.busy), None)
            if sum(held) <= self._memory_bytes or idle is None:
                return
            log.info("child.evicted", reason="memory", bytes=sum(held), limit=self._memory_bytes)
            await self.end(idle)

    async def _guarded(self, child: Child) -> None:
        """Look after a child as long as it lives, between orders too; kill it when it uses more than it was given."""
        while True:
            await asyncio.sleep(LOOK_S[bool(child.setup.allowed_digests) or len(self._children) > 1])
            if child.frozen:
                continue  # stopped, it can take nothing more
            found = await asyncio.to_thread(child.channel.excess)
            if found is not None:
                child.verdict = found
                log.warning("child.excess", code=found.code, detail=found.detail)
                if not child.busy:
                    await child.channel.kill()
                return
            if child.busy:
                await self._make_room()


async def _is_free(child: Child) -> bool:
    """Return whether a kept child waits for an order: own code can answer by hand while it is still at the last one."""
    if not child.setup.allowed_digests:
        return True
    if child.frozen:
        await asyncio.to_thread(child.channel.freeze, stopped=False)
        child.frozen = False
    try:
        async with asyncio.timeout(FREE_S):
            await child.channel.send({"type": "ping"})
            return bool((await child.channel.receive())["type"] == "pong")
    except (TimeoutError, ChildGone, FrameError):
        return False


def _hello(frame: Frame) -> Frame:
    if frame["type"] != "hello":
        raise FrameError(f"the child began with {frame['type']}")
    return frame


async def _killed(child: Child) -> str:
    if child.guard is not None and child.verdict is None:
        child.guard.cancel()
    if child.guard is not None:
        await asyncio.gather(child.guard, return_exceptions=True)
    return await child.channel.kill()


def _identities(paths: Iterable[str]) -> tuple[object, ...]:
    """Return which files these names stand for now."""
    found: list[object] = []
    for path in paths:
        try:
            stat = Path(path).stat()
            found.append((stat.st_dev, stat.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)
