"""Plan a job's next round, or end or pause the job, in the transaction that ended the round before."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from undersong.services.coordinator.domain.causes import Cause, liftable, owed_to_job
from undersong.services.coordinator.domain.jobs import Job
from undersong.services.coordinator.domain.manifests import Settled, cohort_for, manifest_for
from undersong.services.coordinator.domain.progress import Finished, JobState, Stalled, Step
from undersong.services.coordinator.domain.rounds import CHECK_EVERY, Round
from undersong.services.coordinator.domain.sites import consent_of
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
from undersong.shared.wire.manifest import MANIFEST_CONTEXT, LogHead, RoundManifest, SignedManifest

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
        if isinstance(step, Finished):
            await self.finish(tx, job, step)
            return None
        if isinstance(step, Stalled):
            await self.stall(tx, job, step.reason)
            return None
        cohort = cohort_for(job, step, await self._candidates(tx, job))
        if not cohort:
            await self._wait_for_sites(tx, job, step)
            return None
        deadline_s = job.spec.deadlines.round_s or self._default_deadline_s
        round_id = RoundId(new_id("rnd"))
        epoch = (await SiteRepository(tx).watch()).epoch
        try:
            manifest = manifest_for(job, step, Settled(round_id, cohort, epoch, deadline_s, self.log_head))
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
