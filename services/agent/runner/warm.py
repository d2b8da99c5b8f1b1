"""A warm child: started when needed, kept between rounds, killed and confirmed dead when anything goes wrong.

Recipes that come with the agent share a child, which reads all data sets. A site's own recipe has a child to itself,
with one data set: what one recipe leaves in its process, no other meets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from pydantic import ValidationError

from services.agent.domain import TaskFailure
from services.agent.runner import folders
from services.agent.runner.answers import failure, outcome, progress_of
from services.agent.runner.protocol import Description, Excess, Frame, FrameError, Order, Outcome, Progress, Setup
from shared.wire.profiles import RecipeSpec

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

START_S = 60.0  # an interpreter on a cold disk
DESCRIBE_S = 300.0  # reads one data set to its end
LOOK_S: Final = {True: 0.5, False: 5.0}  # how often the site's own code, and ours, is looked after
SPEC_BYTES: Final = 256 * 2**10


class ChildGone(Exception):
    """The child ended or stopped speaking; the text says how."""


class Channel(Protocol):
    """A running child, whatever it runs in."""

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Say something; ChildGone."""

    async def receive(self) -> Frame:
        """The next frame; ChildGone or FrameError."""

    def excess(self) -> Excess | None:
        """Whether the child uses more than it was given; asked in a thread."""

    async def kill(self) -> str:
        """Kill everything that belongs to the child, wait until it is gone, and say how it ended."""


class Launcher(Protocol):
    """Starts children of one kind."""

    name: str

    async def start(self, setup: Setup) -> Channel:
        """A new child, before it has got its setup."""

    async def clean(self) -> None:
        """Kill what an earlier agent process left behind."""


@dataclass(slots=True)
class Child:
    """A running child, what it was made for, and why it was killed, if the agent did that."""

    channel: Channel
    setup: Setup
    files: tuple[object, ...]  # a data set that was replaced is another file, which the old child must not read
    verdict: Excess | None = None
    guard: asyncio.Task[None] | None = None
    busy: bool = False  # with an order, whose end the runner sees to

    def serves(self, setup: Setup) -> bool:
        """Whether an order with this setup may go to it."""
        return self.verdict is None and self.setup == setup and self.files == _identities(setup.data)


