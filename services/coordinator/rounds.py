"""Rounds in SQL: planned, opened, published, failed, cancelled; one transaction each, called by the conductor.

The end of a round and the plan of the next are one transaction, so that a job is never between two rounds.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import structlog

from services.coordinator.domain.causes import Cause, causes_of, owed_to_job
from services.coordinator.domain.jobs import Job, Outcome
from services.coordinator.domain.manifests import Settled, cohort_for, draft, manifest_for, witnessed
from services.coordinator.domain.progress import Finished, JobState, Stalled, Step
from services.coordinator.domain.rounds import CHECK_EVERY, Phase, Round
from services.coordinator.domain.tasks import DEALER_AT_FAULT, Task, TaskState
from services.coordinator.domain.validation import absence
from services.coordinator.leases import Timing
from services.coordinator.moves import ROUNDS_TOPIC, TASKS_TOPIC, measure, move
from services.coordinator.repository.jobs import FAULT, FAULT_EVENTS, JobRepository
from services.coordinator.repository.rounds import RoundRecord, RoundRepository
from services.coordinator.repository.sites import SiteRepository
from services.coordinator.repository.tasks import TaskRepository
from shared.database import Database, Transaction
from shared.errors import Refusal
from shared.identity.authority import Identity
from shared.ids import JobId, ModelId, RoundId, SiteId, TaskId, new_id
from shared.telemetry.metrics import PARTICIPATION, ROUND_PHASE_SECONDS, ROUNDS
from shared.wire.manifest import MANIFEST_CONTEXT, LogHead, RoundKind, RoundManifest, SignedManifest

JOBS_TOPIC: Final = "coordinator.jobs"
ACTOR: Final = "coordinator"
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """What a published round leaves behind: the outcome for the job, and the documents to keep."""

    outcome: Outcome
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SiteFault:
    """What a site did against the engine's protocol."""

    site_id: SiteId
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Whose updates the aggregator counted, whose it could not use (code, message), and who broke the protocol."""

    counted: frozenset[SiteId]
    unusable: Mapping[SiteId, tuple[str, str | None]]
    faults: Sequence[SiteFault] = ()

    def on(self, task: Task, now: datetime) -> Task:
        """The task at the end of its round."""
        for fault in self.faults:
            if fault.site_id == task.site_id and fault.code == DEALER_AT_FAULT:
                return task.at_fault(fault.code, fault.message, now)
        if task.site_id in self.unusable:
            return task.unusable(*self.unusable[task.site_id], now)
        return task.counted(now) if task.site_id in self.counted else task.expire("round-ended", now)


class Rounds:
    """The transitions of rounds, with the job they belong to."""

    def __init__(
        self, database: Database, identity: Callable[[], Identity], timing: Timing, default_deadline_s: float
    ) -> None:
        self._database, self._identity = database, identity
        self._timing, self._default_deadline_s = timing, default_deadline_s
        self.log_head: LogHead | None = None  # what `LogHeads` saw last; new manifests carry it

    async def read(self, round_id: RoundId) -> RoundRecord:
        """A round with its documents."""
        return await self._database.read("round.read", lambda tx: RoundRepository(tx).record(round_id))

    async def look(self, round_id: RoundId) -> tuple[RoundRecord, datetime]:
        """A round with its documents, and the database's time."""

        async def work(tx: Transaction) -> tuple[RoundRecord, datetime]:
            return await RoundRepository(tx).record(round_id), await tx.now()

        return await self._database.read("round.look", work)

    async def plan_next(self, job_id: JobId, model_id: ModelId | None = None) -> RoundId | None:
        """Plan the job's next round, or end the job; nothing when it is not the time."""

        async def work(tx: Transaction) -> RoundId | None:
            job = await JobRepository(tx).get(job_id, lock=True)
            if job.model_id is None and model_id is not None:
                job = job.with_model(model_id)
            return await self._plan(tx, job)

        return await self._database.run("round.plan", work)

    async def witness(self, round_id: RoundId, commitment: str, epoch: int) -> SignedManifest:
        """Complete a planned round's manifest with the keys service's commitment, once, and return what is stored."""

        async def work(tx: Transaction) -> SignedManifest:
            rounds = RoundRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            signed = (await rounds.record(round_id)).manifest
            if round_.phase is not Phase.PLANNED or not draft(signed.manifest):
                return signed
            present = await SiteRepository(tx).hear_epoch(epoch)
            signed = self._sign(witnessed(signed.manifest, commitment, present))
            await rounds.save(round_, manifest=signed.model_dump(mode="json"))
            return signed

        return await self._database.run("round.witness", work)

    async def open(self, round_id: RoundId, engine_public: Mapping[str, Any]) -> bool:
        """The aggregator made the key: put the tasks out. Whether that was still to be done."""

        async def work(tx: Transaction) -> bool:
            rounds = RoundRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            if round_.phase is not Phase.PLANNED:
                return False
            now = await tx.now()
            opened = round_.keyed().opened(now)
            await rounds.save(opened, engine_public=dict(engine_public))
            await TaskRepository(tx).add_all([_task(opened, site) for site in opened.cohort])
            jobs = JobRepository(tx)
            await jobs.record(round_.job_id, "round.keyed", ACTOR, _facts(opened))
            await jobs.record(round_.job_id, "round.collecting", ACTOR, _facts(opened), notify=False)
            for site in opened.cohort:
                await tx.emit(TASKS_TOPIC, "task.opened", site)
            waited_s = (now - (round_.created_at or now)).total_seconds()
            tx.after_commit(lambda: _observe("planned", waited_s))
            return True

        return await self._database.run("round.open", work)

    async def begin_closing(self, round_id: RoundId) -> None:
        """No site is given a task of this round any more."""

        async def work(tx: Transaction) -> None:
            rounds = RoundRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            if round_.phase is Phase.COLLECTING and not round_.closing:
                await rounds.save(round_.close().checked(await tx.now()))
                await JobRepository(tx).record(round_.job_id, "round.closing", ACTOR, _facts(round_))

        await self._database.run("round.close", work)

    async def postpone(self, round_id: RoundId) -> None:
        """Nothing new."""

        async def work(tx: Transaction) -> None:
            await RoundRepository(tx).postpone(round_id, await tx.now() + CHECK_EVERY)

        await self._database.run("round.postpone", work)

    async def publish(self, round_id: RoundId, published: Published, verdict: "Verdicts") -> RoundId | None:
        """End a round with its result and plan what follows; the next round's id."""

        async def work(tx: Transaction) -> RoundId | None:
            rounds, jobs = RoundRepository(tx), JobRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            if round_.ended:
                return None
            now, outcome = await tx.now(), published.outcome
            over = round_.published(now, outcome.count)
            measured = bool(outcome.metrics)
            await rounds.save(
                over,
                result=dict(published.result),
                metrics=dict(outcome.metrics) if measured else None,
                unreported=measured,
            )
            await self._settle(tx, round_, verdict)
            job = await jobs.get(round_.job_id, lock=True)
            facts = _facts(over) | {"result": dict(published.result), "metrics": dict(outcome.metrics)}
            await jobs.record(job.id, "round.published", ACTOR, facts)
            await _record_faults(jobs, round_, verdict.faults)
            if measured:
                await tx.emit(ROUNDS_TOPIC, "round.measured", round_id)
            tx.after_commit(lambda: self._count(over, len(over.cohort)))
            if job.round_id != round_id:
                return None
            return await self._plan(tx, job.advanced(round_.kind, round_.number, outcome, now))

        return await self._database.run("round.publish", work)

    async def fail(
        self,
        round_id: RoundId,
        reason: str,
        *,
        tell: bool,
        verdict: "Verdicts | None" = None,
        spent: bool = False,
        repeats: bool = False,
    ) -> RoundId | None:
        """End a round without a result and plan another attempt, or end the job. `tell` the aggregator if it is new.

        `spent`: sites may have answered what opens the sum, so the next attempt goes under the next number.
        `repeats`: another attempt at this step would end in the same way, so the job fails.
        """

        async def work(tx: Transaction) -> RoundId | None:
            rounds, jobs = RoundRepository(tx), JobRepository(tx)
            round_ = await rounds.get(round_id, lock=True)
            if round_.ended:
                return None
            now = await tx.now()
            over = round_.failed(reason[:200], now)
            await rounds.save(over, uncancelled=tell)
            ended = await self._settle(tx, round_, verdict)
            job = await jobs.get(round_.job_id, lock=True)
            await jobs.record(job.id, "round.failed", ACTOR, _facts(over) | _causes(causes_of(ended)))
            await _record_faults(jobs, round_, () if verdict is None else verdict.faults)
            if tell:
                await tx.emit(ROUNDS_TOPIC, "round.cancelled", round_id)
            tx.after_commit(lambda: self._count(over, over.got))
            if job.round_id != round_id:
                return None
            failure = over.reason or "round-failed"
            job = job.setback(failure, now, ended, spent=spent)
            end = await self._end_of(tx, job, round_)
            if repeats or end is JobState.FAILED:
                await self._finish(tx, job, Finished(JobState.FAILED, failure))
            elif end is JobState.PAUSED:
                await self._stall(tx, job, failure)
            else:
                return await self._plan(tx, job)
            return None

        return await self._database.run("round.fail", work)

    async def set_flag(self, round_id: RoundId, **flags: bool) -> None:
        """A duty towards another service is done."""

        async def work(tx: Transaction) -> None:
            await RoundRepository(tx).set_flag(round_id, **flags)

        await self._database.run("round.flag", work)

    @staticmethod
    async def cancel(tx: Transaction, round_id: RoundId, reason: str) -> None:
        """End a round whose job was stopped; the caller's transaction goes on with the job."""
        rounds = RoundRepository(tx)
        round_ = await rounds.get(round_id, lock=True)
        if round_.ended:
            return
        now = await tx.now()
        over = round_.cancelled(reason, now)
        await rounds.save(over, uncancelled=True)
        tasks = TaskRepository(tx)
        for task in await tasks.of_round(round_id, lock=True):
            stopped = task.reject(reason, "The job was stopped.", now)
            if stopped is not task:
                await tasks.save(stopped)
        await JobRepository(tx).record(round_.job_id, "round.cancelled", ACTOR, _facts(over))
        await tx.emit(ROUNDS_TOPIC, "round.cancelled", round_id)
        tx.after_commit(lambda: ROUNDS.labels("cancelled", reason).inc())

    async def _plan(self, tx: Transaction, job: Job) -> RoundId | None:
        """Save the job as it is now, with a new round or an end where it is time for one."""
        jobs, now = JobRepository(tx), await tx.now()
        step = job.next()
        if step is None or job.resting(now) or (isinstance(step, Step) and job.lacks_model):
            await jobs.save(job)
            return None
        if isinstance(step, Finished):
            await self._finish(tx, job, step)
            return None
        if isinstance(step, Stalled):
            await self._stall(tx, job, step.reason)
            return None
        cohort = cohort_for(job, step, await self._candidates(tx, job))
        if not cohort:
            await self._wait_for_sites(tx, job)
            return None
        deadline_s = job.spec.deadlines.round_s or self._default_deadline_s
        round_id = RoundId(new_id("rnd"))
        epoch = (await SiteRepository(tx).watch()).epoch
        try:
            manifest = manifest_for(job, step, Settled(round_id, cohort, epoch, deadline_s, self.log_head))
        except Refusal as refusal:
            log.warning("round.not_plannable", job_id=job.id, reason=refusal.detail)
            await self._finish(tx, job, Finished(JobState.FAILED, refusal.slug()))
            return None
        round_ = _new_round(manifest, step.number, now)
        await RoundRepository(tx).add(round_, self._sign(manifest))
        await jobs.save(job.started(round_id, now))
        await jobs.record(job.id, "round.planned", ACTOR, _facts(round_))
        await tx.emit(ROUNDS_TOPIC, "round.planned", round_id)
        return round_id

    async def _candidates(self, tx: Transaction, job: Job) -> list[SiteId]:
        since = await tx.now() - self._timing.lease
        sites = await SiteRepository(tx).present(job.federation_id, since)
        out = set(job.progress.unable) | {task.site_id for task in await TaskRepository(tx).at_fault(job.id)}
        able = [site for site in sites if site.id not in out]
        return [site.id for site in able if absence(site, job.spec, job.resolved) is None]

    @staticmethod
    async def _end_of(tx: Transaction, job: Job, round_: Round) -> JobState | None:
        """Whether what the sites reported leaves the step to be tried again (None), the job paused, or failed.

        Too few may be left because sites were excluded (final), or because sites say that they cannot do it: where
        only few say so the job pauses, since a site may lie or its owner may change what it says.
        """
        reported, excluded = job.progress.unable, {t.site_id for t in await TaskRepository(tx).at_fault(job.id)}
        if owed_to_job(round_.kind, reported):
            return JobState.FAILED
        members = [site.facts() for site in await SiteRepository(tx).of_federation(job.federation_id)]
        fit = [s.id for s in members if s.id not in excluded and absence(s, job.spec, job.resolved) is None]
        able = sum(site not in reported for site in fit)
        if not (reported or excluded) or able >= round_.min_cohort:
            return None
        return JobState.FAILED if len(fit) < round_.min_cohort or 2 * able <= len(fit) else JobState.PAUSED

    async def _wait_for_sites(self, tx: Transaction, job: Job) -> None:
        """Too few sites are there. Waiting has the deadline of a round."""
        now = await tx.now()
        waiting = job.waiting(now)
        since = waiting.waiting_since or now
        if (now - since).total_seconds() >= (job.spec.deadlines.round_s or self._default_deadline_s):
            await self._stall(tx, job, "too-few-sites")
            return
        jobs = JobRepository(tx)
        await jobs.save(waiting)
        if job.waiting_since is None:
            await jobs.record(job.id, "job.waiting", ACTOR, {"needed": job.spec.cohort.min})

    @staticmethod
    async def _finish(tx: Transaction, job: Job, end: Finished) -> None:
        jobs = JobRepository(tx)
        over = job.finish(end.state, end.reason, await tx.now())
        await jobs.save(over)
        data = {"state": str(end.state), "reason": end.reason, "version_id": job.version_id}
        await jobs.record(job.id, f"job.{end.state}", ACTOR, data | _causes(over.progress.causes))

    @staticmethod
    async def _stall(tx: Transaction, job: Job, reason: str) -> None:
        """Pause a job that cannot go on by itself; a person resumes it from its last good version."""
        jobs = JobRepository(tx)
        await jobs.save(job.pause(reason))
        data = {"state": str(JobState.PAUSED), "reason": reason, "version_id": job.version_id}
        await jobs.record(job.id, "job.paused", ACTOR, data | _causes(job.progress.causes))

    async def ask_again(self, round_id: RoundId, sites: Collection[str]) -> None:
        """Hand the tasks of sites whose stored updates rotted at the aggregator out again, while the round collects.

        Idempotent: a task that is out already is left alone.
        """

        async def work(tx: Transaction) -> None:
            round_ = await RoundRepository(tx).get(round_id, lock=True)
            if round_.phase is not Phase.COLLECTING or round_.closing:
                return
            for task in await TaskRepository(tx).of_round(round_id, lock=True):
                if task.site_id in sites and task.state is TaskState.DONE:
                    await move(tx, task, task.asked_again(await tx.now()), round_, ACTOR, event="task.body-lost")
                    await tx.emit(TASKS_TOPIC, "task.opened", task.site_id)

        await self._database.run("round.ask_again", work)

    @staticmethod
    async def _settle(tx: Transaction, round_: Round, verdict: "Verdicts | None") -> list[Task]:
        """End the round's tasks and return them: done or unusable where the aggregator says so, else given up."""
        tasks, now, ended = TaskRepository(tx), await tx.now(), []
        for task in await tasks.of_round(round_.id, lock=True):
            after = verdict.on(task, now) if verdict is not None else task.expire("round-ended", now)
            if after is not task:
                await tasks.save(after)
                tx.after_commit(partial(measure, task, after))
            ended.append(after)
        return ended

    def _sign(self, manifest: RoundManifest) -> SignedManifest:
        identity = self._identity()
        signature = identity.sign(MANIFEST_CONTEXT, bytes.fromhex(manifest.digest()))
        return SignedManifest(manifest=manifest, keyid=identity.keyid, signature=signature.hex())

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


