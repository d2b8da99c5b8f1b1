"""All SQL of the heads of sites' ledgers; rows are added in this service's turn only."""

from datetime import datetime

from sqlalchemy import func, select

from undersong.services.keys.tables import LedgerHeadRow, LogEntryRow
from undersong.shared.database import Transaction
from undersong.shared.transparency.documents import LEDGER_HEAD
from undersong.shared.transparency.ledger_heads import LedgerHead, LoggedLedgerHead


class LedgerHeadRepository:
    """The table within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._session = tx.session

    async def index_of(self, head: LedgerHead) -> int | None:
        """Return the place of the same head in the log; None where it is not there."""
        query = select(LogEntryRow.index).where(LogEntryRow.type == LEDGER_HEAD, LogEntryRow.subject == head.subject())
        return await self._session.scalar(query)

    async def add(self, head: LedgerHead, index: int, now: datetime) -> None:
        """Store a head that was appended to the log at this index."""
        self._session.add(
            LedgerHeadRow(
                index=index,
                federation_id=head.federation_id,
                site_id=head.site_id,
                head=head.model_dump_json(),
                logged_at=now,
            )
        )
        await self._session.flush()

    async def count_since(self, head: LedgerHead, since: datetime) -> int:
        """Return how many heads of the same site were logged since then."""
        count = select(func.count()).select_from(LedgerHeadRow)
        found = count.where(
            LedgerHeadRow.federation_id == head.federation_id,
            LedgerHeadRow.site_id == head.site_id,
            LedgerHeadRow.logged_at > since,
        )
        return await self._session.scalar(found) or 0

    async def of_site(self, federation_id: str, site_id: str, start: int, limit: int) -> list[LoggedLedgerHead]:
        """Return a site's heads in the log's order, from the entry `start` on."""
        query = select(LedgerHeadRow.index, LedgerHeadRow.head).where(
            LedgerHeadRow.federation_id == federation_id,
            LedgerHeadRow.site_id == site_id,
            LedgerHeadRow.index >= start,
        )
        rows = await self._session.execute(query.order_by(LedgerHeadRow.index).limit(limit))
        return [LoggedLedgerHead(head=LedgerHead.model_validate_json(head), index=index) for index, head in rows]
