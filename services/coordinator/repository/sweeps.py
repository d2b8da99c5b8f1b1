"""Sweeps and the jobs that they became."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import exists, func, insert, select, update

from undersong.services.coordinator.domain.progress import JobState
from undersong.services.coordinator.domain.sweeps import Child, Sweep
from undersong.services.coordinator.tables import JobRow, SweepJobRow, SweepRow
from undersong.shared.database import Page, Transaction, ordering, page
from undersong.shared.errors import no_such
from undersong.shared.ids import FederationId, JobId, SweepId, UserId


class SweepRepository:
    """Sweeps in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def add(self, sweep: Sweep) -> None:
        """Insert with all places."""
        values = {
            "id": sweep.id,
            "federation_id": sweep.federation_id,
            "name": sweep.name,
            "document": dict(sweep.document),
            "parallel": sweep.parallel,
            "user_id": sweep.user_id,
            "created_by": sweep.created_by,
            "created_at": sweep.created_at,
            "epsilon": None if sweep.cost is None else sweep.cost[0],
            "delta": None if sweep.cost is None else sweep.cost[1],
            "open": True,
        }
        await self._session.execute(insert(SweepRow).values(values))
        places = [{"sweep_id": sweep.id, "place": each.place, "changes": dict(each.changes)} for each in sweep.children]
        await self._session.execute(insert(SweepJobRow), places)

    async def get(self, sweep_id: str) -> Sweep:
        """Load; raises NotFound."""
        row = await self._session.get(SweepRow, sweep_id, populate_existing=True)
        if row is None:
            raise no_such("sweep", sweep_id)
        return (await self._with_children([row]))[0]

    async def list(
        self, federation_id: str, limit: int, after: str | None, *, name: str | None = None, sort: str = "-created"
    ) -> Page[Sweep]:
        """Return a page of a federation's sweeps that have a part of the name, by `created` or `name`."""
        seen = SweepRow.federation_id == federation_id
        query = select(SweepRow).where(seen)
        if name is not None:
            query = query.where(SweepRow.name.icontains(name, autoescape=True))
        by, falling = ordering(sort, {"name": SweepRow.name})
        rows = await page(self._session, query, SweepRow.id, limit, after, descending=falling, by=by, within=seen)
        return Page(await self._with_children(rows.items), rows.next)

    async def open(self, limit: int, after: str) -> Sequence[Sweep]:
        """Return sweeps beyond an id of which a job waits for its turn, the oldest first."""
        query = select(SweepRow).where(SweepRow.open, SweepRow.id > after).order_by(SweepRow.id).limit(limit)
        return await self._with_children((await self._session.scalars(query)).all())

    async def is_named(self, federation_id: str, name: str) -> bool:
        """Return whether the federation has a sweep of this name: its tag would be that of both."""
        same = select(SweepRow.id).where(SweepRow.federation_id == federation_id, SweepRow.name == name)
        return await self._session.scalar(same.limit(1)) is not None

    async def states(self, sweeps: Sequence[Sweep]) -> dict[JobId, JobState]:
        """Return the states of the jobs of these sweeps."""
        ids = [child.job_id for sweep in sweeps for child in sweep.children if child.job_id is not None]
        rows = await self._session.execute(select(JobRow.id, JobRow.state).where(JobRow.id.in_(ids)))
        return {JobId(job_id): JobState(state) for job_id, state in rows}

    async def settle(self, sweep_id: str, place: int, job_id: JobId | None, reason: str | None) -> bool:
        """Note the job of a place, or why it was refused; False where its turn is over, or the sweep was cancelled.

        Closes a sweep of which no job waits any more.
        """
        going = select(SweepRow.id).where(SweepRow.id == sweep_id, SweepRow.cancelled_at.is_(None)).with_for_update()
        if await self._session.scalar(going) is None:
            return False
        unsettled = (SweepJobRow.sweep_id == sweep_id, SweepJobRow.job_id.is_(None), SweepJobRow.reason.is_(None))
        taken = update(SweepJobRow).where(*unsettled, SweepJobRow.place == place).values(job_id=job_id, reason=reason)
        if (await self._session.execute(taken.returning(SweepJobRow.place))).first() is None:
            return False
        waiting = exists().where(*unsettled)
        await self._session.execute(update(SweepRow).where(SweepRow.id == sweep_id, ~waiting).values(open=False))
        return True

    async def cancel(self, sweep_id: str) -> None:
        """Submit no further job."""
        row = (SweepRow.id == sweep_id, SweepRow.cancelled_at.is_(None))
        gone = {"cancelled_at": await self._tx.now(), "open": False}
        await self._session.execute(update(SweepRow).where(*row).values(gone))

    async def count_open(self, federation_id: str) -> int:
        """Return how many sweeps of a federation have jobs that wait."""
        query = select(func.count()).select_from(SweepRow).where(SweepRow.federation_id == federation_id, SweepRow.open)
        return await self._session.scalar(query) or 0

    async def _with_children(self, rows: Sequence[SweepRow]) -> Sequence[Sweep]:
        query = select(SweepJobRow).where(SweepJobRow.sweep_id.in_([row.id for row in rows]))
        found: Mapping[str, list[Child]] = defaultdict(list)
        for each in await self._session.scalars(query.order_by(SweepJobRow.place)):
            job_id = None if each.job_id is None else JobId(each.job_id)
            found[each.sweep_id].append(Child(each.place, each.changes, job_id, each.reason))
        return [_sweep(row, found[row.id]) for row in rows]


def _sweep(row: SweepRow, children: Sequence[Child]) -> Sweep:
    return Sweep(
        id=SweepId(row.id),
        federation_id=FederationId(row.federation_id),
        name=row.name,
        document=row.document,
        parallel=row.parallel,
        user_id=UserId(row.user_id),
        created_by=row.created_by,
        created_at=row.created_at,
        cancelled_at=row.cancelled_at,
        children=tuple(children),
        cost=None if row.epsilon is None or row.delta is None else (row.epsilon, row.delta),
    )
