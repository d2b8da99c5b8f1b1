"""Rounds in SQL: planned, opened, published, failed, cancelled; one transaction each, called by the conductor.

The end of a round and the plan of the next are one transaction, so that a job is never between two rounds.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from undersong.services.coordinator.buffering import spend, tend
from undersong.services.coordinator.domain.causes import causes_of
from undersong.services.coordinator.domain.endings import Published, SiteFault, Verdicts
from undersong.services.coordinator.domain.manifests import draft, witnessed
from undersong.services.coordinator.domain.progress import Finished, JobState
from undersong.services.coordinator.domain.rounds import CHECK_EVERY, Phase, Round
from undersong.services.coordinator.domain.tasks import CONSENT_WAITING, SiteTask, TaskState
from undersong.services.coordinator.leases import Timing
from undersong.services.coordinator.moves import ROUNDS_TOPIC, TASKS_TOPIC, measure, move
from undersong.services.coordinator.planning import ACTOR, Planner, cause_facts, round_facts
from undersong.services.coordinator.repository.jobs import FAULT, FAULT_EVENTS, JobRepository
from undersong.services.coordinator.repository.rounds import Changes, Duty, RoundRepository, StoredRound
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.shared.database import Database, Transaction
from undersong.shared.identity.authority import Identity
from undersong.shared.ids import JobId, ModelId, RoundId, SiteId, TaskId, new_id
from undersong.shared.telemetry.metrics import PARTICIPATION, ROUND_PHASE_SECONDS, ROUNDS
from undersong.shared.wire.manifest import LogHead, RoundKind, SignedManifest

JOBS_TOPIC: Final = "coordinator.jobs"


class Rounds:
    """The transitions of rounds, with the job they belong to."""

    def __init__(
        self, database: Database, identity: Callable[[], Identity], timing: Timing, default_deadline_s: float
    ) -> None:
        self._database, self._planner = database, Planner(identity, timing, default_deadline_s)

    @property
    def log_head(self) -> LogHead | None:
        """The head of the transparency log that the next manifest carries."""
        return self._planner.log_head

    @log_head.setter
    def log_head(self, head: LogHead) -> None:
        self._planner.log_head = head

    async def read(self, round_id: RoundId) -> StoredRound:
        """Return a round with its documents."""
        return await self._database.read("round.read", lambda tx: RoundRepository(tx).record(round_id))

    async def look(self, round_id: RoundId) -> tuple[StoredRound, datetime]:
        """Return a round with its documents, and the database's time."""

        async def work(tx: Transaction) -> tuple[StoredRound, datetime]:
            return await RoundRepository(tx).record(round_id), await tx.now()

        return await self._database.read("round.look", work)

    async def plan_next(self, job_id: JobId, model_id: ModelId | None = None) -> RoundId | None:
        """Plan the job's next round, or end the job; nothing when it is not the time."""

        async def work(tx: Transaction) -> RoundId | None:
            job = await JobRepository(tx).get(job_id, lock=True)
            if job.model_id is None and model_id is not None:
                job = job.with_model(model_id)
            return await self._planner.plan(tx, job)

        return await self._database.run("round.plan", work)

    async def witness(self, round_id: RoundId, commitment: str, epoch: int) -> SignedManifest:
        """Complete a planned round's manifest with the keys service's commitment, once, and return what is stored."""

        async def work(tx: Transaction) -> SignedManifest:
            rounds = RoundRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            signed = (await rounds.record(round_id)).manifest
            # A manifest is completed once: the aggregator and the sites may have it already.
            if round_.phase is not Phase.PLANNED or not draft(signed.manifest):
                return signed
            present = await SiteRepository(tx).hear_epoch(epoch)
            signed = self._planner.sign(witnessed(signed.manifest, commitment, present))
            await rounds.save(round_, Changes(manifest=signed))
            return signed

        return await self._database.run("round.witness", work)

    async def open(self, round_id: RoundId, engine_public: Mapping[str, Any]) -> bool:
        """Return the aggregator made the key: put the tasks out. Whether that was still to be done."""

        async def work(tx: Transaction) -> bool:
            rounds = RoundRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            if round_.phase is not Phase.PLANNED:
                return False
            now = await tx.now()
            opened = round_.keyed().opened(now)
            await rounds.save(opened, Changes(engine_public=engine_public))
            # Phase, tasks and hints are one transaction, so a collecting round always has a task for each site.
            await TaskRepository(tx).add_all([_task(opened, site) for site in opened.cohort])
            jobs = JobRepository(tx)
            await jobs.record(round_.job_id, "round.keyed", ACTOR, round_facts(opened))
            await jobs.record(round_.job_id, "round.collecting", ACTOR, round_facts(opened), notify=False)
            for site in opened.cohort:
                await tx.emit(TASKS_TOPIC, "task.opened", site)
            waited_s = (now - (round_.created_at or now)).total_seconds()
            tx.after_commit(lambda: _observe("planned", waited_s))
            return True

        return await self._database.run("round.open", work)

    async def tend(self, order_id: RoundId) -> RoundId | None:
        """Look after a training order, and plan what its job can do by now; the id of a round that was planned."""

        async def work(tx: Transaction) -> RoundId | None:
            job_id = await tend(tx, order_id)
            if job_id is None:
                return None
            return await self._planner.plan(tx, await JobRepository(tx).get(job_id, lock=True))

        return await self._database.run("round.tend", work)

    async def begin_closing(self, round_id: RoundId) -> None:
        """No site is given a task of this round any more."""

        async def work(tx: Transaction) -> None:
            rounds = RoundRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            if round_.phase is Phase.COLLECTING and not round_.closing:
                await rounds.save(round_.close().checked(await tx.now()))
                await JobRepository(tx).record(round_.job_id, "round.closing", ACTOR, round_facts(round_))

        await self._database.run("round.close", work)

    async def postpone(self, round_id: RoundId) -> None:
        """Nothing new."""

        async def work(tx: Transaction) -> None:
            await RoundRepository(tx).postpone(round_id, await tx.now() + CHECK_EVERY)

        await self._database.run("round.postpone", work)

    async def publish(self, round_id: RoundId, published: Published, verdict: Verdicts) -> RoundId | None:
        """End a round with its result and plan what follows; the next round's id."""

        async def work(tx: Transaction) -> RoundId | None:
            rounds, jobs = RoundRepository(tx), JobRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            if round_.ended:
                return None
            now, outcome = await tx.now(), published.outcome
            over = round_.published(now, outcome.count)
            measured = bool(outcome.metrics)
            metrics = outcome.metrics if measured else None
            await rounds.save(over, Changes(result=published.result, metrics=metrics, unreported=measured))
            # Locks go from round to tasks to job, here as everywhere (repository/__init__.py).
            await self._settle(tx, round_, verdict)
            await spend(tx, round_, round_.cohort)
            job = await jobs.get(round_.job_id, lock=True)
            # The job was stopped, or went on, while the result was on its way: the round counts, the job does not move.
            after = job.advanced(round_.kind, round_.number, outcome, now) if job.round_id == round_id else None
            facts = round_facts(over) | {"result": dict(published.result), "metrics": dict(outcome.metrics)}
            facts |= {} if after is None else {"trained": after.progress.trained}
            await jobs.record(job.id, "round.published", ACTOR, facts)
            await _record_faults(jobs, round_, verdict.faults)
            if measured:
                await tx.emit(ROUNDS_TOPIC, "round.measured", round_id)
            tx.after_commit(lambda: self._count(over, len(over.cohort)))
            return None if after is None else await self._planner.plan(tx, after)

        return await self._database.run("round.publish", work)

    async def fail(
        self,
        round_id: RoundId,
        reason: str,
        *,
        tell: bool,
        verdict: Verdicts | None = None,
        spent: bool = False,
        repeats: bool = False,
        steps: Sequence[Mapping[str, Any]] = (),
    ) -> RoundId | None:
        """End a round without a result and plan another attempt, or end the job. `tell` the aggregator if it is new.

        `spent`: sites may have answered what opens the sum, so the next attempt goes under the next number.
        `repeats`: another attempt at this step would end in the same way, so the job fails.
        `steps`: the engine's steps that had closed, for the timeline.
        """

        async def work(tx: Transaction) -> RoundId | None:
            rounds, jobs = RoundRepository(tx), JobRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            if round_.ended:
                return None
            now = await tx.now()
            over = round_.failed(reason[:200], now)
            # The duty to tell the aggregator is a column, not a message: the sweeper repeats it until it is done.
            result = {"steps": list(steps)} if steps else None
            await rounds.save(over, Changes(uncancelled=tell, result=result))
            ended = await self._settle(tx, round_, verdict)
            await spend(tx, round_, round_.cohort if spent else {task.site_id for task in ended if task.failed})
            job = await jobs.get(round_.job_id, lock=True)
            await jobs.record(job.id, "round.failed", ACTOR, round_facts(over) | cause_facts(causes_of(ended)))
            await _record_faults(jobs, round_, () if verdict is None else verdict.faults)
            if tell:
                await tx.emit(ROUNDS_TOPIC, "round.cancelled", round_id)
            tx.after_commit(lambda: self._count(over, over.got))
            if job.round_id != round_id:
                return None
            failure = over.reason or "round-failed"
            waits, kind = any(t.code == CONSENT_WAITING for t in ended), round_.kind if spent else None
            job = job.setback(failure, now, ended, spent=kind, waits=waits)
            end = await self._planner.end_of(tx, job, round_)
            if repeats or end is JobState.FAILED:
                await self._planner.finish(tx, job, Finished(JobState.FAILED, failure))
            elif end is JobState.PAUSED:
                await self._planner.stall(tx, job, failure)
            else:
                return await self._planner.plan(tx, job)
            return None

        return await self._database.run("round.fail", work)

    async def settle(self, round_id: RoundId, duty: Duty) -> None:
        """Note that a duty towards another service is done."""

        async def work(tx: Transaction) -> None:
            await RoundRepository(tx).settle(round_id, duty)

        await self._database.run("round.settle", work)

    @staticmethod
    async def cancel(tx: Transaction, round_id: RoundId, reason: str) -> None:
        """End a round whose job was stopped; the caller's transaction goes on with the job."""
        rounds = RoundRepository(tx)
        round_ = await rounds.get(round_id, lock=True)
        if round_.ended:
            return
        now = await tx.now()
        over = round_.cancelled(reason, now)
        await rounds.save(over, Changes(uncancelled=True))
        tasks = TaskRepository(tx)
        for task in await tasks.of_round(round_id, lock=True):
            stopped = task.reject(reason, "The job was stopped.", now)
            if stopped is not task:
                await tasks.save(stopped)
        await JobRepository(tx).record(round_.job_id, "round.cancelled", ACTOR, round_facts(over))
        await tx.emit(ROUNDS_TOPIC, "round.cancelled", round_id)
        tx.after_commit(lambda: ROUNDS.labels("cancelled", reason).inc())

    async def ask_again(self, round_id: RoundId, sites: Collection[str]) -> None:
        """Dispatch again the tasks of sites whose stored updates rotted at the aggregator, while the round has time.

        A round that was closing because all sites had answered no longer is. Idempotent: an open task is left alone.
        """

        async def work(tx: Transaction) -> None:
            rounds, now = RoundRepository(tx), await tx.now()
            round_ = await rounds.get(round_id, lock=True)
            if round_.phase is not Phase.COLLECTING or round_.late(now):
                return
            tasks = await TaskRepository(tx).of_round(round_id, lock=True)
            lost = [task for task in tasks if task.site_id in sites and task.state is TaskState.DONE]
            if lost and round_.closing:
                round_ = round_.collect()
                await rounds.save(round_)
            for task in lost:
                await move(tx, task, task.asked_again(now), round_, ACTOR, event="task.body-lost")
                await tx.emit(TASKS_TOPIC, "task.opened", task.site_id)

        await self._database.run("round.ask_again", work)

    @staticmethod
    async def _settle(tx: Transaction, round_: Round, verdict: Verdicts | None) -> list[SiteTask]:
        """End the round's tasks and return them: done or unusable where the aggregator says so, else given up."""
        tasks, now, ended = TaskRepository(tx), await tx.now(), []
        for task in await tasks.of_round(round_.id, lock=True):
            after = verdict.on(task, now) if verdict is not None else task.expire("round-ended", now)
            if after is not task:
                await tasks.save(after)
                tx.after_commit(partial(measure, task, after))
            ended.append(after)
        return ended

    @staticmethod
    def _count(over: Round, counted: int) -> None:
        ROUNDS.labels(str(over.phase), (over.reason or "none").split(":")[0]).inc()
        if over.kind is not RoundKind.INITIALISE:
            PARTICIPATION.observe(min(over.got, counted) / max(1, len(over.cohort)))
        if over.opened_at and over.finished_at:
            _observe("collecting", (over.finished_at - over.opened_at).total_seconds())


async def _record_faults(jobs: JobRepository, round_: Round, faults: Sequence[SiteFault]) -> None:
    """Tell the job's readers who broke the protocol, and who is therefore excluded from the job's later rounds."""
    for fault in faults:
        event = FAULT_EVENTS.get(fault.code, FAULT)
        facts = {"round_id": round_.id, "site_id": fault.site_id, "code": fault.code, "message": fault.message}
        await jobs.record(round_.job_id, event, ACTOR, facts)


def _task(round_: Round, site: SiteId) -> SiteTask:
    return SiteTask(TaskId(new_id("task")), round_.id, round_.job_id, site, str(round_.kind))


def _observe(phase: str, seconds: float) -> None:
    ROUND_PHASE_SECONDS.labels(phase).observe(max(0.0, seconds))
