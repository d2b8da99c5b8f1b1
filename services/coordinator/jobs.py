"""Jobs: judged whole, submitted, looked at, paused, resumed, cancelled."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from undersong.services.coordinator.domain.findings import kind_of
from undersong.services.coordinator.domain.jobs import LOOK_AGAIN, ClaimNotBroken, Job
from undersong.services.coordinator.domain.manifests import train_encoding
from undersong.services.coordinator.domain.privacy_plan import PrivacyPlan, plan_of
from undersong.services.coordinator.domain.sites import consent_of
from undersong.services.coordinator.domain.spec import JobSpec, StatisticsSpec
from undersong.services.coordinator.domain.statistics import judge_statistics
from undersong.services.coordinator.domain.validation import ValidJob, World, absence, judge
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.repository.jobs import EVERY_JOB, JobEvent, JobFilter, JobRepository
from undersong.services.coordinator.repository.rounds import EVERY_ROUND, RoundFilter, RoundRepository, StoredRound
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.services.coordinator.rounds import JOBS_TOPIC, Rounds
from undersong.services.coordinator.views.jobs import (
    AbsenceView,
    JobVerdict,
    JobView,
    ResultsView,
    RoundView,
    exclusion_view,
    findings,
    job_view,
    results_view,
    round_view,
    site_fault_view,
)
from undersong.services.coordinator.views.participation import ParticipationView, participation_view
from undersong.services.coordinator.views.tasks import task_view
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import NotFound, no_such
from undersong.shared.faults import point
from undersong.shared.ids import Digest, JobId, ModelId, RoundId, SiteId, VersionId, is_id, new_id
from undersong.shared.learning.strategies import strategy_named
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.idempotency import Once
from undersong.shared.wire.manifest import DataRef, SignedManifest

_STEPS: Final = 3
"""How often pausing, resuming or cancelling is tried again when the job's round changes in between."""


@dataclass(frozen=True, slots=True)
class StartingVersion:
    """The version that a job starts from, as the registry knows it."""

    version_id: VersionId
    digest: Digest
    model_id: ModelId
    trained: DataRef | None = None
    lineage: Mapping[str, Any] = field(default_factory=dict)


