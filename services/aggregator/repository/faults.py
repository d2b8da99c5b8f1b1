"""The SQL of faults: which sites broke a round's protocol, as the engine found."""

from collections.abc import Iterable

from sqlalchemy import select

from undersong.services.aggregator.tables import FaultRow
from undersong.shared.database import Transaction
from undersong.shared.ids import RoundId, SiteId
from undersong.shared.secagg.engine import Fault


class FaultRepository:
    """Faults in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def add(self, round_id: RoundId, faults: Iterable[Fault]) -> None:
        """Insert what is new. Idempotent."""
        now = await self._tx.now()
        rows = [
            {"round_id": round_id, "site_id": each.site_id, "code": each.code, "detail": each.detail[:500], "at": now}
            for each in faults
        ]
        if rows:
            await self._session.execute(self._tx.insert(FaultRow).on_conflict_do_nothing(), rows)

    async def of(self, round_id: RoundId) -> tuple[Fault, ...]:
        """Return all faults of a round."""
        query = select(FaultRow).where(FaultRow.round_id == round_id).order_by(FaultRow.site_id, FaultRow.code)
        return tuple(Fault(SiteId(r.site_id), r.code, r.detail) for r in await self._session.scalars(query))

    async def find(self, round_id: RoundId, site_id: SiteId, code: str) -> Fault | None:
        """Return one site's fault of this kind in a round."""
        row = await self._session.get(FaultRow, (round_id, site_id, code))
        return None if row is None else Fault(SiteId(row.site_id), row.code, row.detail)
