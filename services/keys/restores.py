"""Notices that the database was restored from a copy, by a small file that is never restored with it.

Every commitment, signature and log head is first committed, then noted in the high-water file (fsynced), and only then
leaves. So the file is never ahead of the database, unless the database is an older copy. Then the epoch goes up, which
voids all rounds of earlier epochs: for them this witness may have signed what it does not remember.
"""

import asyncio
import fcntl
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from services.keys.appending import log_restored
from services.keys.log_repository import LogRepository
from services.keys.repository import KeysRepository
from services.keys.witness_repository import WitnessRepository
from shared.database import Database, Transaction
from shared.errors import Unavailable
from shared.faults import point
from shared.identity.authority import write_private

T = TypeVar("T")
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far this service has come: epoch, commitments and signatures given, size of the published log."""

    epoch: int = 0
    counter: int = 0
    log_size: int = 0

    def behind(self, seen: "Mark | None") -> bool:
        """Whether the database's mark is older than the file's; without a file, whatever was given may be more."""
        if seen is None:
            return self != Mark(log_size=self.log_size)
        if self.epoch != seen.epoch:
            return self.epoch < seen.epoch
        return self.counter < seen.counter or self.log_size < seen.log_size

    def over(self, other: "Mark") -> "Mark":
        """The higher of both."""
        if self.epoch != other.epoch:
            return max(self, other, key=lambda mark: mark.epoch)
        return Mark(self.epoch, max(self.counter, other.counter), max(self.log_size, other.log_size))


class HighWater:
    """The file. It only rises; several processes may raise it at once."""

    def __init__(self, path: Path) -> None:
        self._path, self._reached = path, Mark(epoch=-1)

    def read(self) -> Mark | None:
        """The mark, or None where there is no file; raises ValueError for a broken one."""
        try:
            return Mark(**json.loads(self._path.read_text("ascii")))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise ValueError(f"{self._path} is not a high-water file") from error

    async def reach(self, mark: Mark) -> None:
        """Raise the file to at least this mark, durably."""
        if self._reached.over(mark) != self._reached:
            await asyncio.to_thread(self._raise, mark)

    def _raise(self, mark: Mark) -> None:
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            present = self.read()
            higher = mark if present is None else mark.over(present)
            if higher != present:
                text = json.dumps({"epoch": higher.epoch, "counter": higher.counter, "log_size": higher.log_size})
                write_private(self._path, text.encode() + b"\n")
            self._reached = higher


class _RestoreNoticedError(Exception):
    """The file is ahead of the database."""


class Standing:
    """The witness's state within one transaction."""

    def __init__(self, mark: Mark) -> None:
        self.epoch, self.counter, self._before = mark.epoch, mark.counter, mark.counter

    @property
    def advanced(self) -> bool:
        """Whether something was given in this transaction."""
        return self.counter > self._before

    def advance(self) -> None:
        """A commitment or signature is given."""
        self.counter += 1


class RestoreWatch:
    """Runs transactions whose results must not be forgotten."""

    def __init__(self, database: Database, water: HighWater) -> None:
        self._database, self._water = database, water

    async def start(self) -> None:
        """Compare file and database; raises Unavailable."""
        await self.run("witness.start", _nothing)

    async def run(self, name: str, work: Callable[[Transaction, Standing], Awaitable[T]]) -> T:
        """Run `work` in this service's turn; what it gives is committed and noted before this returns."""

        async def guarded(tx: Transaction) -> tuple[T, Mark]:
            await KeysRepository(tx).in_turn()
            mark = await _mark(tx)
            if mark.behind(self._water.read()):
                raise _RestoreNoticedError
            standing = Standing(mark)
            result = await work(tx, standing)
            if standing.advanced:
                await WitnessRepository(tx).put_state(standing.epoch, standing.counter)
            return result, await _mark(tx)

        async def attempt() -> tuple[T, Mark]:
            return await self._database.run(name, guarded)

        return await self._noted(attempt)

    async def read(self, name: str, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work`, which signs a head, on one snapshot; the log's size is noted before this returns."""

        async def guarded(tx: Transaction) -> tuple[T, Mark]:
            return await work(tx), await _mark(tx)

        async def attempt() -> tuple[T, Mark]:
            seen = self._water.read()  # before the snapshot, which is then at least as new
            result, mark = await self._database.read(name, guarded)
            if mark.behind(seen):
                raise _RestoreNoticedError
            return result, mark

        return await self._noted(attempt)

    async def _noted(self, attempt: Callable[[], Awaitable[tuple[T, Mark]]]) -> T:
        try:
            result, mark = await attempt()
        except _RestoreNoticedError:
            await self._declare()
            try:
                result, mark = await attempt()
            except _RestoreNoticedError as error:
                raise Unavailable("the database is older than the high-water file", retry_after_s=1) from error
        point("keys.given.committed")
        await self._water.reach(mark)
        point("keys.given.noted")
        return result

    async def _declare(self) -> None:
        """Begin a new epoch and say so in the log, unless another process has just done it."""

        async def work(tx: Transaction) -> Mark:
            await KeysRepository(tx).in_turn()
            mark, seen = await _mark(tx), self._water.read()
            if not mark.behind(seen):
                return mark
            now = await tx.now()
            # Without a file nobody knows how many epochs there were, so the next one counts from the clock.
            epoch = max(mark.epoch, seen.epoch) + 1 if seen else max(mark.epoch + 1, int(now.timestamp()))
            await WitnessRepository(tx).put_state(epoch, max(mark.counter, seen.counter if seen else 0) + 1)
            await log_restored(tx, epoch)
            log.error("witness.restored", epoch=epoch, log_size=mark.log_size)
            return await _mark(tx)

        await self._water.reach(await self._database.run("witness.restored", work))


async def _mark(tx: Transaction) -> Mark:
    epoch, counter = await WitnessRepository(tx).state()
    return Mark(epoch, counter, await LogRepository(tx).size())


async def _nothing(tx: Transaction, standing: Standing) -> None:
    """Only the comparison."""
