"""Jobs on a schedule: made, listed, paused and deleted by people; submitted at their times by a worker."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

import structlog

from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.domain.schedules import Schedule, ScheduledTime, ScheduleOutcome, Timetable
from undersong.services.coordinator.jobs import Jobs
from undersong.services.coordinator.repository.accounts import AccountRepository
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.services.coordinator.repository.schedules import ScheduleRepository
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.views.schedules import ScheduleView, schedule_view
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import Conflict, Refusal, Unavailable, no_such
from undersong.shared.ids import FederationId, JobId, ScheduleId, UserId, new_id
from undersong.shared.web.access import Grant, Principal, Role
from undersong.shared.web.idempotency import Once

MOST: Final = 50  # of one federation
TOGETHER: Final = 20
_TOLD: Final = 3  # faults of a document that was refused
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class TooManySchedules(Conflict):
    """The federation has as many schedules as it may."""


class TimeTaken(Exception):
    """The time of a schedule was taken, paused or deleted meanwhile: no job is made for it."""


class Schedules:
    """What people do with schedules."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database, self._jobs = database, jobs

    async def create(
        self,
        person: Principal,
        document: Mapping[str, Any],
        timetable: Timetable,
        once: Once,
        *,
        name: str | None = None,
        overlap: bool = False,
    ) -> ScheduleView:
        """Return a new schedule; raises `JobInvalid` with every error of the document as it would be judged now."""
        await self._jobs.validate(person, document)

        async def work(tx: Transaction) -> ScheduleView:
            schedules, now = ScheduleRepository(tx), await tx.now()
            federation = await SiteRepository(tx).federation(str(document["federation_id"]), lock=True)
            if await schedules.count(federation.id) >= MOST:
                raise TooManySchedules(f"The federation has {MOST} schedules: delete one that is not used any more.")
            made = Schedule(
                id=ScheduleId(new_id("sch")),
                federation_id=FederationId(federation.id),
                name=name or str(document["name"]),
                document=dict(document),
                timetable=timetable,
                overlap=overlap,
                user_id=UserId(person.user_id),
                created_by=person.name,
                created_at=now,
                next_at=timetable.after(now),
            )
            await schedules.add(made)
            return schedule_view(made, now)

        return await self._database.run("schedule.create", once(work))

    async def list(
        self,
        person: Principal,
        federation_id: str,
        limit: int,
        after: str | None,
        *,
        name: str | None = None,
        sort: str = "created",
    ) -> Page[ScheduleView]:
        """Return a federation's schedules."""

        async def work(tx: Transaction) -> Page[ScheduleView]:
            person.check(*Role, federation_id=federation_id)
            federation, now = await SiteRepository(tx).federation(federation_id), await tx.now()
            found = await ScheduleRepository(tx).list(federation.id, limit, after, name=name, sort=sort)
            return found.map(lambda one: schedule_view(one, now))

        return await self._database.read("schedules.list", work)

    async def get(self, person: Principal, schedule_id: str) -> ScheduleView:
        """Return one schedule."""

        async def work(tx: Transaction) -> ScheduleView:
            return schedule_view(await self._of(tx, person, schedule_id, *Role), await tx.now())

        return await self._database.read("schedule.get", work)

    async def pause(self, person: Principal, schedule_id: str, once: Once) -> ScheduleView:
        """Submit nothing until it is resumed; a job that runs goes on. Idempotent."""

        async def work(tx: Transaction) -> ScheduleView:
            await self._of(tx, person, schedule_id, Role.SCIENTIST)
            await ScheduleRepository(tx).set_paused(schedule_id, paused=True, next_at=None)
            return schedule_view(await ScheduleRepository(tx).get(schedule_id), await tx.now())

        return await self._database.run("schedule.pause", once(work))

    async def resume(self, person: Principal, schedule_id: str, once: Once) -> ScheduleView:
        """Go on with the next time; times that passed meanwhile are left out. Idempotent."""

        async def work(tx: Transaction) -> ScheduleView:
            found, now = await self._of(tx, person, schedule_id, Role.SCIENTIST), await tx.now()
            if found.paused:
                next_at = found.timetable.after(now)
                await ScheduleRepository(tx).set_paused(schedule_id, paused=False, next_at=next_at)
            return schedule_view(await ScheduleRepository(tx).get(schedule_id), now)

        return await self._database.run("schedule.resume", once(work))

    async def delete(self, person: Principal, schedule_id: str) -> None:
        """Delete a schedule; its jobs stay. Idempotent."""

        async def work(tx: Transaction) -> None:
            found = await ScheduleRepository(tx).get(schedule_id)
            hidden = no_such("schedule", schedule_id)
            person.check(Role.SCIENTIST, federation_id=found.federation_id, hidden=hidden)
            await ScheduleRepository(tx).remove(schedule_id)

        await self._database.run("schedule.delete", work)

    @staticmethod
    async def _of(tx: Transaction, person: Principal, schedule_id: str, *roles: Role) -> Schedule:
        found, hidden = await ScheduleRepository(tx).get(schedule_id), no_such("schedule", schedule_id)
        person.check(*roles, federation_id=found.federation_id, hidden=hidden)
        if found.deleted:
            raise hidden
        return found


