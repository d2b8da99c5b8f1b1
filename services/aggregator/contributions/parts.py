"""Sharing one round among workers, on the side of the worker that holds it.

Where many updates wait, the holder cuts them into disjoint parts. It folds parts itself, one after the other; any
other worker may claim one as well and submit its partial sum (`part_worker.py`), which the holder adds to its own.
Only the holder closes, rejects, opens or publishes, and no worker has to help: what no partial sum brought, because
its worker died or found an update that it could not use, the holder folds as if there had been no parts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from undersong.services.aggregator.contributions.bodies import local_file
from undersong.services.aggregator.contributions.folding import Folding
from undersong.services.aggregator.contributions.partial_sum import PartialSumBroken, unseal
from undersong.services.aggregator.repository.contributions import Contribution
from undersong.services.aggregator.repository.parts import HandedIn, Part, PartRepository
from undersong.services.aggregator.repository.rows import Stored
from undersong.shared.blobs import BlobStore
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Refusal
from undersong.shared.faults import point
from undersong.shared.identity.sealing import SealBrokenError, Sealer
from undersong.shared.ids import RoundId
from undersong.shared.queues import Subscription
from undersong.shared.telemetry.metrics import PARTS

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_MOST_PARTS: Final = 8  # each costs the writing and reading of one sum
_A_MOMENT_S: Final = 0.05
_FEWEST_UPDATES: Final = 8  # in a part, or less would be saved than it costs


@dataclass(frozen=True, slots=True)
class RoundHolder:
    """A worker's hold on a round. `fold` adds one body to the sum, or raises a Refusal; `renew` keeps the hold."""

    fence: int
    folding: Folding
    fold: Callable[[Contribution], Awaitable[None]]
    renew: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Shared:
    """A round whose updates are shared: `waiting` are those of this sharing, `done` the parts that need no row more.

    `patience_s`: when another worker's claim may run out.
    """

    holder: RoundHolder
    round_id: RoundId
    length: int
    waiting: dict[int, Contribution]
    done: tuple[int, ...] = ()
    patience_s: float = 0.0
    by_others: int = 0


@dataclass(frozen=True, slots=True)
class _Turn:
    handed_in: Sequence[HandedIn]
    mine: Part | None
    claimed_for_s: float | None


