"""The SQL of committed sample counts."""

from collections.abc import Iterable

from sqlalchemy import select, update

from undersong.services.aggregator.domain.refusals import SampleCountChanged
from undersong.services.aggregator.tables import SampleRow
from undersong.shared.database import Transaction
from undersong.shared.ids import JobId, RoundId, SiteId
from undersong.shared.zk.samples import COMMITMENT_SIZE

_BY_SQL = {"synchronize_session": False}


class SampleRepository:
    """The commitments of one job, in one transaction."""

    def __init__(self, tx: Transaction, job_id: JobId) -> None:
        self._tx, self._session, self._job_id = tx, tx.session, job_id

    async def find(self, site_id: SiteId) -> bytes | None:
        """Return what the site committed to: commitment and proof."""
        row = await self._session.get(SampleRow, (self._job_id, site_id))
        return None if row is None else row.message

    async def keep(self, site_id: SiteId, round_id: RoundId, message: bytes) -> None:
        """Store a verified commitment; raises SampleCountChanged when another one is stored."""
        found = await self.find(site_id)
        if found is None:
            row = {"job_id": self._job_id, "site_id": site_id, "round_id": round_id, "message": message}
            query = (
                self._tx.insert(SampleRow).values({**row, "accepted_at": await self._tx.now()}).on_conflict_do_nothing()
            )
            await self._session.execute(query)
            found = await self.find(site_id)
        if found != message:
            raise changed(site_id)

    async def commitments(self, sites: Iterable[SiteId]) -> dict[SiteId, str]:
        """Return the commitments of these sites, in hexadecimal."""
        return {SiteId(row.site_id): row.message[:COMMITMENT_SIZE].hex() for row in await self._rows(sites)}

    async def logged_in(self, round_id: RoundId, sites: Iterable[SiteId]) -> dict[SiteId, str]:
        """Return the proofs that stand in this round's record, in hexadecimal."""
        rows = [row for row in await self._rows(sites) if row.logged_in == round_id]
        return {SiteId(row.site_id): row.message[COMMITMENT_SIZE:].hex() for row in rows}

    async def log_in(self, round_id: RoundId, sites: Iterable[SiteId]) -> None:
        """Note that the round is published: its record carries the proofs that no earlier one does."""
        query = update(SampleRow).where(SampleRow.job_id == self._job_id, SampleRow.logged_in.is_(None))
        query = query.where(SampleRow.site_id.in_(list(sites))).values(logged_in=round_id)
        await self._session.execute(query, execution_options=_BY_SQL)

    async def _rows(self, sites: Iterable[SiteId]) -> list[SampleRow]:
        query = select(SampleRow).where(SampleRow.job_id == self._job_id, SampleRow.site_id.in_(list(sites)))
        return list(await self._session.scalars(query.order_by(SampleRow.site_id)))


def changed(site_id: SiteId) -> SampleCountChanged:
    """Return the refusal, by the site's name."""
    return SampleCountChanged(
        f"{site_id} committed otherwise to its sample count in an earlier round of this job: its data changed, or its "
        "agent's state was lost or put back; a new job takes it in"
    )