class Jobs:
    """What people do with jobs."""

    def __init__(self, database: Database, registry: Registry, lease: timedelta) -> None:
        self._database, self._registry, self._lease = database, registry, lease

    async def validate(self, person: Principal, document: Mapping[str, Any]) -> JobVerdict:
        """Return what the job would do; raises `JobInvalid` with every error."""
        verdict, _ = await self._judge(person, document)
        return JobVerdict(
            features=list(verdict.resolved.features),
            label=verdict.resolved.label,
            columns=list(verdict.resolved.columns),
            unused=list(verdict.resolved.unused),
            recipe_digest=verdict.resolved.recipe.digest,
            weight_unit=verdict.resolved.weight_unit,
            sites=list(verdict.resolved.eligible),
            privacy=verdict.resolved.privacy,
            warnings=findings(verdict.warnings),
        )

    async def privacy_plan(self, person: Principal, document: Mapping[str, Any]) -> PrivacyPlan:
        """Return what the job's noise costs, and what other noise would; raises `JobInvalid` with every error."""
        verdict, _ = await self._judge(person, document)
        return await asyncio.to_thread(plan_of, verdict)

    async def submit(
        self,
        person: Principal,
        document: Mapping[str, Any],
        once: Once,
        taken: Callable[[Transaction, JobId], Awaitable[None]] | None = None,
        **origin: str,
    ) -> JobView:
        """Start a job; raises `JobInvalid` with every error.

        Its first event has the `origin`: `cloned_from=` a job's id, or `schedule_id=`. `taken` is called in the
        transaction that makes the job; what it raises leaves none.
        """
        verdict, start = await self._judge(person, document)

        async def work(tx: Transaction) -> JobView:
            job = _new_job(verdict, start, person, await tx.now())
            jobs = JobRepository(tx)
            await jobs.add(job)
            facts = {"state": str(job.state), "name": job.spec.name, **origin}
            await jobs.record(job.id, "job.created", person.name, facts)
            await tx.emit(JOBS_TOPIC, "job.created", job.id)
            if taken is not None:
                await taken(tx, job.id)
            return job_view(job, verdict.warnings)

        view = await self._database.run("job.submit", once(work))
        point("coordinator.job.submitted")
        return view

    async def get(self, person: Principal, job_id: str) -> JobView:
        """Return a job of the person's federations."""

        async def work(tx: Transaction) -> JobView:
            job = await seen_job(tx, person, job_id)
            at_fault = await TaskRepository(tx).at_fault(job_id)
            names = await SiteRepository(tx).names(task.site_id for task in at_fault)
            excluded = [exclusion_view(task, names.get(task.site_id)) for task in at_fault]
            out = {task.site_id for task in at_fault}
            return job_view(job, excluded=excluded, absent=await self._absent(tx, job, out))

        return await self._database.read("job.get", work)

    async def _absent(self, tx: Transaction, job: Job, excluded: set[SiteId]) -> list[AbsenceView]:
        """While the job waits: the sites, but those excluded, that cannot take part as they are now, and why."""
        if job.waiting_since is None or job.ended:
            return []
        heard_since = await tx.now() - self._lease
        found = []
        for site in sorted(await SiteRepository(tx).of_federation(job.federation_id), key=lambda site: site.name):
            reason = absence(site.facts(), job.spec, job.resolved, job.id)
            if reason is None and site.id in job.progress.unable:
                reason = f"it cannot do this step: {job.progress.unable[site.id]}"
            if reason is None and (site.last_seen_at is None or site.last_seen_at < heard_since):
                reason = "its agent is offline"
            if reason is not None and site.id not in excluded:
                consent = consent_of(site.facts(), job.id)
                found.append(AbsenceView(site_id=site.id, site_name=site.name, reason=reason, consent=consent))
        return found

    async def results(self, person: Principal, job_id: str) -> ResultsView:
        """Return what a statistics job has found."""
        job = await self._job(person, job_id)
        if not isinstance(job.spec, StatisticsSpec):
            raise NotFound(f"Job {job_id} trains a model, and has no results but its versions.")
        return results_view(job, job.spec)

    async def list(
        self, person: Principal, limit: int, after: str | None = None, chosen: JobFilter = EVERY_JOB
    ) -> Page[JobView]:
        """Return the chosen jobs of the person's federations, by default all, newest first."""

        async def work(tx: Transaction) -> Page[JobView]:
            found = await JobRepository(tx).list(person.federations(), chosen, limit, after)
            return found.map(job_view)

        return await self._database.read("jobs.list", work)

    async def rounds(
        self, person: Principal, job_id: str, limit: int, after: str | None, chosen: RoundFilter = EVERY_ROUND
    ) -> Page[RoundView]:
        """Return the chosen rounds of a job, by default all, oldest first."""
        await self._job(person, job_id)

        async def work(tx: Transaction) -> Page[RoundView]:
            return (await RoundRepository(tx).of_job(job_id, limit, after, chosen)).map(round_view)

        return await self._database.read("rounds.list", work)

    async def participation(self, person: Principal, job_id: str) -> Sequence[ParticipationView]:
        """Return each site's part in a job."""

        async def work(tx: Transaction) -> Sequence[ParticipationView]:
            await seen_job(tx, person, job_id)
            parts = await TaskRepository(tx).participation(job_id)
            names = await SiteRepository(tx).names(part.site_id for part in parts)
            named: defaultdict[str, Counter[str]] = defaultdict(Counter)
            for event in await JobRepository(tx).faults(job_id):
                named[str(event.data["site_id"])][str(event.data["code"])] += 1
            return [participation_view(part, names.get(part.site_id), named[part.site_id]) for part in parts]

        return await self._database.read("job.participation", work)

    async def round(self, person: Principal, round_id: str) -> RoundView:
        """Return one round with its tasks."""

        async def work(tx: Transaction) -> RoundView:
            record = await _seen_round(tx, person, round_id)
            tasks = await TaskRepository(tx).of_round(round_id)
            names = await SiteRepository(tx).names(task.site_id for task in tasks)
            events = await JobRepository(tx).faults(record.round.job_id)
            faults = [site_fault_view(event, names) for event in events if event.data.get("round_id") == round_id]
            return round_view(record, [task_view(task, names.get(task.site_id)) for task in tasks], faults)

        return await self._database.read("round.get", work)

    async def manifest(self, person: Principal | None, round_id: str) -> SignedManifest:
        """Return a round's signed manifest; parties may read it too (no person)."""

        async def work(tx: Transaction) -> SignedManifest:
            if person is None:
                return (await RoundRepository(tx).record(round_id)).manifest
            return (await _seen_round(tx, person, round_id)).manifest

        return await self._database.read("round.manifest", work)

    async def events(self, person: Principal, job_id: str, after: int, limit: int) -> Sequence[JobEvent]:
        """Return what happened to a job beyond event number `after`."""
        await self._job(person, job_id)
        return await self.more_events(job_id, after, limit)

    async def more_events(self, job_id: str, after: int, limit: int) -> Sequence[JobEvent]:
        """Return the same for a reader who was authorised before."""

        async def work(tx: Transaction) -> Sequence[JobEvent]:
            return await JobRepository(tx).events(job_id, after, limit)

        return await self._database.read("job.events", work)

    async def event_counts(self, job_ids: Iterable[str]) -> Mapping[str, int]:
        """Return how many events each of these jobs has, for a reader who was authorised before."""
        wanted = list(job_ids)

        async def work(tx: Transaction) -> Mapping[str, int]:
            return await JobRepository(tx).counts(wanted)

        return await self._database.read("jobs.counts", work)

    async def pause(self, person: Principal, job_id: str, once: Once) -> JobView:
        """Plan no further round; the one in flight goes on."""

        async def work(tx: Transaction) -> JobView:
            job = await _steered(tx, person, job_id)
            return await _change(tx, job, job.pause(), person)

        return await self._database.run("job.pause", once(work))

    async def stop_for_claim(self, person: Principal, job_id: str, version_id: str, once: Once) -> JobView:
        """Pause a job of which the registry knows that an audit refuted a version's privacy claim.

        Raises ClaimNotBroken where it does not.
        """
        job = await self._job(person, job_id)
        person.check(Role.SCIENTIST, Role.OWNER, Role.AUDITOR, federation_id=job.federation_id)
        found = await self._registry.version(version_id)
        if not found.claim_broken or found.lineage.get("job_id") != job_id:
            raise ClaimNotBroken(f"No audit refuted a privacy claim of version {version_id} of this job.")

        async def work(tx: Transaction) -> JobView:
            job = await JobRepository(tx).get(job_id, lock=True)
            return await _change(tx, job, job.pause("claim-broken"), person)

        return await self._database.run("job.stop_for_claim", once(work))

    async def resume(self, person: Principal, job_id: str, once: Once) -> JobView:
        """Plan rounds again."""

        async def work(tx: Transaction) -> JobView:
            job = await _steered(tx, person, job_id)
            after = await _change(tx, job, job.resume(await tx.now()), person, "job.resumed")
            await tx.emit(JOBS_TOPIC, "job.resumed", job_id)
            return after

        return await self._database.run("job.resume", once(work))

    async def cancel(self, person: Principal, job_id: str, once: Once) -> JobView:
        """Stop the job and the round in flight; agents stop at their next heartbeat."""

        async def work(tx: Transaction) -> JobView:
            jobs = JobRepository(tx)
            for _ in range(_STEPS):  # the round is locked before the job; meanwhile the next one may have been planned
                out = (await _steered(tx, person, job_id, lock=False)).round_id
                if out is not None:
                    await Rounds.cancel(tx, out, "job-cancelled")
                job = await jobs.get(job_id, lock=True)
                if job.round_id == out:
                    break
            return await _change(tx, job, job.cancel(await tx.now()), person)

        return await self._database.run("job.cancel", once(work))

    async def _job(self, person: Principal, job_id: str) -> Job:
        async def work(tx: Transaction) -> Job:
            return await seen_job(tx, person, job_id)

        return await self._database.read("job.get", work)

    async def _judge(self, person: Principal, document: Mapping[str, Any]) -> tuple[ValidJob, StartingVersion | None]:
        federation_id = document.get("federation_id")
        wanted = federation_id if isinstance(federation_id, str) else None
        person.check(Role.SCIENTIST, federation_id=wanted)
        start, problem = await self._starting_version(document, wanted)

        async def work(tx: Transaction) -> World:
            world = await _world(tx, wanted, problem)
            if start is None:
                return world
            return replace(world, trained=start.trained, trained_with=await _trained_with(tx, start, document))

        world = await self._database.read("job.judge", work)
        statistics = kind_of(document) == "statistics"
        # in a thread: where there is noise, a library computes what it costs
        return await asyncio.to_thread(judge_statistics if statistics else judge, document, world), start

    async def _starting_version(
        self, document: Mapping[str, Any], federation_id: str | None
    ) -> tuple[StartingVersion | None, str | None]:
        """Return the version that the job wants to start from, or what is wrong with it."""
        model = document.get("model")
        version_id = model.get("version_id") if isinstance(model, Mapping) else None
        if not isinstance(version_id, str):
            return None, None
        if not is_id(version_id, "ver"):
            return None, "this is not the id of a model version; undersong model show NAME lists them"
        try:
            version = await self._registry.version(version_id)
        except NotFound:
            return None, "there is no such model version in this federation"
        if version.federation_id != federation_id:
            return None, "there is no such model version in this federation"
        if version.deleted_at is not None:
            return None, "this model version was deleted"
        facts = (version.id, version.content_digest, version.model_id, version.trained, version.lineage)
        return StartingVersion(*facts), None