class WarmRunner:
    """The Runner over a Launcher. One order at a time.

    `data` names the files of each data set; `taken` is the agent's own folder for results of the site's own recipes.
    """

    def __init__(
        self,
        launcher: Launcher,
        setup: Setup,
        *,
        taken: Path,
        data: Mapping[str, Sequence[Path]] | None = None,
        idle_s: float = 600.0,
    ) -> None:
        self.name = launcher.name
        self.closed: dict[str, str] = {}  # what the last child said of its confinement
        self._launcher, self._setup, self._idle_s, self._taken = launcher, setup, idle_s, taken
        self._data = {name: tuple(map(str, paths)) for name, paths in (data or {}).items()}
        self._child: Child | None = None
        self._lock = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def clean(self) -> None:
        """Kill what an earlier agent process left behind, and erase what it had taken over."""
        await self._launcher.clean()
        await asyncio.to_thread(folders.erase, self._taken)

    async def describe(self) -> Description:
        """Ask children of their own, so that an idle agent keeps nothing warm.

        The site's recipes are asked in a child that reads no data, because they run there, and what they say leaves.
        """
        async with self._lock:
            everything = [path for paths in self._data.values() for path in paths]
            setup = self._compartment((), everything)
            try:
                frame = await self._converse(setup, {"type": "describe", "own": False}, _unheard, DESCRIBE_S)
                read = {name: await self._describe_dataset(setup, name) for name in _names(frame["declared"])}
            finally:
                await self._end()
            own = await self._own_specs() if self._setup.recipes else ([], [])
        return Description(
            recipes=frame["recipes"] + [spec.model_dump(mode="json") for spec in own[0]],
            own_recipes=sorted(spec.name for spec in own[0]),
            datasets=[found["schema"] for found in read.values() if "schema" in found],
            hardware=frame["hardware"],
            faults=own[1],
            declared=frame["declared"],
            unread=frame["unread"] | {name: str(found["unread"]) for name, found in read.items() if "unread" in found},
        )

    async def _describe_dataset(self, setup: Setup, name: str) -> Frame:
        """Read one data set to its end; one that ends the child, or takes too long, stops no other."""
        try:
            return await self._converse(setup, {"type": "describe", "dataset": name}, _unheard, DESCRIBE_S)
        except TaskFailure as failure:
            return {"unread": f"reading it failed: {failure}"}

    async def run(self, order: Order, progress: Progress, *, limit_s: float) -> Outcome:
        """Run one order in the warm child."""
        async with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            own = self._setup.own(order.recipe_digest)
            frame = await self._converse(self._compartment_of(order), order.frame(), progress, limit_s)
            self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._close_soon)
            taken = self._taken if own else None
            return await asyncio.to_thread(outcome, frame, order.folder, taken, self._setup.file_bytes)

    async def close(self) -> None:
        """End the warm child."""
        if self._idle is not None:
            self._idle.cancel()
        async with self._lock:
            await self._end()

    def _close_soon(self) -> None:
        self._closing = asyncio.get_running_loop().create_task(self.close())

    def _compartment_of(self, order: Order) -> Setup:
        if self._setup.own(order.recipe_digest):
            return self._compartment((order.recipe_digest,), self._data.get(order.data.dataset, ()))
        return self._compartment((), [path for paths in self._data.values() for path in paths])

    def _compartment(self, digests: tuple[str, ...], data: Iterable[str]) -> Setup:
        return replace(self._setup, allowed_digests=digests, data=tuple(data))

    async def _ask_own(self, setup: Setup) -> Frame:
        try:
            return await self._converse(setup, {"type": "describe", "own": True}, _unheard, DESCRIBE_S)
        finally:
            await self._end()

    async def _own_specs(self) -> tuple[list[RecipeSpec], list[str]]:
        """What the site's own recipes say of themselves, as far as it can be used, and what is wrong with them."""
        try:
            frame = await self._ask_own(self._compartment(self._setup.allowed_digests, ()))
            said = [RecipeSpec.model_validate(spec) for spec in frame["recipes"]]
        except (TaskFailure, ValidationError, KeyError, TypeError) as error:
            return [], [f"the site's own recipes cannot be used: {error}; {getattr(error, 'text', '')}"]
        large = {spec.name for spec in said if len(spec.model_dump_json()) > SPEC_BYTES}
        specs = [spec for spec in said if self._setup.own(spec.digest) and spec.name not in large]
        faults = [str(fault) for fault in frame.get("faults") or []]
        return specs, faults + [f"recipe {name}: its parameters' schema is too large" for name in sorted(large)]

    async def _converse(self, setup: Setup, frame: Frame, progress: Progress, limit_s: float) -> Frame:
        """Send an order and wait for its end; the child survives only an ordinary one."""
        child: Child | None = None
        try:
            async with asyncio.timeout(START_S):
                child = await self._warm(setup)
            async with asyncio.timeout(limit_s):
                answer = await _exchange(child, frame, progress)
        except TimeoutError:
            await self._end()
            raise TaskFailure("task-time", f"the recipe took longer than {limit_s:.0f} s") from None
        except (ChildGone, FrameError) as error:
            how = await self._end()
            if child is not None and child.verdict is not None:
                raise TaskFailure(child.verdict.code, child.verdict.detail) from error
            raise TaskFailure("child-died", "the recipe's process ended", text=f"{error}; {how}") from error
        except BaseException:  # a cancelled order must not go on running
            await self._end()
            raise
        if answer["type"] == "failure":
            found = failure(answer)
            if found.code == "out-of-memory":
                await self._end()  # what it still holds is not ours to guess
            raise found
        return answer

    async def _warm(self, setup: Setup) -> Child:
        """The child that serves this setup: the one that is there, or a new one."""
        if self._child is not None and not self._child.serves(setup):
            await self._end()
        if self._child is None:
            started = time.monotonic()
            self._child = child = Child(await self._start(setup), setup, _identities(setup.data))
            await child.channel.send(setup.frame())
            hello = await child.channel.receive()
            if hello["type"] != "hello":
                raise FrameError(f"the child began with {hello['type']}")
            self.closed = {str(name): str(state) for name, state in dict(hello.get("closed") or {}).items()}
            log.info(
                "child.started",
                runner=self.name,
                closed=self.closed,
                own_code=bool(setup.allowed_digests),
                duration_ms=round((time.monotonic() - started) * 1000),
            )
            if setup.required and (left := sorted(name for name, state in self.closed.items() if state == "open")):
                await self._end()
                raise TaskFailure("not-contained", f"this machine cannot close to recipes: {', '.join(left)}")
            child.guard = asyncio.create_task(_guarded(child))
        return self._child

    async def _start(self, setup: Setup) -> Channel:
        """A new child; one whose start is cancelled is awaited and killed, because somebody must."""
        starting = asyncio.ensure_future(self._launcher.start(setup))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(TaskFailure):
                channel = await starting
                await channel.kill()
            raise

    async def _end(self) -> str:
        child, self._child = self._child, None
        if child is None:
            return "not started"
        killing = asyncio.ensure_future(_killed(child))
        try:
            return await asyncio.shield(killing)
        except asyncio.CancelledError:
            await killing  # who cancels twice still waits until the group is gone
            raise


