"""Notices that the database was restored from a copy, by a small file that is never restored with it.

Every commitment, signature, verdict and log head is first committed, then noted in the high-water file (fsynced), and
only then leaves. So the file is never ahead of the database, unless the database is an older copy. Then the epoch goes
up, which voids all rounds of earlier epochs: for them this service may have signed what it does not remember.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog

from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Unavailable
from undersong.shared.faults import point
from undersong.shared.identity.highwater import HighWater, Mark

T = TypeVar("T")
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Marks(Protocol):
    """Where a service keeps its mark, and what a restore means to it."""

    async def in_turn(self, tx: Transaction) -> None:
        """Wait for this transaction's turn: marks rise one after the other, in the order of commits."""

    async def mark(self, tx: Transaction) -> Mark:
        """Return how far the database has come."""

    async def put(self, tx: Transaction, epoch: int, counter: int) -> None:
        """Store epoch and counter."""

    async def restored(self, tx: Transaction, epoch: int) -> None:
        """Begin a new epoch: void what must be void, and say so."""


class _RestoreNoticedError(Exception):
    """The file is ahead of the database."""


class PendingMark:
    """The high-water mark within one transaction, before it is written."""

    def __init__(self, mark: Mark) -> None:
        self.epoch, self.counter, self._before = mark.epoch, mark.counter, mark.counter

    @property
    def advanced(self) -> bool:
        """Return whether something was given in this transaction."""
        return self.counter > self._before

    def advance(self) -> None:
        """Count a commitment, signature or verdict that is given."""
        self.counter += 1


class RestoreWatch:
    """Runs transactions whose results must not be forgotten."""

    def __init__(self, database: Database, water: HighWater, marks: Marks) -> None:
        self._database, self._water, self._marks = database, water, marks

    async def start(self) -> None:
        """Compare file and database; raises Unavailable."""
        await self.run("restores.start", _nothing)

    async def run(self, name: str, work: Callable[[Transaction, PendingMark], Awaitable[T]]) -> T:
        """Run `work` in this service's turn; what it gives is committed and noted before this returns."""

        async def guarded(tx: Transaction) -> tuple[T, Mark]:
            await self._marks.in_turn(tx)
            mark = await self._marks.mark(tx)
            if mark.behind(self._water.read()):
                raise _RestoreNoticedError
            pending = PendingMark(mark)
            result = await work(tx, pending)
            if pending.advanced:
                await self._marks.put(tx, pending.epoch, pending.counter)
            return result, await self._marks.mark(tx)

        async def attempt() -> tuple[T, Mark]:
            return await self._database.run(name, guarded)

        return await self._noted(attempt)

    async def read(self, name: str, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work`, whose result leaves, on one snapshot; the mark is noted before this returns."""

        async def guarded(tx: Transaction) -> tuple[T, Mark]:
            return await work(tx), await self._marks.mark(tx)

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
        """Begin a new epoch and say so, unless another process has just done it."""

        async def work(tx: Transaction) -> Mark:
            await self._marks.in_turn(tx)
            mark, seen = await self._marks.mark(tx), self._water.read()
            if not mark.behind(seen):
                return mark
            now = await tx.now()
            # Without a file the number of epochs is unknown, so the next one counts from the clock.
            epoch = max(mark.epoch, seen.epoch) + 1 if seen else max(mark.epoch + 1, int(now.timestamp()))
            await self._marks.put(tx, epoch, max(mark.counter, seen.counter if seen else 0) + 1)
            await self._marks.restored(tx, epoch)
            log.error("database.restored", epoch=epoch, log_size=mark.log_size)
            return await self._marks.mark(tx)

        await self._water.reach(await self._database.run("restores.declare", work))


async def _nothing(tx: Transaction, pending: PendingMark) -> None:
    """Only the comparison."""
