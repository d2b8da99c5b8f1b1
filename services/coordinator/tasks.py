"""Tasks under a lease: kept alive by heartbeats, completed, failed, or reclaimed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from undersong.services.coordinator.attendance import LONGEST_GAP, Attendance
from undersong.services.coordinator.domain.rounds import Phase
from undersong.services.coordinator.domain.tasks import MetricsNotAsked, SiteTask, StaleLease, TaskState
from undersong.services.coordinator.leases import Timing
from undersong.services.coordinator.moves import Move, locked, move, move_all, no_task
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.shared.database import Database, Gathering, Transaction
from undersong.shared.errors import Refusal
from undersong.shared.faults import point
from undersong.shared.ids import Digest, RoundId, SiteId, TaskId
from undersong.shared.telemetry.metrics import LEASES_EXPIRED
from undersong.shared.telemetry.traces import current_trace


@dataclass(frozen=True, slots=True)
class Order:
    """What an agent is to do with its task."""

    go_on: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What a site says of a task that it has done, and the trace in which it says so."""

    site_id: SiteId
    task_id: TaskId
    token: str
    digest: Digest
    trace: str | None


class Tasks:
    """The agents' side. Sites are named by their certificates."""

    def __init__(self, database: Database, attendance: Attendance, timing: Timing) -> None:
        self._database, self._attendance, self._timing = database, attendance, timing
        self._completions = Gathering(self._complete)

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
        before, round_ = await locked(tx, site_id, task_id)
        if round_.phase is not Phase.COLLECTING:
            return Order(go_on=False, reason=f"round-{round_.phase}")
        if before.state is TaskState.EXPIRED and before.lease_token == token and (before.ordered or not round_.closing):
            if site_id not in await TaskRepository(tx).leased_by([site_id]):
                after = before.revive(await tx.now() + self._timing.lease)
                await move(tx, before, after, round_, site_id)
                return Order(go_on=True)
            return Order(go_on=False, reason="another-task")
        if before.outstanding:
            raise StaleLease(f"Task {task_id} is {before.state}, and not under this lease.")
        return Order(go_on=False, reason=before.code or f"task-{before.state}")

    async def complete(self, site_id: SiteId, task_id: TaskId, token: str, digest: Digest) -> SiteTask:
        """Note that the site's update is at the aggregator. Raises NotFound, `StaleLease`, `DigestDiffers`."""
        self._attendance.mark(site_id)
        task = await self._completions.ask(Completion(site_id, task_id, token, digest, current_trace()))
        point("coordinator.task.completed")
        return task

    async def _complete(self, completions: Sequence[Completion]) -> list[SiteTask | Exception]:
        async def work(tx: Transaction) -> list[SiteTask | Exception]:
            tasks, now = TaskRepository(tx), await tx.now()
            asked = {(each.task_id, each.site_id) for each in completions}
            places = await tasks.places({task_id for task_id, _ in asked})
            # No caller makes others wait for the round of a task that is another site's.
            places = {task_id: place for task_id, place in places.items() if (task_id, place[1]) in asked}
            rounds = await RoundRepository(tx).lock_all({round_id for round_id, _ in places.values()})
            found = await tasks.get_all(sorted(places))
            moves: dict[RoundId, list[Move]] = {}
            answers: list[SiteTask | Exception] = []
            for each in completions:
                before = found.get(each.task_id)
                if before is None or before.site_id != each.site_id:
                    answers.append(no_task(each.task_id))
                    continue
                try:
                    after = before.complete(each.token, each.digest, now)
                except Refusal as refusal:
                    answers.append(refusal)
                    continue
                answers.append(after)
                if after is not before:
                    moves.setdefault(after.round_id, []).append(Move(before, after, each.site_id, each.trace))
                    found[each.task_id] = replace(after, version=after.version + 1)
            for round_id, some in moves.items():
                await move_all(tx, rounds[round_id], some)
            return answers

        return await self._database.run("task.complete", work)

    async def take_metrics(self, site_id: SiteId, task_id: TaskId, token: str, metrics: Mapping[str, float]) -> None:
        """Keep a site's own metrics. Raises NotFound, `StaleLease`, `MetricsNotAsked`. Idempotent."""

        async def work(tx: Transaction) -> None:
            tasks = TaskRepository(tx)
            task = await tasks.get(task_id)
            if task.site_id != site_id:
                raise no_task(task_id)
            if not (await RoundRepository(tx).record(task.round_id)).manifest.manifest.site_metrics:
                raise MetricsNotAsked("The round asks for no metrics of single sites.")
            if not await tasks.tell(task_id, site_id, token, metrics):
                raise StaleLease(f"Task {task_id} is {task.state}, and not under this lease.")

        self._attendance.mark(site_id)
        await self._database.run("task.metrics", work)

    async def fail(self, site_id: SiteId, task_id: TaskId, token: str, failure: "Failure") -> SiteTask:
        """Return the site could not do it."""

        async def work(tx: Transaction) -> SiteTask:
            before, round_ = await locked(tx, site_id, task_id)
            now = await tx.now()
            after = before.fail(token, failure.code, failure.message, failure.trace, now, again=failure.retryable)
            await move(tx, before, after, round_, site_id)
            return after

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
    """Reclaims what silent agents hold. No agent is called silent while no API process was listening."""

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
            before, round_ = await locked(tx, None, task_id)
            now = await tx.now()
            site = await SiteRepository(tx).get(before.site_id)
            seen = site.last_seen_at is not None and site.last_seen_at > now - self._timing.lease
            after = reclaim(before, now, site_seen=seen)
            if after is before:
                return 0
            if before.state is TaskState.LEASED:
                tx.after_commit(LEASES_EXPIRED.inc)
            await move(tx, before, after, round_, "coordinator")
            return 1

        return work


def reclaim(task: SiteTask, now: datetime, *, site_seen: bool) -> SiteTask:
    """Return the task after a look at its lease and its site: a lapsed lease, a deserted task, or no change."""
    if task.state is TaskState.LEASED and not task.live(now):
        return task.lapse(now, site_seen=site_seen)
    if task.state is TaskState.OPEN and not site_seen:
        return task.expire("site-lost", now)
    return task
