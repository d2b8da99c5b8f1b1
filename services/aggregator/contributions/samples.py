"""Committed sample counts: checked when a site first takes part in a job, and the same bytes ever after."""

import asyncio
from collections.abc import Mapping

import structlog

from undersong.services.aggregator.domain.refusals import SampleCountMissing, SampleCountUnproved
from undersong.services.aggregator.repository.rounds import RoundRepository
from undersong.services.aggregator.repository.rows import Stored
from undersong.services.aggregator.repository.samples import SampleRepository, changed
from undersong.shared.database import Database
from undersong.shared.errors import Refusal
from undersong.shared.ids import SiteId
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.zk import samples

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def check_samples(
    database: Database, stored: Stored, manifest: RoundManifest, site_id: SiteId, message: bytes | None
) -> bytes | None:
    """Check, before an update is stored, that its committed sample count is there, in range and the same as before.

    What comes back is to be stored with the update: the message, where it is the site's first in the job.
    Raises SampleCountMissing, SampleCountUnproved or SampleCountChanged.
    """
    if not samples.takes_commitments(manifest):
        if message is not None:
            raise SampleCountUnproved("this round takes no committed sample count: there is nothing to weigh")
        return None
    if message is None:
        raise SampleCountMissing("the update's header carries no committed sample count")
    known = await database.read("samples.find", lambda tx: SampleRepository(tx, stored.job_id).find(site_id))
    if known == message:
        return None
    if known is not None:
        await _note(database, stored, site_id, {"first": _hex(known), "second": _hex(message)})
        raise changed(site_id)
    try:
        await asyncio.to_thread(samples.verify, manifest, site_id, message)
    except Refusal as refusal:
        raise SampleCountUnproved(f"{site_id}: {refusal.detail}") from refusal
    return message


async def _note(database: Database, stored: Stored, site_id: SiteId, detail: Mapping[str, str]) -> None:
    log.warning("samples.changed", round_id=stored.round.id, site_id=site_id, **detail)
    round_id = stored.round.id
    await database.run(
        "samples.changed", lambda tx: RoundRepository(tx).note(round_id, "samples.changed", site_id, detail)
    )


def _hex(message: bytes) -> str:
    return message[: samples.COMMITMENT_SIZE].hex()
