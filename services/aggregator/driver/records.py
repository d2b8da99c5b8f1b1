"""A published round's record for the log: written down with the result, then handed to keys until it has it."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import structlog
from pydantic import ValidationError

from undersong.services.aggregator.contributions.folding import Folding
from undersong.services.aggregator.peers.keys import Keys
from undersong.services.aggregator.peers.peer import AskRefused
from undersong.services.aggregator.repository.contributions import ContributionRepository
from undersong.services.aggregator.repository.records import RecordRepository
from undersong.services.aggregator.repository.rounds import RoundRepository
from undersong.services.aggregator.repository.samples import SampleRepository
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Unavailable
from undersong.shared.faults import point
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.telemetry.metrics import AUDIT_APPEND_FAILURES
from undersong.shared.transparency.documents import RoundRecord, RoundResult
from undersong.shared.transparency.records import transcript_of
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.zk.samples import takes_commitments

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_UNKNOWN: Final = Digest("0" * 64)


def evidence_of(folding: Folding, sum_digest: str) -> dict[str, Any]:
    """Return the facts of a record that only the worker which opened the sum knows."""
    found = folding.engine.server.evidence(folding.server_round)
    return {
        "roster": None if found.roster is None else found.roster.hex(),
        "sharers": None if found.sharers is None else found.sharers.hex(),
        "survivors": None if found.survivors is None else found.survivors.hex(),
        "upload_signatures": {site: signature.hex() for site, signature in found.upload_signatures.items()},
        "commitments": {site: signature.hex() for site, signature in found.commitments.items()},
        "complaints": {site: said.hex() for site, said in found.complaints.items()},
        "faults": dict(found.faults),
        "sum_digest": sum_digest,
    }


def values_digest(values: list[float]) -> Digest:
    """Return the digest under which opened sums stand in a record; the sums themselves are the coordinator's."""
    return digest_document({"values": values})


async def _samples(rows: SampleRepository, manifest: RoundManifest, sites: Iterable[SiteId]) -> dict[str, Any]:
    """Return the sites' committed sample counts, and those proofs that no earlier record of the job carries."""
    if not takes_commitments(manifest):
        return {}
    found = await rows.commitments(sites), await rows.logged_in(manifest.round_id, sites)
    return {"samples": found[0], "sample_proofs": found[1]}


class Records:
    """RoundMaintenance records to keys."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database, self._keys = database, keys

    async def hand_in(self, round_id: RoundId) -> bool:
        """Give a round's record to keys, if that is still to be done; whether the keys service has it now."""
        found = await self._database.read("record.read", lambda tx: self._compose(tx, round_id))
        if found is None:
            return False
        record, tries = found
        try:
            await self._keys.record(record)
            point("aggregator.record.given")
        except Unavailable as error:
            log.warning("record.waits", round_id=round_id, reason=error.detail)
            await self._database.run("record.postpone", lambda tx: RecordRepository(tx).postpone(round_id, tries))
            return False
        except AskRefused as error:
            why = error.detail
            AUDIT_APPEND_FAILURES.inc()
            log.warning("record.refused", round_id=round_id, reason=why)
            await self._database.run("record.refused", lambda tx: RecordRepository(tx).refused(round_id, why))
            return False
        await self._database.run("record.posted", lambda tx: RecordRepository(tx).posted(round_id))
        return True

    async def sweep(self) -> int:
        """Submit due records to the keys service and return how many it accepted."""
        due = await self._database.read("records.due", lambda tx: RecordRepository(tx).due())
        return sum([await self.hand_in(round_id) for round_id in due])

    async def _compose(self, tx: Transaction, round_id: RoundId) -> tuple[RoundRecord, int] | None:
        rows, row = RoundRepository(tx), await RecordRepository(tx).find(round_id)
        stored = None if row is None else await rows.get(round_id)
        signed = None if stored is None else stored.signed_manifest()
        if row is None or stored is None or signed is None:
            return None
        bodies = {c.site_id: c.digest for c in await ContributionRepository(tx).of(round_id) if c.code is None}
        try:
            record = RoundRecord(
                manifest=signed,
                engine=signed.manifest.engine,
                **row.facts,
                bodies=bodies,
                **await _samples(SampleRepository(tx, stored.job_id), signed.manifest, bodies),
                transcript=_UNKNOWN,
                result=RoundResult.model_validate(row.result),
                contributors=len(bodies),
            )
        except ValidationError:
            AUDIT_APPEND_FAILURES.inc()
            log.exception("record.unusable", round_id=round_id)
            return None
        head = (await asyncio.to_thread(transcript_of, record))[-1]
        return record.model_copy(update={"transcript": Digest(head.hex())}), row.tries
