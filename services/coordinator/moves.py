"""How tasks move: each transition with its round's counters, an event of the job, and a hint where one is due."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from undersong.services.coordinator.domain.rounds import Round
from undersong.services.coordinator.domain.tasks import SiteTask, TaskState
from undersong.services.coordinator.repository.jobs import Entry, JobRepository
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.shared.database import Transaction
from undersong.shared.errors import NotFound, no_such
from undersong.shared.ids import SiteId, TaskId
from undersong.shared.telemetry.metrics import AGENT_TASK_SECONDS, STRAGGLERS, TASK_ATTEMPTS, TASKS_ENDED
from undersong.shared.telemetry.traces import current_trace
from undersong.shared.wire.manifest import RoundKind

ROUNDS_TOPIC: Final = "coordinator.rounds"
TASKS_TOPIC: Final = "coordinator.tasks"


@dataclass(frozen=True, slots=True)
class Move:
    """One task's transition: whose act it was, and in which trace."""

    before: SiteTask
    after: SiteTask
    actor: str
    trace: str | None

    @property
    def gave_up(self) -> bool:
        """Return whether the task is no longer awaited and ended without a result."""
        return self.before.outstanding and not self.after.outstanding and self.after.state is not TaskState.DONE


async def move(
    tx: Transaction, before: SiteTask, after: SiteTask, round_: Round, actor: str, event: str | None = None
) -> None:
    """Record one task's transition in the present trace; nothing where there is no change.

    The caller holds the locks on round and task.
    """
    await move_all(tx, round_, [Move(before, after, actor, current_trace())], event)


async def move_all(tx: Transaction, round_: Round, moves: Sequence[Move], event: str | None = None) -> None:
    """Transitions of tasks of one round; `event` names them for the job's readers, who are told at once.

    The caller holds the locks on the round and on all tasks.
    """
    # Transitions return the task itself where nothing changes: repeats and late reports leave no trace.
    moves = [each for each in moves if each.after is not each.before]
    if not moves:
        return
    tasks = TaskRepository(tx)
    for each in moves:
        await tasks.save(each.after)
        tx.after_commit(partial(measure, each.before, each.after))
    # The counters of an ended round are its record, and the tasks that lapse after it change nothing.
    if round_.kind is RoundKind.PREPARE:
        if any(each.before.outstanding and not each.after.outstanding for each in moves):
            await tx.emit(ROUNDS_TOPIC, "round.trained", round_.id)
    elif not round_.ended:
        await _count(tx, round_, moves)
    entries = [Entry(event or f"task.{each.after.state}", each.actor, _facts(each.after), each.trace) for each in moves]
    await JobRepository(tx).record_all(round_.job_id, entries, notify=event is not None)


async def _count(tx: Transaction, round_: Round, moves: Sequence[Move]) -> None:
    outstanding = sum(int(each.after.outstanding) - int(each.before.outstanding) for each in moves)
    got = sum(int(each.after.state is TaskState.DONE) - int(each.before.state is TaskState.DONE) for each in moves)
    if not (outstanding or got):
        return
    round_ = await RoundRepository(tx).count(round_.id, outstanding=outstanding, got=got)
    # Where all sites have reported success the aggregator freezes by itself; only a round with failures needs closing.
    if outstanding < 0 and round_.exhausted and round_.got < len(round_.cohort):
        await tx.emit(ROUNDS_TOPIC, "round.exhausted", round_.id)
    if not round_.exhausted and any(each.gave_up for each in moves):
        await tx.emit(ROUNDS_TOPIC, "round.lost", round_.id)


def measure(before: SiteTask, after: SiteTask) -> None:
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


async def locked(tx: Transaction, site_id: SiteId | None, task_id: TaskId) -> tuple[SiteTask, Round]:
    """Return the task and its round, both locked, the round first; a task of another site is not found."""
    tasks = TaskRepository(tx)
    # The round's lock comes first, so its id is read without one; a task never changes its round or site.
    round_id, owner = await tasks.place(task_id)
    if site_id is not None and owner != site_id:
        raise no_task(task_id)
    round_ = await RoundRepository(tx).get(round_id, lock=True)
    return await tasks.get(task_id, lock=True), round_


def no_task(task_id: TaskId) -> NotFound:
    """Return the refusal of a task that is not there, or not the site's."""
    return no_such("task", task_id)


def _facts(task: SiteTask) -> dict[str, object]:
    return {
        "task_id": task.id,
        "round_id": task.round_id,
        "site_id": task.site_id,
        "state": str(task.state),
        "attempt": task.attempt,
        "code": task.code,
        "message": task.message,
    }