class Scheduler:
    """Submits what is due, each time of a schedule at most once, whichever worker dies at whichever line.

    The transaction that makes a job settles the schedule, so that none is made twice, or after a pause.
    """

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database, self._jobs = database, jobs

    async def sweep(self) -> int:
        """Submit what is due; return how many schedules there were. One that cannot be judged now waits."""
        count, after = 0, ""
        while due := await self._database.read("schedules.due", partial(_due, after=after)):
            after = due[-1][1].id
            for at, schedule in due:
                try:
                    outcome = await self._take(schedule, at)
                    log.info("schedule.taken", schedule_id=schedule.id, outcome=str(outcome))
                except TimeTaken:
                    continue
                except Unavailable as error:
                    log.warning("schedule.waits", schedule_id=schedule.id, reason=error.detail)
                except Exception:
                    log.exception("schedule.failed", schedule_id=schedule.id)
            count += len(due)
        return count

    async def _take(self, schedule: Schedule, at: datetime) -> ScheduleOutcome:
        """Submit the job of the time that has come; raises TimeTaken, or Unavailable where it cannot be judged now."""

        async def settle(tx: Transaction, took: ScheduledTime) -> None:
            if not await ScheduleRepository(tx).settle(schedule, took, schedule.after_last(await tx.now())):
                raise TimeTaken

        async def submitted(tx: Transaction, job_id: JobId) -> None:
            await settle(tx, ScheduledTime(at, ScheduleOutcome.SUBMITTED, job_id))

        running = None if schedule.overlap else await self._running(schedule)
        if running is not None:
            reason = f"job {running} of the time before has not ended"
            skipped = ScheduledTime(at, ScheduleOutcome.SKIPPED, running, reason)
            await self._database.run("schedule.skip", lambda tx: settle(tx, skipped))
            return ScheduleOutcome.SKIPPED
        try:
            person = await self._database.read("schedule.person", lambda tx: person_of(tx, schedule.user_id))
            await self._jobs.submit(person, schedule.document, Once(None), submitted, schedule_id=schedule.id)
        except Unavailable:
            raise
        except Refusal as refusal:
            refused = ScheduledTime(at, ScheduleOutcome.REFUSED, reason=refusal_in_words(refusal))
            await self._database.run("schedule.refuse", lambda tx: settle(tx, refused))
            return ScheduleOutcome.REFUSED
        return ScheduleOutcome.SUBMITTED

    async def _running(self, schedule: Schedule) -> JobId | None:
        """Return the job of the time before, if it still runs."""
        if schedule.last_job_id is None:
            return None
        last = schedule.last_job_id
        job = await self._database.read("schedule.running", lambda tx: JobRepository(tx).get(last))
        return None if job.ended else job.id


async def _due(tx: Transaction, after: str) -> Sequence[tuple[datetime, Schedule]]:
    return await ScheduleRepository(tx).due(TOGETHER, after)


async def person_of(tx: Transaction, user_id: str) -> Principal:
    """Return the person who made a schedule, with the roles of now."""
    user = await AccountRepository(tx).user(user_id)
    return Principal(user.id, user.name, tuple(Grant(Role(each.role), each.federation_id) for each in user.roles))


def refusal_in_words(refusal: Refusal) -> str:
    """Return the refusal in a sentence, with its first faults."""
    if not isinstance(refusal, JobInvalid):
        return refusal.detail
    told = [f"{each.path}: {each.message}" for each in refusal.errors[:_TOLD]]
    more = len(refusal.errors) - _TOLD
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")