class RoundParts:
    """Cuts, folds and gathers parts for the worker that holds a round."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        sealer: Sealer,
        *,
        worker_id: str,
        lease_s: float,
        min_updates: int,
        min_bytes: int,
    ) -> None:
        self._database, self._blobs, self._sealer = database, blobs, sealer
        self._worker_id, self._look_every_s = worker_id, lease_s / 3
        self._min_updates, self._min_bytes = min_updates, min_bytes

    def worth(self, stored: Stored, folding: Folding, waiting: Sequence[Contribution]) -> bool:
        """Return whether so much waits that sharing it may save time. A first model is no sum, and is not shared;
        nor are updates that the round compares.
        """
        encoding = folding.manifest.encoding
        if len(waiting) < self._min_updates or encoding is None or stored.length is None or folding.compares:
            return False
        return len(waiting) * stored.length * encoding.modulus_bits // 8 >= self._min_bytes

    async def share(
        self, stored: Stored, holder: RoundHolder, waiting: Sequence[Contribution], subscription: Subscription
    ) -> None:
        """Fold `waiting` together with the other workers. What could not be folded stays missing."""
        shared = await self.offer(stored, holder, waiting)
        while await self.gather(shared):
            if not shared.done:
                await subscription.wait(min(shared.patience_s, self._look_every_s))
            await holder.renew()
        log.info("round.shared", updates=len(waiting), by_others=shared.by_others)

    async def offer(self, stored: Stored, holder: RoundHolder, waiting: Sequence[Contribution]) -> Shared:
        """Cut what waits into parts, and let all workers know."""
        assert stored.length is not None  # noqa: S101  (`worth` has seen to it)
        round_id, cut = stored.round.id, cut_into_parts([c.id for c in waiting])
        await self._database.run("parts.offer", lambda tx: PartRepository(tx).offer(round_id, holder.fence, cut))
        point("aggregator.parts.offered")
        return Shared(holder, round_id, stored.length, {c.id: c for c in waiting})

    async def gather(self, shared: Shared) -> bool:
        """Add submitted partial sums, fold one part; False when no parts are left."""
        turn = await self._database.run("parts.turn", lambda tx: self._turn(tx, shared))
        shared.done = ()
        for handed in turn.handed_in:
            await self._add(shared, handed)
            shared.done += (handed.id,)
            await shared.holder.renew()
        if turn.mine is not None:
            await self._fold(shared, turn.mine)
            shared.done += (turn.mine.id,)
        shared.patience_s = turn.claimed_for_s or 0.0
        return bool(shared.done) or turn.claimed_for_s is not None

    async def _turn(self, tx: Transaction, shared: Shared) -> _Turn:
        rows, fence = PartRepository(tx), shared.holder.fence
        await rows.drop(shared.done)
        handed_in = await rows.handed_in(shared.round_id, fence)
        mine = await rows.take_own(shared.round_id, fence, self._worker_id)
        until, now = await rows.under_way(shared.round_id, fence), await tx.now()
        claimed_for_s = None if until is None else max(0.0, (until - now).total_seconds()) + _A_MOMENT_S
        return _Turn(handed_in, mine, claimed_for_s)

    async def _fold(self, shared: Shared, part: Part) -> None:
        for member in part.members:
            with suppress(Refusal):  # it stays missing, so the holder comes to it again and rejects it
                await shared.holder.fold(shared.waiting[member])
            await shared.holder.renew()
        PARTS.labels("own").inc()

    async def _add(self, shared: Shared, handed: HandedIn) -> None:
        """Add a partial sum, or leave it: then its members stay missing, and are folded from their bodies."""
        try:
            await self._take_in(shared, handed)
        except (Refusal, SealBrokenError, ValueError) as error:
            PARTS.labels("unusable").inc()
            log.warning("part.unusable", members=len(handed.members), error=str(error))
        else:
            PARTS.labels("added").inc()
            shared.by_others += len(handed.folded)
        if handed.digest is not None:
            await self._blobs.delete(handed.digest)
        point("aggregator.part.added")

    async def _take_in(self, shared: Shared, handed: HandedIn) -> None:
        encoding, folded = shared.holder.folding.manifest.encoding, set(handed.folded)
        if handed.digest is None or handed.key is None or encoding is None:
            return
        if not folded <= set(handed.members) <= shared.waiting.keys():
            raise PartialSumBroken("the partial sum is of others than its part has")
        key = self._sealer.open(handed.key, "parts", handed.claim, "key")
        async with local_file(self._blobs, handed.digest) as path:
            words = await asyncio.to_thread(unseal, path, key, handed.claim, encoding.modulus_bits, shared.length)
        await asyncio.to_thread(shared.holder.folding.take_in, folded, words)

    async def collect(self) -> int:
        """Clear away the parts of ended rounds and of earlier holds; how many."""
        stale = await self._database.read("parts.stale", lambda tx: PartRepository(tx).stale())
        for part in stale:
            if part.digest is not None:
                await self._blobs.delete(part.digest)
            await self._database.run("part.forget", lambda tx, part=part: PartRepository(tx).forget(part))  # type: ignore[misc]
        return len(stale)


def cut_into_parts(ids: Sequence[int]) -> list[Sequence[int]]:
    """Disjoint parts of nearly the same size, together all of the ids."""
    count = max(1, min(_MOST_PARTS, len(ids) // _FEWEST_UPDATES))
    return [ids[len(ids) * at // count : len(ids) * (at + 1) // count] for at in range(count)]
