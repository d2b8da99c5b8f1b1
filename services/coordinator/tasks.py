"""Tasks: leased by agents, kept alive by heartbeats, completed, failed, or taken back."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from services.coordinator.attendance import LONGEST_GAP, Attendance
from services.coordinator.domain.rounds import Phase, Round
from services.coordinator.domain.tasks import StaleLease, Task, TaskState
from services.coordinator.repository.jobs import JobRepository
from services.coordinator.repository.rounds import RoundRepository
from services.coordinator.repository.sites import SiteRepository
from services.coordinator.repository.tasks import TaskRepository
from shared.clock import monotonic
from shared.database import Database, Transaction
from shared.errors import Forbidden, NotFound
from shared.faults import point
from shared.ids import Digest, RoundId, SiteId, TaskId
from shared.queues import Bell
from shared.telemetry.metrics import AGENT_TASK_SECONDS, LEASES_EXPIRED, STRAGGLERS, TASK_ATTEMPTS, TASKS_ENDED

ROUNDS_TOPIC: Final = "coordinator.rounds"
TASKS_TOPIC: Final = "coordinator.tasks"
_KEPT_ROUNDS: Final = 64


class SiteSuspended(Forbidden):
    """The site is suspended."""


class SiteUnknown(Forbidden):
    """The coordinator has no such site in this federation."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The platform's two short times; both are durations, because agents' clocks are not trusted."""

    heartbeat_s: float
    lease_s: float

    @property
    def lease(self) -> timedelta:
        """How long a lease lasts without a heartbeat."""
        return timedelta(seconds=self.lease_s)


@dataclass(frozen=True, slots=True)
class Lease:
    """A leased task with the documents that the agent needs."""

    task: Task
    signed_manifest: dict[str, Any]
    engine_public: dict[str, Any]
    trace: str | None


@dataclass(frozen=True, slots=True)
class Order:
    """What an agent is to do with its task."""

    go_on: bool
    reason: str | None = None


