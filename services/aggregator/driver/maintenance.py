"""What a worker looks after beside driving rounds: events, overdue and unattended rounds, what ended rounds leave."""

import secrets
from datetime import timedelta
from typing import Final

import structlog

from undersong.services.aggregator.contributions.parts import RoundParts
from undersong.services.aggregator.driver.driver import RoundDriver
from undersong.services.aggregator.driver.records import Records
from undersong.services.aggregator.repository.rounds import RoundRepository
from undersong.services.aggregator.rounds.lifecycle import Rounds
from undersong.shared.blobs import BlobStore
from undersong.shared.clock import monotonic
from undersong.shared.database import Database, Transaction
from undersong.shared.ids import Digest, RoundId
from undersong.shared.queues import Event
from undersong.shared.telemetry.metrics import (
    RECEIPTS_UNCOUNTED,
    ROUND_AGE_SECONDS,
    ROUND_OVERDUE_SECONDS,
    UPDATES_UNFOLDED,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


_TIDY_EVERY_S: Final = 600.0


_AUDITED: Final = timedelta(days=1)


def new_worker_id() -> str:
    """Return a name for this start of a worker; a restarted one never passes for its dead predecessor."""
    return f"worker-{secrets.token_hex(8)}"


class RoundMaintenance:
    """What the worker does on an event, and at every sweep."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        rounds: Rounds,
        driver: RoundDriver,
        records: Records,
        parts: RoundParts,
    ) -> None:
        self._database, self._blobs, self._rounds, self._driver = database, blobs, rounds, driver
        self.records, self.parts = records, parts
        self._tidy_at = monotonic()  # at the start too: a worker that is killed often must not put it off

    async def hear(self, event: Event) -> None:
        """Take an event of our own topic: there is something to do for a round."""
        round_id = RoundId(event.subject)
        if event.type in ("round.failed", "round.cancelled"):
            await self._rounds.scrub(round_id)
        self._driver.wake(round_id)

    async def attend(self) -> int:
        """Claim open rounds without a holder."""
        found = await self._database.read("rounds.unattended", lambda tx: RoundRepository(tx).unattended())
        return sum(self._driver.wake(round_id) for round_id in found)

    async def enforce(self) -> int:
        """Make transitions that the guards demand: a deadline that passed, a quorum that went unnoticed."""
        found = await self._database.read("rounds.overdue", lambda tx: RoundRepository(tx).overdue())
        moved = 0
        for round_id in found:
            before = (await self._rounds.view(round_id)).stored.version
            moved += (await self._rounds.evaluate(round_id)).version != before
            self._driver.wake(round_id)
        return moved

    async def scrub(self) -> int:
        """Delete bodies of ended rounds."""
        found = await self._database.read("rounds.unscrubbed", lambda tx: RoundRepository(tx).unscrubbed())
        for round_id in found:
            await self._rounds.scrub(round_id)
        return 0  # the ordinary way for published rounds, so no repair

    async def tidy(self, keep: timedelta) -> int:
        """At the start and every ten minutes: delete blobs that no round needs, and what broken uploads left."""
        if monotonic() < self._tidy_at:
            return 0
        self._tidy_at = monotonic() + _TIDY_EVERY_S
        return await self.clear(keep)

    async def clear(self, keep: timedelta) -> int:
        """Delete blobs older than `keep` that no round needs; how many."""
        count = await self._blobs.discard_incoming(keep)
        async for blob in self._blobs.list(keep):
            if not await self._needed(blob.digest):
                await self._blobs.delete(blob.digest)
                count += 1
        return count

    async def measure(self) -> int:
        """Set the age of the oldest round of each phase, and how many updates wait to be folded."""

        async def work(tx: Transaction) -> None:
            oldest, now = await RoundRepository(tx).oldest(), await tx.now()
            ROUND_AGE_SECONDS.clear()
            UPDATES_UNFOLDED.set(await RoundRepository(tx).unfolded())
            ROUND_OVERDUE_SECONDS.set(
                max(0.0, (now - (await RoundRepository(tx).earliest_deadline() or now)).total_seconds())
            )
            for phase, opened_at in oldest.items():
                ROUND_AGE_SECONDS.labels(phase).set((now - opened_at).total_seconds())

        await self._database.read("rounds.oldest", work)
        return 0

    async def audit(self) -> int:
        """Count acknowledged updates of published rounds that are not in the sum, for the metric."""

        async def work(tx: Transaction) -> int:
            return await RoundRepository(tx).uncounted(await tx.now() - _AUDITED)

        RECEIPTS_UNCOUNTED.set(await self._database.read("receipts.audit", work))
        return 0

    async def _needed(self, digest: Digest) -> bool:
        return await self._database.read("blob.in_use", lambda tx: RoundRepository(tx).in_use(digest))
