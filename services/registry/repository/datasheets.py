"""SQL of privacy datasheets; rows never leave."""

from datetime import datetime

from sqlalchemy import func, select

from undersong.services.registry.domain import DatasheetMissing
from undersong.services.registry.tables import AuditRow, DatasheetRow, VersionRow
from undersong.shared.database import Transaction
from undersong.shared.transparency.datasheet import SignedDatasheet


class DatasheetRepository:
    """Datasheets within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._session = tx.session

    async def newest(self, version_id: str) -> SignedDatasheet:
        """Return a version's datasheet that was stored last; raises DatasheetMissing."""
        query = select(DatasheetRow.document).where(DatasheetRow.version_id == version_id)
        found = await self._session.scalar(query.order_by(DatasheetRow.id.desc()).limit(1))
        if found is None:
            raise DatasheetMissing(f"No datasheet of {version_id} is kept here yet.")
        return SignedDatasheet.model_validate_json(found)

    async def made_at(self, version_id: str) -> datetime | None:
        """Return when the newest datasheet of a version was made."""
        query = select(func.max(DatasheetRow.made_at)).where(DatasheetRow.version_id == version_id)
        return await self._session.scalar(query)

    async def has(self, version_id: str, digest: str) -> bool:
        """Return whether this datasheet is kept already."""
        query = select(DatasheetRow.id).where(DatasheetRow.version_id == version_id, DatasheetRow.digest == digest)
        return await self._session.scalar(query) is not None

    async def add(self, signed: SignedDatasheet, now: datetime) -> None:
        """Store a datasheet beside earlier ones."""
        sheet = signed.datasheet
        row = DatasheetRow(
            version_id=sheet.subject.version_id,
            digest=sheet.digest(),
            document=signed.model_dump_json(),
            audits=len(sheet.audits),
            made_at=sheet.made_at,
            stored_at=now,
        )
        self._session.add(row)
        await self._session.flush()

    async def stale(self, limit: int) -> list[str]:
        """Return living versions that have more audits than any datasheet of them that is kept tells of."""
        counted = select(AuditRow.version_id, func.count().label("audits"))
        audits = counted.group_by(AuditRow.version_id).subquery()
        told = select(DatasheetRow.version_id, func.max(DatasheetRow.audits).label("audits"))
        sheets = told.group_by(DatasheetRow.version_id).subquery()
        query = (
            select(audits.c.version_id)
            .join(VersionRow, VersionRow.id == audits.c.version_id)
            .outerjoin(sheets, sheets.c.version_id == audits.c.version_id)
            .where(VersionRow.deleted_at.is_(None), func.coalesce(sheets.c.audits, 0) < audits.c.audits)
            .order_by(audits.c.version_id.desc())
            .limit(limit)
        )
        return list(await self._session.scalars(query))