class Tasks:
    """The agents' side. Sites are named by their certificates."""

    def __init__(
        self, database: Database, bell: Bell, attendance: Attendance, timing: Timing, stopping: asyncio.Event
    ) -> None:
        self._database, self._bell, self._attendance, self._timing = database, bell, attendance, timing
        self._stopping = stopping
        self._documents: dict[RoundId, tuple[dict[str, Any], dict[str, Any], str | None]] = {}

    async def lease(self, site_id: SiteId, federation_id: str | None, wait_s: float) -> Lease | None:
        """The site's next task, waiting for one up to `wait_s`; its live lease again when it has one."""
        until = monotonic() + wait_s
        with self._bell.listen(site_id) as ring, self._attendance.present(site_id):
            lease = await self._look(site_id, federation_id)
            while lease is None and not self._stopping.is_set() and (left_s := until - monotonic()) > 0:
                if await ring.wait(left_s):
                    lease = await self._lease_now(site_id, federation_id)
        return lease

    async def _look(self, site_id: SiteId, federation_id: str | None) -> Lease | None:
        """First without any lock: most looks find nothing."""

        async def peek(tx: Transaction) -> bool:
            await _admitted(tx, site_id, federation_id)
            tasks = TaskRepository(tx)
            return await tasks.leased_by(site_id) is not None or await tasks.next_for(site_id) is not None

        if not await self._database.read("task.peek", peek):
            return None
        return await self._lease_now(site_id, federation_id)

    async def _lease_now(self, site_id: SiteId, federation_id: str | None) -> Lease | None:
        async def take(tx: Transaction) -> Lease | None:
            return await self._take(tx, site_id, federation_id)

        lease = await self._database.run("task.lease", take)
        point("coordinator.task.leased")
        return lease

    async def _take(self, tx: Transaction, site_id: SiteId, federation_id: str | None) -> Lease | None:
        """The site's lock makes leases of one site follow each other."""
        await _admitted(tx, site_id, federation_id, lock=True)
        tasks, now = TaskRepository(tx), await tx.now()
        held = await tasks.leased_by(site_id)
        if held is not None:
            kept = await self._keep(tx, held, now)
            if kept is not None:
                return kept
        found = await tasks.next_for(site_id)
        if found is None:
            return None
        rounds = RoundRepository(tx)
        round_ = await rounds.get(found.round_id, lock=True)
        if round_.phase is not Phase.COLLECTING or round_.closing:
            return None
        leased = found.lease(secrets.token_hex(16), now, self._timing.lease)
        await move(tx, found, leased, round_, site_id)
        return await self._with_documents(tx, leased)

    async def _keep(self, tx: Transaction, held: Task, now: datetime) -> Lease | None:
        """The lease that the site holds already, extended; one that ran out or outlived its round is taken back."""
        round_ = await RoundRepository(tx).get(held.round_id, lock=True)
        tasks = TaskRepository(tx)
        held = await tasks.get(held.id, lock=True)
        collecting = round_.phase is Phase.COLLECTING
        if collecting and held.live(now):
            expires_at = now + self._timing.lease
            await tasks.extend(held.id, held.site_id, held.lease_token or "", held.progress, held.phase, expires_at)
            return await self._with_documents(tx, held)
        after = held.lapse(now, site_seen=True) if collecting else held.expire("round-ended", now)
        await move(tx, held, after, round_, "coordinator")
        return None

    async def _with_documents(self, tx: Transaction, task: Task) -> Lease:
        """The documents of an open round never change, so each process reads them once."""
        known = self._documents.get(task.round_id)
        if known is None:
            record = await RoundRepository(tx).record(task.round_id)
            trace = await JobRepository(tx).trace(task.job_id)
            known = record.manifest.model_dump(mode="json"), dict(record.engine_public or {}), trace
            self._documents[task.round_id] = known
            if len(self._documents) > _KEPT_ROUNDS:
                self._documents.pop(next(iter(self._documents)))
        return Lease(task, *known)

    async def heartbeat(
        self, site_id: SiteId, task_id: TaskId, token: str, progress: float, phase: str | None
    ) -> Order:
        """Extend the lease; the answer says whether to go on. Raises `StaleLease`, NotFound."""
        self._attendance.mark(site_id)

        async def work(tx: Transaction) -> Order:
            expires_at = await tx.now() + self._timing.lease
            if await TaskRepository(tx).extend(task_id, site_id, token, progress, phase, expires_at):
                return Order(go_on=True)
            return await self._explain(tx, site_id, task_id, token)

        return await self._database.run("task.heartbeat", work)

    async def _explain(self, tx: Transaction, site_id: SiteId, task_id: TaskId, token: str) -> Order:
        """Why a heartbeat did not count; a task given up only because its site was silent goes on."""
        if (await SiteRepository(tx).admission(site_id)).suspended:
            return Order(go_on=False, reason="site-suspended")
        before, round_ = await _locked(tx, site_id, task_id)
        if round_.phase is not Phase.COLLECTING:
            return Order(go_on=False, reason=f"round-{round_.phase}")
        if before.state is TaskState.EXPIRED and before.lease_token == token and not round_.closing:
            if await TaskRepository(tx).leased_by(site_id) is None:
                after = before.revive(await tx.now() + self._timing.lease)
                await move(tx, before, after, round_, site_id)
                return Order(go_on=True)
            return Order(go_on=False, reason="another-task")
        if before.outstanding:
            raise StaleLease(f"Task {task_id} is {before.state}, and not under this lease.")
        return Order(go_on=False, reason=before.code or f"task-{before.state}")

    async def complete(self, site_id: SiteId, task_id: TaskId, token: str, digest: Digest) -> Task:
        """The site's update is at the aggregator."""

        async def work(tx: Transaction) -> Task:
            before, round_ = await _locked(tx, site_id, task_id)
            now = await tx.now()
            return await move(tx, before, before.complete(token, digest, now), round_, site_id)

        self._attendance.mark(site_id)
        task = await self._database.run("task.complete", work)
        point("coordinator.task.completed")
        return task

    async def fail(self, site_id: SiteId, task_id: TaskId, token: str, failure: "Failure") -> Task:
        """The site could not do it."""

        async def work(tx: Transaction) -> Task:
            before, round_ = await _locked(tx, site_id, task_id)
            now = await tx.now()
            after = before.fail(token, failure.code, failure.message, failure.trace, now, again=failure.retryable)
            return await move(tx, before, after, round_, site_id)

        self._attendance.mark(site_id)
        return await self._database.run("task.fail", work)


@dataclass(frozen=True, slots=True)
class Failure:
    """What an agent says of a failed task."""

    code: str
    message: str
    trace: Sequence[str]
    retryable: bool = False


