"""Schedules of jobs."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, insert, select, update

from undersong.services.coordinator.domain.schedules import Schedule, ScheduledTime, ScheduleOutcome, Timetable
from undersong.services.coordinator.tables import ScheduleRow
from undersong.shared.database import Page, Transaction, ordering, page
from undersong.shared.errors import no_such
from undersong.shared.ids import FederationId, JobId, ScheduleId, UserId


class ScheduleRepository:
    """Schedules in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def add(self, schedule: Schedule) -> None:
        """Insert."""
        values = {
            "id": schedule.id,
            "federation_id": schedule.federation_id,
            "name": schedule.name,
            "document": schedule.document,
            "cron": schedule.timetable.cron,
            "timezone": schedule.timetable.timezone,
            "overlap": schedule.overlap,
            "user_id": schedule.user_id,
            "created_by": schedule.created_by,
            "created_at": schedule.created_at,
            "paused": schedule.paused,
            "next_at": schedule.next_at,
        }
        await self._session.execute(insert(ScheduleRow).values(values))

    async def get(self, schedule_id: str) -> Schedule:
        """Load; raises NotFound."""
        row = await self._session.get(ScheduleRow, schedule_id, populate_existing=True)
        if row is None:
            raise no_such("schedule", schedule_id)
        return _schedule(row)

    async def list(
        self, federation_id: str, limit: int, after: str | None, *, name: str | None = None, sort: str = "created"
    ) -> Page[Schedule]:
        """Return a page of a federation's schedules that have a part of the name, by `created` or `name`."""
        seen = ScheduleRow.federation_id == federation_id
        query = select(ScheduleRow).where(seen, ScheduleRow.deleted_at.is_(None))
        if name is not None:
            query = query.where(ScheduleRow.name.icontains(name, autoescape=True))
        by, falling = ordering(sort, {"name": ScheduleRow.name})
        found = page(self._session, query, ScheduleRow.id, limit, after, descending=falling, by=by, within=seen)
        return (await found).map(_schedule)

    async def count(self, federation_id: str) -> int:
        """Return how many schedules a federation has."""
        query = select(func.count()).select_from(ScheduleRow)
        query = query.where(ScheduleRow.federation_id == federation_id, ScheduleRow.deleted_at.is_(None))
        return await self._session.scalar(query) or 0

    async def due(self, limit: int, after: str) -> Sequence[tuple[datetime, Schedule]]:
        """Return times that have come with their schedules, of those beyond an id; none that is paused or deleted."""
        query = select(ScheduleRow).where(ScheduleRow.next_at <= await self._tx.now(), ScheduleRow.id > after)
        rows = await self._session.scalars(query.order_by(ScheduleRow.id).limit(limit))
        return [(row.next_at, _schedule(row)) for row in rows if row.next_at is not None]

    async def settle(self, schedule: Schedule, took: ScheduledTime, next_at: datetime | None) -> bool:
        """Note what came of a time, and the next one; False where that was noted, or the schedule was changed."""
        values = {
            "next_at": next_at,
            "last_at": took.at,
            "last_outcome": str(took.outcome),
            "last_reason": took.reason,
            **({} if took.job_id is None else {"last_job_id": took.job_id}),
        }
        row = (ScheduleRow.id == schedule.id, ScheduleRow.next_at == schedule.next_at)
        noted = update(ScheduleRow).where(*row).values(values).returning(ScheduleRow.id)
        return (await self._session.execute(noted)).first() is not None

    async def set_paused(self, schedule_id: str, *, paused: bool, next_at: datetime | None) -> None:
        """Pause, or resume with the next time."""
        row = (ScheduleRow.id == schedule_id, ScheduleRow.deleted_at.is_(None))
        await self._session.execute(update(ScheduleRow).where(*row).values(paused=paused, next_at=next_at))

    async def remove(self, schedule_id: str) -> None:
        """Submit nothing any more; the row remembers who made it."""
        row = (ScheduleRow.id == schedule_id, ScheduleRow.deleted_at.is_(None))
        gone = {"deleted_at": await self._tx.now(), "next_at": None}
        await self._session.execute(update(ScheduleRow).where(*row).values(gone))


def _schedule(row: ScheduleRow) -> Schedule:
    job_id = None if row.last_job_id is None else JobId(row.last_job_id)
    last = None
    if row.last_at is not None and row.last_outcome is not None:
        outcome = ScheduleOutcome(row.last_outcome)
        told = None if outcome is ScheduleOutcome.REFUSED else job_id
        last = ScheduledTime(row.last_at, outcome, told, row.last_reason)
    return Schedule(
        id=ScheduleId(row.id),
        federation_id=FederationId(row.federation_id),
        name=row.name,
        document=dict(row.document),
        timetable=Timetable(row.cron, row.timezone),
        overlap=row.overlap,
        user_id=UserId(row.user_id),
        created_by=row.created_by,
        created_at=row.created_at,
        next_at=row.next_at,
        paused=row.paused,
        deleted=row.deleted_at is not None,
        last=last,
        last_job_id=job_id,
    )
