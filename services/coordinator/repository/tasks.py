"""Tasks.

Statements go to the table and not to the mapped class: these are the platform's hottest queries, and the unit of work
would cost more than the database.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Integer, Row, String, Table, bindparam, func, insert, literal_column, or_, select, update

from undersong.services.coordinator.domain.rounds import Phase
from undersong.services.coordinator.domain.tasks import DEALER_AT_FAULT, MAX_ATTEMPTS, OUTSTANDING, SiteTask, TaskState
from undersong.services.coordinator.repository import Overtaken
from undersong.services.coordinator.tables import JobRow, RoundRow, SiteRow, TaskRow
from undersong.shared.database import Page, Transaction, UtcDateTime, page
from undersong.shared.errors import no_such
from undersong.shared.ids import Digest, JobId, RoundId, SiteId, TaskId
from undersong.shared.wire.manifest import RoundKind

_TASKS = cast("Table", TaskRow.__table__)
_ROUNDS = cast("Table", RoundRow.__table__)
_SITES = cast("Table", SiteRow.__table__)
_FIELDS = (
    "attempt",
    "lease_token",
    "lease_expires_at",
    "progress",
    "phase",
    "digest",
    "code",
    "message",
    "finished_at",
)


@dataclass(frozen=True, slots=True)
class Participation:
    """One site's part in a job: its tasks by state, the updates that a receipt names, its last answer.

    `told`: its newest task that ended, or was opened again, with a reason.
    """

    site_id: SiteId
    tasks: Mapping[TaskState, int]
    receipts: int
    answered_at: datetime | None
    told: SiteTask | None


class TaskRepository:
    """Tasks in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def add_all(self, tasks: Sequence[SiteTask]) -> None:
        """Insert the tasks of a round."""
        now = await self._tx.now()
        rows = [
            {
                **_values(task),
                "id": task.id,
                "round_id": task.round_id,
                "job_id": task.job_id,
                "site_id": task.site_id,
                "kind": task.kind,
                "version": task.version,
                "created_at": now,
                "updated_at": now,
            }
            for task in tasks
        ]
        await self._session.execute(insert(_TASKS), rows)

    async def get(self, task_id: str, *, lock: bool = False) -> SiteTask:
        """Load, with the row locked where asked; raises NotFound."""
        row = (await self._session.execute(_LOCKED if lock else _ONE, {"task": task_id})).first()
        if row is None:
            raise no_such("task", task_id)
        return _task(row)

    async def get_all(self, task_ids: Sequence[str]) -> dict[TaskId, SiteTask]:
        """Load the existing ones of these, with their rows locked in one order."""
        rows = await self._session.execute(_ALL_LOCKED, {"tasks": task_ids})
        return {TaskId(row.id): _task(row) for row in rows}

    async def place(self, task_id: str) -> tuple[RoundId, SiteId]:
        """Return which round the task is of, and whose it is; raises NotFound."""
        place = (await self.places([task_id])).get(TaskId(task_id))
        if place is None:
            raise no_such("task", task_id)
        return place

    async def places(self, task_ids: Collection[str]) -> dict[TaskId, tuple[RoundId, SiteId]]:
        """Return the round and the site of each existing task of these."""
        rows = await self._session.execute(_PLACES, {"tasks": list(task_ids)})
        return {TaskId(row.id): (RoundId(row.round_id), SiteId(row.site_id)) for row in rows}

    async def save(self, task: SiteTask) -> None:
        """Write a task back that was loaded at this version; raises `Overtaken`."""
        seen = {"task": task.id, "seen": task.version}
        written = {**_values(task), "version": task.version + 1, "updated_at": await self._tx.now()}
        done = await self._session.execute(_SAVE, {**written, **seen})
        if done.first() is None:
            raise Overtaken(f"Task {task.id} was changed by another request just now.", retry_after_s=1)

    async def extend(
        self, task_id: str, site_id: str, token: str, progress: float, phase: str | None, expires_at: datetime
    ) -> bool:
        """Write a heartbeat in one conditional statement, so that it cannot revive what was reclaimed meanwhile."""
        who = {"task": task_id, "site": site_id, "token": token}
        beat = {
            "lease_expires_at": expires_at,
            "progress": progress,
            "phase": phase,
            "updated_at": await self._tx.now(),
        }
        done = await self._session.execute(_EXTEND, {**who, **beat})
        return done.first() is not None

    async def tell(self, task_id: str, site_id: str, token: str, metrics: Mapping[str, float]) -> bool:
        """Keep a site's own metrics with its task, while it holds the lease."""
        who = {"task": task_id, "site": site_id, "token": token}
        done = await self._session.execute(_EXTEND, {**who, "metrics": dict(metrics)})
        return done.first() is not None

    async def at_fault(self, job_id: str) -> Sequence[SiteTask]:
        """Return the job's tasks whose sites dealt shares that others cannot use, oldest first."""
        return [_task(row) for row in await self._session.execute(_AT_FAULT, {"job": job_id})]

    async def exclusions(self, site_id: str) -> Sequence[SiteTask]:
        """Return the same of one site, over all jobs that have not ended."""
        return [_task(row) for row in await self._session.execute(_EXCLUSIONS, {"site": site_id})]

    async def of_round(self, round_id: str, *, lock: bool = False) -> Sequence[SiteTask]:
        """Return a round's tasks by site."""
        query = select(_TASKS).where(_TASKS.c.round_id == round_id).order_by(_TASKS.c.site_id)
        return [_task(row) for row in await self._session.execute(query.with_for_update() if lock else query)]

    async def of_rounds(self, round_ids: Sequence[str], *, lock: bool = False) -> Sequence[SiteTask]:
        """Return the tasks of some rounds, by their ids."""
        query = select(_TASKS).where(_TASKS.c.round_id.in_(list(round_ids))).order_by(_TASKS.c.id)
        return [_task(row) for row in await self._session.execute(query.with_for_update() if lock else query)]

    async def participation(self, job_id: str) -> Sequence[Participation]:
        """Return how each site's tasks of a job stand, by site."""
        counts: dict[SiteId, dict[TaskState, int]] = {}
        receipts: Counter[SiteId] = Counter()
        answered: dict[SiteId, datetime] = {}
        newest: dict[SiteId, str] = {}
        for row in await self._session.execute(_PARTICIPATION, {"job": job_id}):
            site = SiteId(row.site_id)
            counts.setdefault(site, {})[TaskState(row.state)] = row.tasks
            receipts[site] += row.receipts
            if row.state == TaskState.DONE and row.last is not None:
                answered[site] = row.last
            newest[site] = max(newest.get(site, ""), row.told or "")
        rows = await self._session.execute(_TOLD, {"tasks": [task_id for task_id in newest.values() if task_id]})
        told = {SiteId(row.site_id): _task(row) for row in rows}
        return [
            Participation(site, counts[site], receipts[site], answered.get(site), told.get(site))
            for site in sorted(counts)
        ]

    async def leased_by(self, site_ids: Sequence[str]) -> dict[SiteId, SiteTask]:
        """Return the tasks that the sites hold leases of, live or run out."""
        rows = await self._session.execute(_LEASED_BY, {"sites": site_ids})
        return {SiteId(row.site_id): _task(row) for row in rows}

    async def next_for(self, site_ids: Sequence[str]) -> dict[SiteId, SiteTask]:
        """Return the oldest task that each site could lease: open, or expired while its round still collects."""
        found: dict[SiteId, SiteTask] = {}
        for row in await self._session.execute(_NEXT_FOR, {"sites": site_ids}):
            found.setdefault(SiteId(row.site_id), _task(row))
        return found

    async def waiting_sites(self, among: Collection[str]) -> Sequence[str]:
        """Return which of these sites have an open task."""
        query = select(TaskRow.site_id).where(TaskRow.state == TaskState.OPEN).distinct().limit(10_000)
        return [site for site in await self._session.scalars(query) if site in among]

    async def lapsed(self, before: datetime) -> Sequence[SiteTask]:
        """Leased tasks whose lease ran out before the moment."""
        query = select(_TASKS).where(_TASKS.c.state == TaskState.LEASED, _TASKS.c.lease_expires_at <= before)
        return [_task(row) for row in await self._session.execute(query.order_by(_TASKS.c.id).limit(500))]

    async def deserted(self, before: datetime) -> Sequence[SiteTask]:
        """Open tasks of sites that were not heard since the moment."""
        query = (
            select(_TASKS)
            .join(_SITES, _SITES.c.id == _TASKS.c.site_id)
            .where(_TASKS.c.state == TaskState.OPEN, _TASKS.c.created_at <= before)
            .where(or_(_SITES.c.last_seen_at.is_(None), _SITES.c.last_seen_at <= before))
        )
        return [_task(row) for row in await self._session.execute(query.order_by(_TASKS.c.id).limit(500))]

    async def outstanding_of_site(self, site_id: str) -> Sequence[SiteTask]:
        """Return the tasks that rounds still wait for from this site."""
        query = select(_TASKS).where(_TASKS.c.site_id == site_id, _TASKS.c.state.in_(sorted(OUTSTANDING)))
        return [_task(row) for row in await self._session.execute(query.order_by(_TASKS.c.round_id))]

    async def dead_tasks(self, within: Collection[str] | None, limit: int, after: str | None) -> Page[SiteTask]:
        """Return a page of tasks that used up their attempts, of jobs in the federations `within` (None is all)."""
        query = select(TaskRow).where(TaskRow.state == TaskState.DEAD)
        if within is not None:
            query = query.join(JobRow, JobRow.id == TaskRow.job_id).where(JobRow.federation_id.in_(within))
        return (await page(self._session, query, TaskRow.id, limit, after)).map(_task)

    async def last_parts(self, job_id: str, until: str) -> dict[SiteId, RoundId]:
        """Return for each site its last finished round of a job, of those whose ids come no later than `until`."""
        query = (
            select(_TASKS.c.site_id, func.max(_TASKS.c.round_id))
            .where(_TASKS.c.job_id == job_id, _TASKS.c.state == TaskState.DONE, _TASKS.c.round_id <= until)
            .where(_TASKS.c.kind != str(RoundKind.PREPARE))
        )
        rows = await self._session.execute(query.group_by(_TASKS.c.site_id))
        return {SiteId(site_id): RoundId(round_id) for site_id, round_id in rows}

    async def outstanding(self) -> dict[str, int]:
        """Return how many tasks are open, and how many leased."""
        query = select(_TASKS.c.state, func.count()).where(_TASKS.c.state.in_(sorted(OUTSTANDING)))
        return {str(state): count for state, count in await self._session.execute(query.group_by(_TASKS.c.state))}

    async def ended(self, since: datetime) -> dict[str, int]:
        """Return how many tasks ended since then, by state."""
        ended = sorted(
            str(state) for state in TaskState if state not in OUTSTANDING
        )  # the index by state and end serves
        query = select(_TASKS.c.state, func.count()).where(_TASKS.c.state.in_(ended), _TASKS.c.finished_at >= since)
        query = query.group_by(_TASKS.c.state)
        return {str(state): count for state, count in await self._session.execute(query)}

    async def unleased(self, since: datetime) -> int:
        """Return how many open tasks a site could lease at once: heard since the moment, and without another lease."""
        return await self._session.scalar(_UNLEASED, {"since": since}) or 0

    async def dead(self) -> int:
        """Return how many tasks used up their attempts."""
        query = select(func.count()).select_from(TaskRow).where(TaskRow.state == TaskState.DEAD)
        return await self._session.scalar(query) or 0