class TaskSweeper:
    """Takes back what silent agents hold. Nobody is called silent while no API process was there to hear."""

    def __init__(self, database: Database, timing: Timing) -> None:
        self._database, self._timing = database, timing

    async def sweep(self) -> int:
        """Open or expire every task whose lease ran out or whose site is gone; how many."""

        async def find(tx: Transaction) -> list[TaskId]:
            now = await tx.now()
            watch = await SiteRepository(tx).watch()
            horizon = now - self._timing.lease
            if watch.since is None or watch.last is None or watch.since > horizon or now - watch.last > LONGEST_GAP:
                return []
            tasks = TaskRepository(tx)
            return [task.id for task in (*await tasks.lapsed(now), *await tasks.deserted(horizon))]

        moved = 0
        for task_id in await self._database.read("tasks.silent", find):
            moved += await self._database.run("task.take_back", self._taker(task_id))
        return moved

    def _taker(self, task_id: TaskId) -> "Callable[[Transaction], Any]":
        async def work(tx: Transaction) -> int:
            before, round_ = await _locked(tx, None, task_id)
            now = await tx.now()
            site = await SiteRepository(tx).get(before.site_id)
            seen = site.last_seen_at is not None and site.last_seen_at > now - self._timing.lease
            after = taken_back(before, now, site_seen=seen)
            if after is before:
                return 0
            if before.state is TaskState.LEASED:
                tx.after_commit(LEASES_EXPIRED.inc)
            await move(tx, before, after, round_, "coordinator")
            return 1

        return work


def taken_back(task: Task, now: datetime, *, site_seen: bool) -> Task:
    """The task after a look at its lease and its site: a lapsed lease, a deserted task, or no change."""
    if task.state is TaskState.LEASED and not task.live(now):
        return task.lapse(now, site_seen=site_seen)
    if task.state is TaskState.OPEN and not site_seen:
        return task.expire("site-lost", now)
    return task


async def move(tx: Transaction, before: Task, after: Task, round_: Round, actor: str, event: str | None = None) -> Task:
    """Write one task's transition with the round's counters, an event, and a hint when nobody is waited for any more.

    The caller holds the locks on round and task.
    """
    if after is before:
        return after
    await TaskRepository(tx).save(after)
    tx.after_commit(lambda: measure(before, after))
    if not round_.ended:
        outstanding = int(after.outstanding) - int(before.outstanding)
        got = int(after.state is TaskState.DONE) - int(before.state is TaskState.DONE)
        if outstanding or got:
            round_ = await RoundRepository(tx).count(round_.id, outstanding=outstanding, got=got)
        if outstanding < 0 and round_.exhausted and round_.got < len(round_.cohort):
            await tx.emit(ROUNDS_TOPIC, "round.exhausted", round_.id)
        if outstanding < 0 and after.state is not TaskState.DONE and not round_.exhausted:
            await tx.emit(ROUNDS_TOPIC, "round.lost", round_.id)
    data = {
        "task_id": after.id,
        "round_id": after.round_id,
        "site_id": after.site_id,
        "state": str(after.state),
        "attempt": after.attempt,
        "code": after.code,
        "message": after.message,
    }
    await JobRepository(tx).record(after.job_id, event or f"task.{after.state}", actor, data, ring=event is not None)
    return after


def measure(before: Task, after: Task) -> None:
    """Count a task that ended."""
    if after.outstanding or not before.outstanding:
        return
    TASKS_ENDED.labels(str(after.state)).inc()
    TASK_ATTEMPTS.observe(after.attempt)
    if after.state is TaskState.EXPIRED:
        STRAGGLERS.inc()
    if after.state is TaskState.DONE and after.created_at is not None and after.finished_at is not None:
        seconds = (after.finished_at - after.created_at).total_seconds()
        AGENT_TASK_SECONDS.labels(after.kind).observe(max(0.0, seconds))


async def _locked(tx: Transaction, site_id: SiteId | None, task_id: TaskId) -> tuple[Task, Round]:
    """The task and its round, both locked, the round first; a task of another site is not found."""
    tasks = TaskRepository(tx)
    round_id, owner = await tasks.place(task_id)
    if site_id is not None and owner != site_id:
        raise NotFound(f"There is no task {task_id}.")
    round_ = await RoundRepository(tx).get(round_id, lock=True)
    return await tasks.get(task_id, lock=True), round_


async def _admitted(tx: Transaction, site_id: SiteId, federation_id: str | None, *, lock: bool = False) -> None:
    try:
        site = await SiteRepository(tx).admission(site_id, lock=lock)
    except NotFound:
        raise SiteUnknown(f"There is no site {site_id}.") from None
    if site.federation_id != federation_id:
        raise SiteUnknown(f"Site {site_id} does not belong to federation {federation_id}.")
    if site.suspended:
        raise SiteSuspended(f"Site {site.name} is suspended.")