async def _trained_with(
    tx: Transaction, start: StartingVersion, document: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return the recipe's parameters in the job that made a version; None where that is not known."""
    recipe = document.get("recipe")
    try:
        job = await JobRepository(tx).get(JobId(str(start.lineage.get("job_id"))))
    except NotFound:
        return None
    if not isinstance(job.spec, JobSpec) or not isinstance(recipe, Mapping) or start.lineage.get("kind") == "import":
        return None
    if job.federation_id != document.get("federation_id") or job.spec.recipe.name != recipe.get("name"):
        return None
    return job.spec.recipe.params


async def _world(tx: Transaction, federation_id: str | None, version_problem: str | None) -> World:
    sites = SiteRepository(tx)
    known = True
    try:
        await sites.federation(federation_id or "")
    except NotFound:
        known = False
    members = await sites.of_federation(federation_id or "")
    return World(
        federation_known=known,
        sites=[site.facts() for site in members],
        engines=ENGINES,
        check_strategy=lambda name, params: strategy_named(name).settings(params),
        check_encoding=train_encoding,
        version_problem=version_problem,
    )


def _new_job(verdict: ValidJob, start: StartingVersion | None, person: Principal, now: datetime) -> Job:
    job = Job(
        id=JobId(new_id("job")),
        federation_id=verdict.spec.federation_id,
        spec=verdict.spec,
        resolved=verdict.resolved,
        created_by=person.name,
        created_at=now,
        next_check_at=now + LOOK_AGAIN,
    )
    return job if start is None else job.starting_from(start.version_id, start.digest, start.model_id)


async def seen_job(tx: Transaction, person: Principal, job_id: str) -> Job:
    """Return a job that the person may see; raises NotFound for another."""
    job = await JobRepository(tx).get(job_id)
    person.check(*Role, federation_id=job.federation_id, hidden=no_such("job", job_id))
    return job


async def _seen_round(tx: Transaction, person: Principal, round_id: str) -> StoredRound:
    record = await RoundRepository(tx).record(RoundId(round_id))
    job = await JobRepository(tx).get(record.round.job_id)
    person.check(*Role, federation_id=job.federation_id, hidden=no_such("round", round_id))
    return record


async def _steered(tx: Transaction, person: Principal, job_id: str, *, lock: bool = True) -> Job:
    job = await JobRepository(tx).get(job_id, lock=lock)
    person.check(Role.SCIENTIST, federation_id=job.federation_id, hidden=no_such("job", job_id))
    return job


async def _change(tx: Transaction, before: Job, after: Job, person: Principal, type_: str | None = None) -> JobView:
    if (after.state, after.reason) != (before.state, before.reason):
        jobs = JobRepository(tx)
        await jobs.save(after)
        data = {"state": str(after.state), "reason": after.reason}
        await jobs.record(after.id, type_ or f"job.{after.state}", person.name, data)
    return job_view(after)
