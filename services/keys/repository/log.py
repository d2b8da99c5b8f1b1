"""All SQL of the transparency log and of round records; rows never leave."""

from collections.abc import Iterable
from datetime import datetime

import msgpack
from sqlalchemy import String, func, literal, select, tuple_
from sqlalchemy.orm import aliased

from undersong.services.keys.tables import CertificateRow, LogEntryRow, LogNodeRow, RevocationRow, RoundRecordRow
from undersong.shared.database import Transaction
from undersong.shared.merkle.tree import Node
from undersong.shared.transparency.documents import CERTIFICATE_ISSUED, CERTIFICATE_REVOKED, LogEntry, RoundRecord

_CHUNK = 300  # nodes a query: databases limit a statement's parameters


class LogRepository:
    """The log's tables within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._session = tx.session

    async def size(self) -> int:
        """Return the number of leaves."""
        last = await self._session.scalar(select(func.max(LogEntryRow.index)))
        return 0 if last is None else last + 1

    async def nodes(self, wanted: Iterable[Node]) -> dict[Node, bytes]:
        """Return the hashes of these complete subtrees."""
        found: dict[Node, bytes] = {}
        nodes = list(wanted)
        for start in range(0, len(nodes), _CHUNK):
            keys = tuple_(LogNodeRow.level, LogNodeRow.position).in_(nodes[start : start + _CHUNK])
            rows = await self._session.execute(
                select(LogNodeRow.level, LogNodeRow.position, LogNodeRow.hash).where(keys)
            )
            found.update({(level, position): value for level, position, value in rows})
        return found

    async def add(self, entry: LogEntry, document: bytes, nodes: Iterable[tuple[Node, bytes]], now: datetime) -> None:
        """Store a leaf and the subtrees that it completes."""
        self._session.add(
            LogEntryRow(index=entry.index, type=entry.type, subject=entry.subject, document=document, appended_at=now)
        )
        self._session.add_all(
            LogNodeRow(level=level, position=position, hash=value) for (level, position), value in nodes
        )
        await self._session.flush()

    async def entries(self, start: int, end: int) -> list[LogEntry]:
        """Return the leaves [start, end), as far as there are any."""
        query = select(LogEntryRow).where(LogEntryRow.index >= start, LogEntryRow.index < end)
        rows = await self._session.scalars(query.order_by(LogEntryRow.index))
        return [
            LogEntry.model_validate(
                {
                    "index": row.index,
                    "type": row.type,
                    "subject": row.subject,
                    "document": msgpack.unpackb(row.document, raw=False),
                }
            )
            for row in rows
        ]

    async def unlogged_certificates(self) -> list[str]:
        """Key ids of certificates that were issued before there was a log."""
        columns = select(CertificateRow.keyid).order_by(CertificateRow.not_before, CertificateRow.keyid)
        logged = aliased(LogEntryRow)
        here = (logged.subject == CertificateRow.keyid) & (logged.type == literal(CERTIFICATE_ISSUED, String))
        query = columns.outerjoin(logged, here).where(logged.index.is_(None))
        return list(await self._session.scalars(query))

    async def unlogged_revocations(self) -> list[tuple[str, datetime]]:
        """(key id, time) of revocations from before there was a log."""
        logged = aliased(LogEntryRow)
        here = (logged.subject == RevocationRow.keyid) & (logged.type == literal(CERTIFICATE_REVOKED, String))
        query = (
            select(RevocationRow.keyid, RevocationRow.revoked_at)
            .outerjoin(logged, here)
            .where(logged.index.is_(None))
            .order_by(RevocationRow.sequence)
        )
        return [(keyid, at) for keyid, at in await self._session.execute(query)]

    async def record(self, round_id: str) -> tuple[RoundRecord, int] | None:
        """Return a round's record and its place in the log, if it is there."""
        row = await self._session.get(RoundRecordRow, round_id)
        if row is None:
            return None
        return RoundRecord.model_validate_json(row.record), row.index

    async def record_digest(self, round_id: str) -> str | None:
        """Return the digest of the round's record, if there is one."""
        return await self._session.scalar(select(RoundRecordRow.digest).where(RoundRecordRow.round_id == round_id))

    async def add_record(self, record: RoundRecord, index: int, now: datetime) -> None:
        """Store a round's record."""
        self._session.add(
            RoundRecordRow(
                round_id=record.round_id,
                federation_id=record.manifest.manifest.federation_id,
                digest=record.digest(),
                record=record.model_dump_json(),
                index=index,
                recorded_at=now,
            )
        )
        await self._session.flush()
