"""The runner over warm children: orders, one at a time, each to the child that is made for it.

Recipes that come with the agent share a child, which reads all data sets. A site's own recipe has a child to itself,
with one data set: what one recipe leaves in its process, no other meets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import ValidationError

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.runner import folders
from undersong.services.agent.runner.answers import failure, outcome, progress_of
from undersong.services.agent.runner.pool import Channel, Child, ChildGone, Launcher, Pool
from undersong.services.agent.runner.protocol import (
    Description,
    Frame,
    FrameError,
    Progress,
    RunOrder,
    RunOutcome,
    Setup,
)
from undersong.shared.wire.profiles import RecipeSpec

START_S = 60.0  # an interpreter on a cold disk
DESCRIBE_S = 300.0  # reads one data set to its end
SPEC_BYTES: Final = 256 * 2**10
TRIES: Final = 3  # of an order whose files are replaced again and again

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


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
        memory_bytes: int | None = None,
    ) -> None:
        self.name = launcher.name
        self._launcher, self._setup, self._taken = launcher, setup, taken
        limit = setup.memory_bytes if memory_bytes is None else memory_bytes
        self._pool = Pool(launcher, memory_bytes=limit, idle_s=idle_s)
        self._data = {name: tuple(map(str, paths)) for name, paths in (data or {}).items()}
        self._lock = asyncio.Lock()

    @property
    def closed(self) -> Mapping[str, str]:
        """What the last child said of its confinement."""
        return self._pool.closed

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
                await self._pool.drop(setup)
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

    async def run(self, order: RunOrder, progress: Progress, *, limit_s: float) -> RunOutcome:
        """Run one order in the warm child."""
        async with self._lock:
            own = self._setup.own(order.recipe_digest)
            frame = await self._converse(self._compartment_of(order), order.frame(), progress, limit_s)
            taken = self._taken if own else None
            return await asyncio.to_thread(outcome, frame, order.folder, taken, self._setup.file_bytes)

    async def close(self) -> None:
        """End the warm children."""
        async with self._lock:
            await self._pool.close()

    def _compartment_of(self, order: RunOrder) -> Setup:
        if self._setup.own(order.recipe_digest):
            return self._compartment((order.recipe_digest,), self._data.get(order.data.dataset, ()))
        return self._compartment((), [path for paths in self._data.values() for path in paths])

    def _compartment(self, digests: tuple[str, ...], data: Iterable[str]) -> Setup:
        return replace(self._setup, allowed_digests=digests, data=tuple(data))

    async def _ask_own(self, setup: Setup) -> Frame:
        try:
            return await self._converse(setup, {"type": "describe", "own": True}, _unheard, DESCRIBE_S)
        finally:
            await self._pool.drop(setup)

    async def _own_specs(self) -> tuple[list[RecipeSpec], list[str]]:
        """Return what the site's own recipes say of themselves, as far as it can be used, and what is wrong with
        them.
        """
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
        """Send an order and return its answer; TaskFailure.

        Where a file that the child may read was replaced meanwhile, its walls are about the old one, and its failure
        says nothing of the new one: the order goes to a new child, within the same `limit_s`.
        """
        until = time.monotonic() + limit_s
        for tries_left in reversed(range(TRIES)):
            child, answer = await self._attempt(setup, frame, progress, limit_s)
            limit_s = until - time.monotonic()
            failed = answer["type"] == "failure" or answer.get("unread")
            if not (failed and child.outdated and tries_left and limit_s > 0):
                break
            log.info("child.outdated", reason="a file that it reads was replaced during its order; it starts again")
        if answer["type"] == "failure":
            found = failure(answer)
            if found.code == "out-of-memory":
                await self._end(child)  # what it still holds is not ours to guess
            raise found
        return answer

    async def _attempt(self, setup: Setup, frame: Frame, progress: Progress, limit_s: float) -> tuple[Child, Frame]:
        """Send an order and wait for its end, told with its child, which survives only an ordinary one."""
        child: Child | None = None
        try:
            async with asyncio.timeout(START_S):
                child = await self._pool.take(setup)
            async with asyncio.timeout(limit_s):
                answer = await _exchange(child, frame, progress)
        except TimeoutError:
            await self._end(child)
            raise TaskFailure("task-time", f"the recipe took longer than {limit_s:.0f} s") from None
        except (ChildGone, FrameError) as error:
            how = await self._end(child)
            if child is not None and child.verdict is not None:
                raise TaskFailure(child.verdict.code, child.verdict.detail) from error
            raise TaskFailure("child-died", "the recipe's process ended", text=f"{error}; {how}") from error
        except BaseException:  # a cancelled order must not go on running
            await self._end(child)
            raise
        self._pool.release(child)
        return child, answer

    async def _end(self, child: Child | None) -> str:
        return "not started" if child is None else await self._pool.end(child)


def _unheard(_: float) -> None:
    """Ignore the progress of a description."""


def _names(schemas: Iterable[Mapping[str, Any]]) -> list[str]:
    return [str(schema["name"]) for schema in schemas]


async def _exchange(child: Child, frame: Frame, progress: Progress) -> Frame:
    """Send an order and wait for its answer; ChildGone as soon as its guard had enough."""

    async def talk() -> Frame:
        await child.channel.send(frame)
        return await _answer(child.channel, progress)

    assert child.guard is not None  # noqa: S101 (set with the hello)
    talking = asyncio.create_task(talk())
    try:
        await asyncio.wait({talking, child.guard}, return_when=asyncio.FIRST_COMPLETED)
        if talking.done():
            return talking.result()
        raise ChildGone("it was given up")
    finally:
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
