"""Folding parts of rounds that other workers hold.

One part at a time, so it costs the memory of one sum. A part is claimed with a lease: a worker that dies here leaves a
claim that expires, and at worst a blob without a key, which the hourly tidying deletes.
"""

import asyncio
from datetime import timedelta

import structlog

from undersong.services.aggregator.contributions.bodies import local_file
from undersong.services.aggregator.contributions.folding import Folding
from undersong.services.aggregator.contributions.partial_sum import new_key, seal, sealed_size
from undersong.services.aggregator.domain.manifests import manifest_of
from undersong.services.aggregator.repository.contributions import Contribution, ContributionRepository
from undersong.services.aggregator.repository.parts import PARTS, Part, PartRepository
from undersong.services.aggregator.repository.rounds import RoundRepository
from undersong.services.aggregator.repository.rows import Stored
from undersong.shared.blobs import BlobStore
from undersong.shared.clock import monotonic
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Refusal, Unavailable
from undersong.shared.faults import point
from undersong.shared.identity.sealing import Sealer
from undersong.shared.ids import Digest
from undersong.shared.queues import Notifier
from undersong.shared.secagg.quantise import ModVector
from undersong.shared.telemetry import metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class PartWorker:
    """Looks for parts when notified of them, and every `look_every_s` in case a notification was lost."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        sealer: Sealer,
        notifier: Notifier,
        *,
        worker_id: str,
        lease_s: float,
        look_every_s: float,
    ) -> None:
        self._database, self._blobs, self._sealer, self._notifier = database, blobs, sealer, notifier
        self._worker_id, self._lease, self._look_every_s = worker_id, timedelta(seconds=lease_s), look_every_s

    async def run(self) -> None:
        """Fold parts until cancelled."""
        with self._notifier.listen(PARTS) as subscription:
            while True:
                try:
                    while await self.fold_next():
                        pass
                except Unavailable as error:
                    log.warning("parts.wait", reason=error.detail)
                except Exception:
                    log.exception("part.stumbled")
                await subscription.wait(self._look_every_s)

    async def fold_next(self) -> bool:
        """Fold one part and hand it in; False when there is none."""
        part = await self.claim()
        if part is None:
            return False
        settled = False
        try:
            folding = await self.fold(part)
            if folding is not None:
                await self.hand_in(part, folding)
            settled = True
        finally:
            if not settled:
                await asyncio.shield(self._give_back(part))
        return True

    async def claim(self) -> Part | None:
        """Return a part that is free."""
        if not await self._database.read("parts.free", lambda tx: PartRepository(tx).any_free(self._worker_id)):
            return None
        part = await self._database.run("part.claim", lambda tx: PartRepository(tx).claim(self._worker_id, self._lease))
        if part is not None:
            point("aggregator.part.claimed")
        return part

    async def fold(self, part: Part) -> Folding | None:
        """Return the sum of the part; None when the claim is lost.

        An update that cannot be used is left to the holder.
        """

        async def look(tx: Transaction) -> tuple[Stored, list[Contribution]]:
            stored = await RoundRepository(tx).get(part.round_id)
            members = set(part.members)
            return stored, [c for c in await ContributionRepository(tx).of(part.round_id) if c.id in members]

        stored, contributions = await self._database.read("part.view", look)
        if stored.engine_secret is None:
            return None
        secret = self._sealer.open(stored.engine_secret, "rounds", part.round_id, "engine_secret")
        folding, renew_at = Folding(manifest_of(stored.manifest), secret, length=stored.length), self._renewal()
        for contribution in folding.missing(contributions):
            try:
                async with local_file(self._blobs, contribution.digest) as path:
                    await asyncio.to_thread(folding.add, contribution, path)
            except Refusal as refusal:
                log.info("part.leaves_update", round_id=part.round_id, detail=refusal.detail)
                continue
            point("aggregator.part.folded")
            if monotonic() >= renew_at:
                if not await self._database.run("part.renew", lambda tx: PartRepository(tx).renew(part, self._lease)):
                    return None
                renew_at = self._renewal()
        return folding

    async def hand_in(self, part: Part, folding: Folding) -> bool:
        """Store the partial sum and tell the holder; False when the claim was lost, and then nothing stays."""
        digest, sealed_key = None, None
        if folding.total is not None:
            key = new_key()
            sealed_key = self._sealer.seal(key, "parts", part.claim, "key")
            digest = await self._store(folding.total.total, key, part.claim)
            point("aggregator.part.stored")
        folded = sorted(folding.folded)
        taken = await self._database.run(
            "part.hand_in", lambda tx: PartRepository(tx).hand_in(part, folded, digest, sealed_key)
        )
        point("aggregator.part.handed")
        metrics.PARTS.labels("handed_in" if taken else "late").inc()
        if not taken and digest is not None:
            await self._blobs.delete(digest)
        return taken

    async def _store(self, total: ModVector, key: bytes, claim: str) -> Digest:
        size = sealed_size(total)
        return (await self._blobs.put_stream(seal(total, key, claim), limit=size, expect_size=size)).digest

    async def _give_back(self, part: Part) -> None:
        try:
            await self._database.run("part.give_back", lambda tx: PartRepository(tx).give_back(part))
        except Unavailable:
            log.warning("part.not_given_back")  # its lease runs out by itself

    def _renewal(self) -> float:
        return monotonic() + self._lease.total_seconds() / 3