def _unheard(_: float) -> None:
    """Nobody waits for the progress of a description."""


def _names(schemas: Iterable[Mapping[str, Any]]) -> list[str]:
    return [str(schema["name"]) for schema in schemas]


async def _killed(child: Child) -> str:
    if child.guard is not None and child.verdict is None:
        child.guard.cancel()
    if child.guard is not None:
        await asyncio.gather(child.guard, return_exceptions=True)
    return await child.channel.kill()


async def _guarded(child: Child) -> None:
    """Look after a child as long as it lives, between orders too; kill it when it uses more than it was given."""
    while True:
        await asyncio.sleep(LOOK_S[bool(child.setup.allowed_digests)])
        found = await asyncio.to_thread(child.channel.excess)
        if found is not None:
            child.verdict = found
            log.warning("child.excess", code=found.code, detail=found.detail)
            if not child.busy:
                await child.channel.kill()
            return


def _identities(paths: Iterable[str]) -> tuple[object, ...]:
    """Which files these names stand for now."""
    found: list[object] = []
    for path in paths:
        try:
            stat = Path(path).stat()
            found.append((stat.st_dev, stat.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


async def _exchange(child: Child, frame: Frame, progress: Progress) -> Frame:
    """Send an order and wait for its answer; ChildGone as soon as its guard had enough."""

    async def talk() -> Frame:
        await child.channel.send(frame)
        return await _answer(child.channel, progress)

    assert child.guard is not None  # noqa: S101 (set with the hello)
    talking = asyncio.create_task(talk())
    child.busy = True
    try:
        await asyncio.wait({talking, child.guard}, return_when=asyncio.FIRST_COMPLETED)
        if talking.done():
            return talking.result()
        raise ChildGone("it was given up")
    finally:
        child.busy = False
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


async def _answer(channel: Channel, progress: Progress) -> Frame:
    while True:
        frame = await channel.receive()
        if frame["type"] == "progress":
            progress(progress_of(frame))
        elif frame["type"] in ("result", "failure", "description"):
            return frame
        else:
            raise FrameError(f"unexpected frame {frame['type']}")
