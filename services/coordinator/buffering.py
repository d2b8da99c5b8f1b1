"""Training orders in SQL: given to sites that are free, tended until nothing they made can be collected any more.

Locks go from an order's round to its tasks to the job, as everywhere (repository/__init__.py): what is planned under
the job's lock only adds rows, and what ends an order is done as the order itself is looked at.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final

from undersong.services.coordinator.domain.buffers import TOO_STALE, BufferRule, TrainingOrder, busy, rule_of
from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.progress import JobState
from undersong.services.coordinator.domain.rounds import CHECK_EVERY, Phase, Round
from undersong.services.coordinator.domain.tasks import SiteTask, TaskState
from undersong.services.coordinator.moves import TASKS_TOPIC
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.shared.database import Transaction
from undersong.shared.ids import JobId, RoundId, SiteId, TaskId, new_id
from undersong.shared.wire.manifest import RoundKind

LONGEST: Final = timedelta(days=30)
"""How long an order is good for at most, whatever its job's deadline and staleness say."""


async def orders_of(tx: Transaction, job_id: JobId) -> list[TrainingOrder]:
    """Return the job's orders that have not ended, oldest first, with their tasks."""
    records = await RoundRepository(tx).orders(job_id)
    tasks = await TaskRepository(tx).of_rounds([record.round.id for record in records])
    return [
        TrainingOrder(
            record.round,
            record.manifest.manifest.model.version_id,
            {task.site_id: task for task in tasks if task.round_id == record.round.id},
        )
        for record in records
        if record.manifest.manifest.model is not None
    ]


def unasked(
    orders: Sequence[TrainingOrder], newest: TrainingOrder, candidates: Sequence[SiteId], held: Collection[SiteId]
) -> list[SiteId]:
    """Return the candidates that have no part in the newest order, do not train, and hold no change."""
    taken = busy(orders) | set(held) | set(newest.tasks)
    return [site for site in candidates if site in newest.round.cohort and site not in taken]


async def ask(tx: Transaction, order: Round, sites: Sequence[SiteId]) -> None:
    """Give an order to sites."""
    if not sites:
        return
    await TaskRepository(tx).add_all(
        [SiteTask(TaskId(new_id("task")), order.id, order.job_id, site, str(order.kind)) for site in sites]
    )
    for site in sites:
        await tx.emit(TASKS_TOPIC, "task.opened", site)


def opened(order: Round, now: datetime, rule: BufferRule) -> Round:
    """Return a planned order as it is stored: sites may be asked at once, since no party but them has to do with it."""
    deadline = min(order.deadline * (rule.max_staleness + 1), LONGEST)
    return Round(
        id=order.id,
        job_id=order.job_id,
        kind=order.kind,
        number=order.number,
        attempt=order.attempt,
        cohort=order.cohort,
        min_cohort=order.min_cohort,
        target=order.target,
        deadline=deadline,
        deadline_at=now + deadline,
        next_check_at=now + CHECK_EVERY,
        phase=Phase.COLLECTING,
        created_at=now,
        opened_at=now,
    )


async def tend(tx: Transaction, order_id: RoundId) -> JobId | None:
    """Look after an order: end it, or close it where there is a newer version; return its job where that may go on."""
    rounds, tasks = RoundRepository(tx), TaskRepository(tx)
    order = await rounds.get(order_id, lock=True)
    if order.ended:
        return None
    now, job = await tx.now(), await JobRepository(tx).get(order.job_id)
    if (reason := _over(job, order, now)) is not None:
        for task in await tasks.of_round(order_id, lock=True):
            after = task.expire(reason, now).dropped(reason)
            if after is not task:
                await tasks.save(after)
        await rounds.save(order.cancelled(reason, now))
    elif not order.closing and order_id != (await rounds.orders(job.id))[-1].round.id:
        # Who has not begun trains from the newer version; who has goes on.
        for task in await tasks.of_round(order_id, lock=True):
            if task.state is TaskState.OPEN:
                await tasks.save(task.expire("newer-version", now))
        await rounds.save(order.close().checked(now))
    else:
        await rounds.postpone(order_id, now + CHECK_EVERY)
    goes_on = job.state is JobState.RUNNING and job.round_id is None
    return job.id if goes_on else None


def _over(job: Job, order: Round, now: datetime) -> str | None:
    """Return why an order is of no use any more; None where it is."""
    rule = rule_of(job.spec)
    if job.ended or rule is None:
        return "job-over"
    if job.progress.trained - order.number > rule.max_staleness:
        return TOO_STALE
    return "deadline" if order.late(now) else None


async def spend(tx: Transaction, round_: Round, sites: Collection[SiteId]) -> None:
    """Note that these sites gave their changes to a round, or may have: no other round gets them. Idempotent."""
    if round_.kind is not RoundKind.TRAIN or not sites:
        return
    orders = await RoundRepository(tx).orders(round_.job_id)
    if not orders:
        return
    tasks = TaskRepository(tx)
    for task in await tasks.of_rounds([order.round.id for order in orders], lock=True):
        after = task.collected() if task.site_id in sites else task
        if after is not task:
            await tasks.save(after)
