"""A published round's record for the log: written down with the result, then handed to keys until it has it."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

import structlog
from pydantic import ValidationError
from sqlalchemy import select, update

from services.aggregator.contribution_rows import ContributionRows
from services.aggregator.folding import Folding
from services.aggregator.keys import Keys
from services.aggregator.peer import AskRefused
from services.aggregator.repository import Repository
from services.aggregator.rounds import signed_manifest
from services.aggregator.sample_rows import SampleRows
from services.aggregator.tables import RecordRow
from shared.database import Database, Transaction
from shared.errors import Unavailable
from shared.faults import point
from shared.ids import Digest, RoundId, SiteId
from shared.telemetry.metrics import AUDIT_APPEND_FAILURES
from shared.transparency.documents import RoundRecord, RoundResult
from shared.transparency.records import transcript_of
from shared.wire.canonical import digest_document
from shared.wire.manifest import RoundManifest
from shared.zk.samples import takes_commitments

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_FIRST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 600.0
_UNKNOWN: Final = Digest("0" * 64)


def evidence_of(folding: Folding, sum_digest: str) -> dict[str, Any]:
    """The facts of a record that only the worker which opened the sum knows."""
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
    """The digest under which opened sums stand in a record; the sums themselves are the coordinator's."""
    return digest_document({"values": values})


class RecordRows:
    """Records in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def prepare(self, round_id: RoundId, facts: Mapping[str, Any]) -> None:
        """Store the facts unless some are stored. Idempotent."""
        if await self._session.get(RecordRow, round_id) is None:
            self._session.add(RecordRow(round_id=round_id, facts=dict(facts), tries=0))
            await self._session.flush()

    async def complete(self, round_id: RoundId, result: Mapping[str, Any]) -> None:
        """Mark the round as published: its record may be submitted."""
        await self._set(round_id, result=dict(result), next_try_at=await self._tx.now())

    async def find(self, round_id: RoundId) -> RecordRow | None:
        """Return the row, if its record is to be submitted."""
        row = await self._session.get(RecordRow, round_id)
        return None if row is None or row.result is None or row.next_try_at is None else row

    async def due(self, limit: int = 100) -> list[RoundId]:
        """Return rounds whose record should be submitted by now."""
        query = select(RecordRow.round_id).where(RecordRow.next_try_at <= await self._tx.now())
        return [RoundId(one) for one in await self._session.scalars(query.order_by(RecordRow.next_try_at).limit(limit))]

    async def posted(self, round_id: RoundId) -> None:
        """Keys has it."""
        await self._set(round_id, posted_at=await self._tx.now(), next_try_at=None)

    async def refused(self, round_id: RoundId, why: str) -> None:
        """Keys will never take it."""
        await self._set(round_id, refused=why[:500], next_try_at=None)

    async def postpone(self, round_id: RoundId, tries: int) -> None:
        """Try again, later with every time."""
        pause = timedelta(seconds=min(_FIRST_PAUSE_S * 2 ** min(tries, 16), _LONGEST_PAUSE_S))
        await self._set(round_id, tries=tries + 1, next_try_at=await self._tx.now() + pause)

    async def _set(self, round_id: RoundId, **values: Any) -> None:
        query = update(RecordRow).where(RecordRow.round_id == round_id).values(**values)
        await self._session.execute(query, execution_options={"synchronize_session": False})


async def _samples(rows: SampleRows, manifest: RoundManifest, sites: Iterable[SiteId]) -> dict[str, Any]:
    """The sites' committed sample counts, and those proofs that no earlier record of the job carries."""
    if not takes_commitments(manifest):
        return {}
    found = await rows.commitments(sites), await rows.logged_in(manifest.round_id, sites)
    return {"samples": found[0], "sample_proofs": found[1]}


class Records:
    """RoundMaintenance records to keys."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database, self._keys = database, keys

    async def hand_in(self, round_id: RoundId) -> bool:
        """Give a round's record to keys, if that is still to be done; whether keys has it now."""
        found = await self._database.read("record.read", lambda tx: self._compose(tx, round_id))
        if found is None:
            return False
        record, tries = found
        try:
            await self._keys.record(record)
            point("aggregator.record.given")
        except Unavailable as error:
            log.warning("record.waits", round_id=round_id, reason=error.detail)
            await self._database.run("record.postpone", lambda tx: RecordRows(tx).postpone(round_id, tries))
            return False
        except AskRefused as error:
            why = error.detail
            AUDIT_APPEND_FAILURES.inc()
            log.warning("record.refused", round_id=round_id, reason=why)
            await self._database.run("record.refused", lambda tx: RecordRows(tx).refused(round_id, why))
            return False
        await self._database.run("record.posted", lambda tx: RecordRows(tx).posted(round_id))
        return True

    async def sweep(self) -> int:
        """Submit due records to the keys service and return how many it accepted."""
        due = await self._database.read("records.due", lambda tx: RecordRows(tx).due())
        return sum([await self.hand_in(round_id) for round_id in due])

    async def _compose(self, tx: Transaction, round_id: RoundId) -> tuple[RoundRecord, int] | None:
        rows, row = Repository(tx), await RecordRows(tx).find(round_id)
        stored = None if row is None else await rows.get(round_id)
        signed = None if stored is None else signed_manifest(stored)
        if row is None or stored is None or signed is None:
            return None
        bodies = {c.site_id: c.digest for c in await ContributionRows(tx).of(round_id) if c.code is None}
        try:
            record = RoundRecord(
                manifest=signed,
                engine=signed.manifest.engine,
                **row.facts,
                bodies=bodies,
                **await _samples(SampleRows(tx, stored.job_id), signed.manifest, bodies),
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