def _new_round(manifest: RoundManifest, number: int, now: datetime) -> Round:
    """Return a new round; `number` counts rounds for people, the manifest's what no site may be asked twice."""
    deadline = timedelta(seconds=manifest.deadline_s)
    return Round(
        id=manifest.round_id,
        job_id=manifest.job_id,
        kind=manifest.kind,
        number=number,
        attempt=manifest.attempt,
        cohort=manifest.cohort,
        min_cohort=manifest.min_cohort,
        target=manifest.target,
        deadline=deadline,
        deadline_at=now + deadline,
        next_check_at=now + CHECK_EVERY,
        created_at=now,
    )


def _task(round_: Round, site: SiteId) -> Task:
    return Task(TaskId(new_id("task")), round_.id, round_.job_id, site, str(round_.kind))


def _facts(round_: Round) -> dict[str, Any]:
    """What an event says of a round."""
    return {
        "round_id": round_.id,
        "kind": str(round_.kind),
        "number": round_.number,
        "attempt": round_.attempt,
        "phase": str(round_.phase),
        "reason": round_.reason,
        "got": round_.got,
        "target": round_.target,
        "cohort": len(round_.cohort),
    }


def _causes(causes: Sequence[Cause]) -> dict[str, Any]:
    """What an event says of why a round failed; nothing where no site said anything."""
    told = [{"code": cause.code, "sentence": cause.sentence, "sites": cause.sites} for cause in causes]
    return {"causes": told} if told else {}


def _observe(phase: str, seconds: float) -> None:
    ROUND_PHASE_SECONDS.labels(phase).observe(max(0.0, seconds))
