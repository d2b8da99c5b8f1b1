"""Plan a job's next round, or end or pause the job, in the transaction that ended the round before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from undersong.services.coordinator.buffering import ask, opened, orders_of, unasked
from undersong.services.coordinator.domain.buffers import BufferRule, TrainingOrder, busy, ready, rule_of
from undersong.services.coordinator.domain.causes import Cause, liftable, owed_to_job
from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.manifests import Settled, cohort_for, manifest_for
from undersong.services.coordinator.domain.progress import DIVERGED, Finished, JobState, Stalled, Step
from undersong.services.coordinator.domain.rounds import CHECK_EVERY, Round
from undersong.services.coordinator.domain.sites import consent_of
from undersong.services.coordinator.domain.tasks import CONSENT_WAITING
from undersong.services.coordinator.domain.validation import absence
from undersong.services.coordinator.leases import Timing
from undersong.services.coordinator.moves import ROUNDS_TOPIC
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.shared.database import Transaction
from undersong.shared.errors import Refusal
from undersong.shared.identity.authority import Identity
from undersong.shared.ids import RoundId, SiteId, new_id
from undersong.shared.wire.manifest import (
    MANIFEST_CONTEXT,
    BufferedChange,
    LogHead,
    RoundKind,
    RoundManifest,
    SignedManifest,
)

ACTOR: Final = "coordinator"
log = structlog.get_logger(__name__)


class Planner:
    """What comes next for a job; every method belongs to the caller's transaction."""

    def __init__(self, identity: Callable[[], Identity], timing: Timing, default_deadline_s: float) -> None:
        self._identity, self._timing, self._default_deadline_s = identity, timing, default_deadline_s
        self.log_head: LogHead | None = None  # what `LogHeads` saw last; new manifests carry it

    async def plan(self, tx: Transaction, job: Job) -> RoundId | None:
        """Save the job as it is now, with a new round or an end where it is time for one."""
        jobs, now = JobRepository(tx), await tx.now()
        step = job.next()
        if step is None or job.resting(now) or (isinstance(step, Step) and job.lacks_model):
            await jobs.save(job)
            return None
        if step == Finished(
            JobState.FAILED, DIVERGED
        ):  # one site's word can make a mean large: it ends no job for good
            step = Stalled(DIVERGED)
        if isinstance(step, Finished):
            await self.finish(tx, job, step)
            return None
        if isinstance(step, Stalled):
            await self.stall(tx, job, step.reason)
            return None
        candidates, buffered = await self._candidates(tx, job), dict[SiteId, BufferedChange]()
        if (rule := rule_of(job.spec)) is not None and step.kind in (RoundKind.TRAIN, RoundKind.EVALUATE):
            orders = await orders_of(tx, job.id)
            if step.kind is RoundKind.TRAIN:
                buffered = await self._buffered(tx, job, step, rule, orders, candidates)
                if len(buffered) < rule.size:
                    await self._await_changes(tx, job, rule, buffered)
                    return None
                candidates = sorted(buffered)
            else:  # a site that trains would hold the evaluation up
                candidates = [site for site in candidates if site not in busy(orders)]
        cohort = cohort_for(job, step, candidates)
        if not cohort:
            await self._wait_for_sites(tx, job, step)
            return None
        changes = tuple(buffered[site] for site in cohort if site in buffered)
        return await self._start(tx, job, step, cohort, changes)

    async def _start(
        self, tx: Transaction, job: Job, step: Step, cohort: tuple[SiteId, ...], buffered: tuple[BufferedChange, ...]
    ) -> RoundId | None:
        """Save the job with a round of this cohort; end it where no round can be planned."""
        jobs, now = JobRepository(tx), await tx.now()
        deadline_s = job.spec.deadlines.round_s or self._default_deadline_s
        round_id = RoundId(new_id("rnd"))
        epoch = (await SiteRepository(tx).watch()).epoch
        try:
            settled = Settled(round_id, cohort, epoch, deadline_s, self.log_head, buffered)
            manifest = manifest_for(job, step, settled)
        except Refusal as refusal:
            log.warning("round.not_plannable", job_id=job.id, reason=refusal.detail)
            await self.finish(tx, job, Finished(JobState.FAILED, refusal.slug()))
            return None
        round_ = _new_round(manifest, step.number, now)
        await RoundRepository(tx).add(round_, self.sign(manifest))
        await jobs.save(job.started(round_id, now))
        await jobs.record(job.id, "round.planned", ACTOR, round_facts(round_))
        await tx.emit(ROUNDS_TOPIC, "round.planned", round_id)
        return round_id

    async def _buffered(
        self,
        tx: Transaction,
        job: Job,
        step: Step,
        rule: BufferRule,
        orders: list[TrainingOrder],
        candidates: Sequence[SiteId],
    ) -> dict[SiteId, BufferedChange]:
        """Return the changes that are ready, once every site that is free has an order to train."""
        found = ready(orders, job.progress.trained, rule)
        able = {site: change for site, change in found.items() if site in candidates}
        if len(able) >= rule.size:
            return able
        newest = next(
            (o for o in orders if (o.round.number, o.round.attempt) == (job.progress.trained, step.attempt)), None
        )
        if newest is None and (free := [site for site in candidates if site not in busy(orders) | set(found)]):
            newest = await self._order(tx, job, step.attempt, rule)
            orders.append(newest)
            log.info("order.given", job_id=job.id, round_id=newest.round.id, sites=len(free))
        if newest is not None:
            await ask(tx, newest.round, unasked(orders, newest, candidates, found))
        return able

    async def _order(self, tx: Transaction, job: Job, attempt: int, rule: BufferRule) -> TrainingOrder:
        """Store a training order for the job's present version: for all sites that could ever answer it."""
        now = await tx.now()
        members = [site.facts() for site in await SiteRepository(tx).of_federation(job.federation_id)]
        fit = tuple(sorted(site.id for site in members if absence(site, job.spec, job.resolved) is None))
        deadline_s = job.spec.deadlines.round_s or self._default_deadline_s
        epoch = (await SiteRepository(tx).watch()).epoch
        step = Step(RoundKind.PREPARE, job.progress.trained, attempt)
        settled = Settled(RoundId(new_id("rnd")), fit, epoch, deadline_s, self.log_head)
        manifest = manifest_for(job, step, settled)
        order = opened(_new_round(manifest, step.number, now), now, rule)
        manifest = manifest.model_copy(update={"deadline_s": order.deadline.total_seconds()})
        await RoundRepository(tx).add(order, self.sign(manifest))
        await JobRepository(tx).record(job.id, "order.opened", ACTOR, round_facts(order))
        if manifest.model is None:
            raise ValueError("an order names the version to train from")
        return TrainingOrder(order, manifest.model.version_id, {})

    async def _await_changes(
        self,
        tx: Transaction,
        job: Job,
        rule: BufferRule,
        held: Mapping[SiteId, BufferedChange],
    ) -> None:
        """Save the job while its buffer fills; as a failed attempt where that takes too long, or too few can."""
        now, orders = await tx.now(), await orders_of(tx, job.id)
        newest = orders[-1] if orders else None
        failed = [] if newest is None else [task for task in newest.tasks.values() if task.failed]
        possible = len(held.keys() | busy(orders))
        since = job.waiting_since or now
        late = (now - since).total_seconds() >= (job.spec.deadlines.round_s or self._default_deadline_s)
        if newest is None and late:
            await self.stall(tx, job, "too-few-sites")
            return
        if newest is None or not (late or (failed and possible < rule.size)):
            jobs = JobRepository(tx)
            await jobs.save(job.waiting(now))
            if job.waiting_since is None and possible < rule.size:  # else enough sites train
                await jobs.record(job.id, "job.waiting", ACTOR, {"needed": rule.size, "ready": len(held)})
            return
        waits = any(task.code == CONSENT_WAITING for task in failed)
        job = replace(job.setback("buffer" if late else "quorum", now, failed, waits=waits), waiting_since=None)
        end = await self.end_of(tx, job, replace(newest.round, min_cohort=rule.size))
        if end is JobState.FAILED:
            await self.finish(tx, job, Finished(JobState.FAILED, job.last_failure or "quorum"))
        elif end is JobState.PAUSED:
            await self.stall(tx, job, job.last_failure or "quorum")
        else:
            await JobRepository(tx).save(job)

    def sign(self, manifest: RoundManifest) -> SignedManifest:
        """Return the manifest with the coordinator's signature over its digest."""
        identity = self._identity()
        signature = identity.sign(MANIFEST_CONTEXT, bytes.fromhex(manifest.digest()))
        return SignedManifest(manifest=manifest, keyid=identity.keyid, signature=signature.hex())

    @staticmethod
    async def end_of(tx: Transaction, job: Job, round_: Round) -> JobState | None:
        """Return whether what the sites reported leaves the step to be tried again (None), the job paused, or failed.

        Too few may be left because sites were excluded (final), or because sites say that they cannot do it: where
        only few say so the job pauses, since a site may lie or its owner may change what it says. It also pauses where
        most say so, but for a reason that the owners can take away for this very job.
        """
        reported, excluded = job.progress.unable, {t.site_id for t in await TaskRepository(tx).at_fault(job.id)}
        if owed_to_job(round_.kind, reported):
            return JobState.FAILED
        members = [site.facts() for site in await SiteRepository(tx).of_federation(job.federation_id)]
        fit = [s.id for s in members if s.id not in excluded and absence(s, job.spec, job.resolved) is None]
        able = sum(site not in reported for site in fit)
        if not (reported or excluded) or able >= round_.min_cohort:
            return None
        within_reach = sum(site not in reported or liftable(reported[site]) for site in fit)
        return JobState.FAILED if len(fit) < round_.min_cohort or 2 * within_reach <= len(fit) else JobState.PAUSED

    @staticmethod
    async def finish(tx: Transaction, job: Job, end: Finished) -> None:
        """End the job and record why."""
        jobs = JobRepository(tx)
        over = job.finish(end.state, end.reason, await tx.now())
        await jobs.save(over)
        data = {"state": str(end.state), "reason": end.reason, "version_id": job.version_id}
        await jobs.record(job.id, f"job.{end.state}", ACTOR, data | cause_facts(over.progress.causes))

    @staticmethod
    async def stall(tx: Transaction, job: Job, reason: str) -> None:
        """Pause a job that cannot go on by itself; a person resumes it from its last good version."""
        jobs = JobRepository(tx)
        await jobs.save(job.pause(reason))
        data = {"state": str(JobState.PAUSED), "reason": reason, "version_id": job.version_id}
        await jobs.record(job.id, "job.paused", ACTOR, data | cause_facts(job.progress.causes))

    async def _wait_for_sites(self, tx: Transaction, job: Job, step: Step) -> None:
        """Too few sites are there. Waiting has the deadline of a round, which begins again while consent is awaited."""
        now = await tx.now()
        since = job.waiting_since or now
        over = (now - since).total_seconds() >= (job.spec.deadlines.round_s or self._default_deadline_s)
        others = await self._candidates(tx, job, waiting=True) if over else []
        asked = len(others) >= job.spec.cohort.min and cohort_for(job, step, others) != ()
        if over and not asked:
            await self.stall(tx, job, "too-few-sites")
            return
        jobs = JobRepository(tx)
        await jobs.save(job.waiting(now, afresh=asked))
        if job.waiting_since is None:
            await jobs.record(job.id, "job.waiting", ACTOR, {"needed": job.spec.cohort.min})

    async def _candidates(self, tx: Transaction, job: Job, *, waiting: bool = False) -> list[SiteId]:
        """Return the sites that can take part now; `waiting`: also those whose owners have not consented yet."""
        since = await tx.now() - self._timing.lease
        sites = await SiteRepository(tx).present(job.federation_id, since)
        out = set(job.progress.unable) | {task.site_id for task in await TaskRepository(tx).at_fault(job.id)}
        able = [site for site in sites if site.id not in out]
        fit = [site for site in able if absence(site, job.spec, job.resolved) is None]
        wanted = {None, "waiting"} if waiting else {None}
        return [site.id for site in fit if consent_of(site, job.id) in wanted]


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


def round_facts(round_: Round) -> dict[str, Any]:
    """Return what an event says of a round."""
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


def cause_facts(causes: Sequence[Cause]) -> dict[str, Any]:
    """Return what an event says of why a round failed; nothing where no site said anything."""
    told = [{"code": cause.code, "sentence": cause.sentence, "sites": cause.sites} for cause in causes]
    return {"causes": told} if told else {}