# Every lease, heartbeat and completion runs these, so they are built once. What is written goes in by column name.
_TASK, _SITE = bindparam("task", type_=String()), bindparam("site", type_=String())
_ONE = select(_TASKS).where(_TASKS.c.id == _TASK)
_LOCKED = _ONE.with_for_update()
_IS_AT_FAULT = literal_column("tasks.code") == literal_column(f"'{DEALER_AT_FAULT}'")  # as the partial index has it
_AT_FAULT = select(_TASKS).where(_TASKS.c.job_id == bindparam("job", type_=String()), _IS_AT_FAULT)
_AT_FAULT = _AT_FAULT.order_by(_TASKS.c.finished_at, _TASKS.c.id)
_EXCLUSIONS = (
    select(_TASKS)
    .join(JobRow, JobRow.id == _TASKS.c.job_id)
    .where(_TASKS.c.site_id == bindparam("site", type_=String()), _IS_AT_FAULT, JobRow.finished_at.is_(None))
    .order_by(_TASKS.c.finished_at, _TASKS.c.id)
)
_THESE_TASKS = _TASKS.c.id.in_(bindparam("tasks", expanding=True, type_=String()))
_OF_SITES = _TASKS.c.site_id.in_(bindparam("sites", expanding=True, type_=String()))
_ALL_LOCKED = select(_TASKS).where(_THESE_TASKS).order_by(_TASKS.c.id).with_for_update()
_TOLD = select(_TASKS).where(_THESE_TASKS)
_PLACES = select(_TASKS.c.id, _TASKS.c.round_id, _TASKS.c.site_id).where(_THESE_TASKS)
_LEASED_BY = select(_TASKS).where(_OF_SITES, _TASKS.c.state == str(TaskState.LEASED)).order_by(_TASKS.c.id)
_NEXT_FOR = (
    select(_TASKS)
    .join(_ROUNDS, _ROUNDS.c.id == _TASKS.c.round_id)
    .where(
        _OF_SITES,
        _TASKS.c.state.in_([TaskState.OPEN, TaskState.EXPIRED]),
        _TASKS.c.attempt < MAX_ATTEMPTS,
        _ROUNDS.c.phase == Phase.COLLECTING,
        _ROUNDS.c.closing.is_(False),
    )
    .order_by(_TASKS.c.id)
)
_HELD = _TASKS.alias("held")
_UNLEASED = (
    select(func.count())
    .select_from(_TASKS)
    .join(_ROUNDS, _ROUNDS.c.id == _TASKS.c.round_id)
    .join(_SITES, _SITES.c.id == _TASKS.c.site_id)
    .where(
        _TASKS.c.state == TaskState.OPEN,
        _ROUNDS.c.phase == Phase.COLLECTING,
        _ROUNDS.c.closing.is_(False),
        _SITES.c.last_seen_at >= bindparam("since", type_=UtcDateTime()),
        ~select(_HELD.c.id).where(_HELD.c.site_id == _TASKS.c.site_id, _HELD.c.state == TaskState.LEASED).exists(),
    )
)
_PARTICIPATION = (
    select(
        _TASKS.c.site_id,
        _TASKS.c.state,
        func.count().label("tasks"),
        func.count(_TASKS.c.digest).label("receipts"),
        func.max(_TASKS.c.finished_at).label("last"),
        func.max(_TASKS.c.id).filter(_TASKS.c.code.is_not(None)).label("told"),  # ids sort by the time they were made
    )
    .join(_ROUNDS, _ROUNDS.c.id == _TASKS.c.round_id)  # rounds have an index by job
    .where(_ROUNDS.c.job_id == bindparam("job", type_=String()))
    .group_by(_TASKS.c.site_id, _TASKS.c.state)
)
_SAVE = (
    update(_TASKS)
    .where(_TASKS.c.id == _TASK, _TASKS.c.version == bindparam("seen", type_=Integer()))
    .returning(_TASKS.c.id)
)
_EXTEND = (
    update(_TASKS)
    .where(
        _TASKS.c.id == _TASK,
        _TASKS.c.site_id == _SITE,
        _TASKS.c.state == TaskState.LEASED,
        _TASKS.c.lease_token == bindparam("token", type_=String()),
        select(_SITES.c.id).where(_SITES.c.id == _SITE, _SITES.c.suspended.is_(False)).exists(),
        select(_ROUNDS.c.id)
        .where(_ROUNDS.c.id == _TASKS.c.round_id, _ROUNDS.c.phase == Phase.COLLECTING)
        .correlate(_TASKS)
        .exists(),
    )
    .values(version=_TASKS.c.version + 1)
    .returning(_TASKS.c.id)
)


def _values(task: SiteTask) -> dict[str, Any]:
    values = {name: getattr(task, name) for name in _FIELDS}
    return {**values, "state": str(task.state), "trace": list(task.trace)}


def _task(row: TaskRow | Row[Any]) -> SiteTask:
    return SiteTask(
        id=TaskId(row.id),
        round_id=RoundId(row.round_id),
        job_id=JobId(row.job_id),
        site_id=SiteId(row.site_id),
        kind=row.kind,
        state=TaskState(row.state),
        version=row.version,
        attempt=row.attempt,
        lease_token=row.lease_token,
        lease_expires_at=row.lease_expires_at,
        progress=row.progress,
        phase=row.phase,
        digest=Digest(row.digest) if row.digest else None,
        code=row.code,
        message=row.message,
        trace=tuple(row.trace),
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
        metrics=row.metrics,
    )
