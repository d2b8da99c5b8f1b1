"""What operators look at and do: what waits, what was given up, and giving it another try. Read from SQL."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from undersong.services.coordinator.domain.rounds import Phase, Round
from undersong.services.coordinator.domain.tasks import TaskOver
from undersong.services.coordinator.moves import TASKS_TOPIC, move
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.services.coordinator.views.tasks import DeadTaskView, dead_task_view
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import no_such
from undersong.shared.ids import TaskId
from undersong.shared.queues import Notifier
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.idempotency import Once

Act = Literal["requeue", "discard"]
LOOKED_BACK: Final = timedelta(days=1)
_EVENTS: Final[dict[Act, str]] = {"requeue": "task.requeued", "discard": "task.discarded"}
_MOST_TIMED: Final = 1000  # of the newest rounds, from which the typical time is taken


class RoundNotCollecting(TaskOver):
    """The task's round takes no more updates."""


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits at this moment."""

    outbox: int
    outbox_age_s: float
    open_rounds: int
    overdue_s: float
    open_tasks: int
    leased_tasks: int
    sites_recent: int
    sites_silent: int
    epoch: int
    watched_at: datetime | None
    database_bytes: int
    redis: bool


@dataclass(frozen=True, slots=True)
class Record:
    """How the last day went."""

    published: int
    failed: int
    cancelled: int
    typical_s: float | None
    slow_s: float | None
    tasks_done: int
    tasks_late: int

    @property
    def late_share(self) -> float:
        """Which share of the tasks ended because the site did not answer in time."""
        return self.tasks_late / max(1, self.tasks_late + self.tasks_done)


class Operations:
    """The use cases."""

    def __init__(self, database: Database, notifier: Notifier) -> None:
        self._database, self._notifier = database, notifier

    async def depth(self, person: Principal) -> Depth:
        """Return what waits, over all federations; for administrators of the platform and auditors of any
        federation.
        """
        person.check(Role.AUDITOR, Role.SCIENTIST, Role.OWNER)

        async def work(tx: Transaction) -> Depth:
            now, sites, rounds = await tx.now(), SiteRepository(tx), RoundRepository(tx)
            waiting = await TaskRepository(tx).outstanding()
            unsent, oldest = await tx.unsent()
            deadline = await rounds.earliest_deadline()
            recent, heard = await sites.heard(now - LOOKED_BACK), await sites.heard(now - timedelta(minutes=3))
            watch = await sites.watch()
            return Depth(
                outbox=unsent,
                outbox_age_s=max(0.0, (now - (oldest or now)).total_seconds()),
                open_rounds=await rounds.open_count(),
                overdue_s=max(0.0, (now - (deadline or now)).total_seconds()),
                open_tasks=waiting.get("open", 0),
                leased_tasks=waiting.get("leased", 0),
                sites_recent=recent,
                sites_silent=max(0, recent - heard),
                epoch=watch.epoch,
                watched_at=watch.last,
                database_bytes=0,
                redis=self._notifier.answering,
            )

        depth, size = await asyncio.gather(self._database.read("operations.depth", work), self._database.size_bytes())
        return replace(depth, database_bytes=size)

    async def record(self, person: Principal) -> Record:
        """Return how the last day went, over all federations."""
        person.check(Role.AUDITOR, Role.SCIENTIST, Role.OWNER)

        async def work(tx: Transaction) -> Record:
            since = await tx.now() - LOOKED_BACK
            rounds, tasks = RoundRepository(tx), await TaskRepository(tx).ended(since)
            ended, lengths = await rounds.ended(since), await rounds.lengths(since, _MOST_TIMED)
            return Record(
                published=ended.get(Phase.PUBLISHED, 0),
                failed=ended.get(Phase.FAILED, 0),
                cancelled=ended.get(Phase.CANCELLED, 0),
                typical_s=lengths[len(lengths) // 2] if lengths else None,
                slow_s=lengths[int(len(lengths) * 0.95)] if lengths else None,
                tasks_done=tasks.get("done", 0),
                tasks_late=tasks.get("expired", 0),
            )

        return await self._database.read("operations.record", work)

    async def dead(self, person: Principal, limit: int, after: str | None) -> Page[DeadTaskView]:
        """Tasks that were given up after too many attempts, in the person's federations."""

        async def work(tx: Transaction) -> Page[DeadTaskView]:
            found = await TaskRepository(tx).dead_tasks(person.federations(), limit, after)
            names = await SiteRepository(tx).names(task.site_id for task in found.items)
            rounds = RoundRepository(tx)
            open_ = {task.round_id: _open(await rounds.get(task.round_id)) for task in found.items}
            return found.map(lambda task: dead_task_view(task, names.get(task.site_id), open_[task.round_id]))

        return await self._database.read("tasks.dead", work)

    async def act(self, person: Principal, task_id: str, act: Act, once: Once) -> DeadTaskView:
        """Give a dead task back to its site, or put it away; written into the job's events with the person's name."""

        async def work(tx: Transaction) -> DeadTaskView:
            tasks, rounds = TaskRepository(tx), RoundRepository(tx)
            round_id, site_id = await tasks.place(task_id)
            round_ = await rounds.get(round_id, lock=True)
            job = await JobRepository(tx).get(round_.job_id)
            person.check(Role.SCIENTIST, federation_id=job.federation_id, hidden=no_such("task", task_id))
            before = await tasks.get(task_id, lock=True)
            if act == "requeue" and not _open(round_):
                raise RoundNotCollecting(
                    f"Round {round_id} is {round_.phase}: discard the task, and run the job again."
                )
            after = before.requeue() if act == "requeue" else before.discard(await tx.now())
            await move(tx, before, after, round_, person.name, event=_EVENTS[act])
            if act == "requeue":
                await tx.emit(TASKS_TOPIC, "task.opened", site_id)
            names = await SiteRepository(tx).names([site_id])
            return dead_task_view(await tasks.get(TaskId(task_id)), names.get(site_id), _open(round_))

        return await self._database.run(f"task.{act}", once(work))


def _open(round_: Round) -> bool:
    return round_.phase is Phase.COLLECTING and not round_.closing
