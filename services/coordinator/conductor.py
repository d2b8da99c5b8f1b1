"""The conductor: moves every job and round on, whatever woke it. It runs in the worker.

A hint and the sweeper end in the same calls, and each call looks at SQL first: a hint that is lost, late or doubled
changes nothing but the time. From the end of a round to the opening of the next there is no queue in between.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

import numpy as np
import structlog

from undersong.services.coordinator.domain.endings import Published, SiteFault, Verdicts
from undersong.services.coordinator.domain.evaluation import group_metrics, spread
from undersong.services.coordinator.domain.jobs import Job, RoundOutcome
from undersong.services.coordinator.domain.manifests import draft
from undersong.services.coordinator.domain.rounds import Phase
from undersong.services.coordinator.domain.spec import JobSpec, StatisticsSpec
from undersong.services.coordinator.domain.tasks import BODY_LOST, TaskState
from undersong.services.coordinator.peers.aggregator import Aggregator, RoundReport
from undersong.services.coordinator.peers.keys import Keys
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.services.coordinator.repository.rounds import RoundRepository, StoredRound
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.services.coordinator.rounds import Rounds
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import NotFound, Refusal
from undersong.shared.faults import point
from undersong.shared.ids import JobId, ModelId, RoundId, SiteId
from undersong.shared.learning.metrics import curves_of, metrics_of
from undersong.shared.queues import Event
from undersong.shared.secagg.engine import UPLOAD
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.telemetry.traces import within_trace
from undersong.shared.wire.manifest import RoundKind

T = TypeVar("T")
_VERSIONED: Final = frozenset({RoundKind.TRAIN, RoundKind.INITIALISE})
log = structlog.get_logger(__name__)


class ResultUnusable(Refusal):
    """The aggregator's result does not fit its round."""


class Conductor:
    """Drives jobs and rounds."""

    def __init__(
        self, database: Database, rounds: Rounds, aggregator: Aggregator, registry: Registry, keys: Keys
    ) -> None:
        self._database, self._rounds = database, rounds
        self._aggregator, self._registry, self._keys = aggregator, registry, keys
        self._told: dict[RoundId, frozenset[SiteId]] = {}
        self._driving: set[RoundId] = set()
        self._again: set[RoundId] = set()

    async def on_job(self, event: Event) -> None:
        """Take up a job that was created or resumed."""
        if event.type in {"job.created", "job.resumed"}:
            await self.advance(JobId(event.subject))

    async def on_round(self, event: Event) -> None:
        """Something of ours about a round: planned, exhausted, measured or cancelled."""
        round_id = RoundId(event.subject)
        if event.type == "round.measured":
            await self.report_metrics(round_id)
        elif event.type == "round.cancelled":
            await self.tell_cancelled(round_id)
        elif event.type == "round.lost":
            await self.report_dropouts(await self._rounds.read(round_id))
        elif event.type == "round.planned":
            if round_id not in self._driving and (await self._rounds.read(round_id)).round.phase is Phase.PLANNED:
                await self.drive(round_id)
        else:
            await self.drive(round_id)

    async def on_aggregator(self, event: Event) -> None:
        """Take the aggregator's news of a round; each upload's progress is known here by the tasks."""
        if event.type in {"round.published", "round.failed", "round.body-lost"}:
            await self.drive(RoundId(event.subject))

    async def advance(self, job_id: JobId) -> None:
        """Plan the job's next round and open it."""
        job = await self._job(job_id)
        if job.next() is None:
            return
        trace = await self._database.read("job.trace", lambda tx: JobRepository(tx).trace(job_id))
        with within_trace(trace, "job.advance", {"job_id": job_id}):
            planned = await self._rounds.plan_next(job_id, await self._model_of(job))
            if planned is not None:
                point("coordinator.round.planned")
                await self.drive(planned)

    async def _model_of(self, job: Job) -> ModelId | None:
        """Return the registry's model for the job's results, made when there is none; a statistics job has none."""
        if job.model_id is not None or isinstance(job.spec, StatisticsSpec):
            return job.model_id
        return await self._registry.ensure_model(job.federation_id, job.spec.model.name, f"{job.id}/model")

    async def drive(self, round_id: RoundId) -> None:
        """Move a round on as far as it goes, and those that follow it. One at a time in this process for a round."""
        following: RoundId | None = round_id
        while following is not None:
            if following in self._driving:
                self._again.add(following)
                return
            following = await self._drive_alone(following)

    async def _drive_alone(self, round_id: RoundId) -> RoundId | None:
        self._driving.add(round_id)
        try:
            trace = await self._database.read("round.trace", lambda tx: _trace(tx, round_id))
            with (
                structlog.contextvars.bound_contextvars(round_id=round_id),
                within_trace(trace, "round.drive", {"round_id": round_id}),
            ):
                following = await self._step(round_id)
                point("coordinator.round.stepped")
                while round_id in self._again and following is None:
                    self._again.discard(round_id)
                    following = await self._step(round_id)
                return following
        except PartyAway as away:
            log.warning("round.party_away", round_id=round_id, reason=away.detail)
            await self._rounds.postpone(round_id)
            return None
        finally:
            self._again.discard(round_id)
            self._driving.discard(round_id)

    async def _step(self, round_id: RoundId) -> RoundId | None:
        """Take one look and one move; return the id of a round that was planned by it."""
        record, now = await self._rounds.look(round_id)
        round_ = record.round
        if round_.ended:
            return None
        if round_.kind is RoundKind.PREPARE:
            return await self._rounds.tend(round_id)
        if round_.overdue(now):
            return await self._rounds.fail(round_id, "deadline", tell=True, spent=tracks_steps(record))
        if round_.phase is Phase.PLANNED:
            return await self._open(record)
        try:
            report = await self._aggregator.report(round_id)
        except NotFound:
            # A restored aggregator would make another key than the one the sites were given: a new attempt is due.
            return await self._rounds.fail(round_id, "aggregator:round-unknown", tell=False)
        return await self._absorb(record, report, now)

    async def _open(self, record: StoredRound) -> RoundId | None:
        signed = record.manifest
        try:
            if draft(signed.manifest):
                given = await self._keys.commit(record.round.id)
                point("coordinator.nonce.given")
                signed = await self._rounds.witness(record.round.id, given.commitment, given.epoch)
            public = await self._aggregator.open(signed)
            point("coordinator.round.keyed")
        except (PartyRefused, NotFound) as refused:
            reason = str(refused.extra.get("reason", refused.slug()))
            log.warning("round.refused_by_aggregator", reason=refused.detail)
            invalid = bool(refused.extra.get("invalid"))  # a manifest is judged by its content: again is the same
            return await self._rounds.fail(record.round.id, f"aggregator:{reason}", tell=True, repeats=invalid)
        await self._rounds.open(record.round.id, public)
        point("coordinator.tasks.out")
        return None

    async def _absorb(self, record: StoredRound, report: RoundReport, now: datetime) -> RoundId | None:
        round_ = record.round
        if report.state == "published":
            try:
                published = await self._published(record, report)
            except Refusal as refusal:
                log.warning("round.result_unusable", reason=refusal.detail)
                return await self._rounds.fail(round_.id, refusal.slug(), tell=False, spent=report.opening)
            point("coordinator.result.heard")
            return await self._rounds.publish(round_.id, published, _verdicts(report))
        if report.state in {"failed", "cancelled"}:
            return await self._rounds.fail(
                round_.id,
                _reason(report),
                tell=False,
                verdict=_verdicts(report),
                spent=report.opening,
                steps=_steps(report),
            )
        if lost := {item.site_id for item in report.rejections if item.code == BODY_LOST}:
            await self._rounds.ask_again(round_.id, lost)
            record, now = await self._rounds.look(round_.id)
            round_ = record.round
        await self.report_dropouts(record)
        if round_.late(now) or round_.exhausted or round_.closing:
            await self._rounds.begin_closing(round_.id)
            await self._close(round_.id, report.moves)
        await self._rounds.postpone(round_.id)
        return None

    async def report_dropouts(self, record: StoredRound) -> None:
        """Tell the aggregator which sites it need not wait for, where its engine waits for sites at all."""
        round_id = record.round.id
        if record.round.phase is not Phase.COLLECTING or not tracks_steps(record):
            self._told.pop(round_id, None)
            return
        tasks = await self._database.read("round.tasks", lambda tx: TaskRepository(tx).of_round(round_id))
        lost = frozenset(t.site_id for t in tasks if not t.outstanding and t.state is not TaskState.DONE)
        if not lost <= self._told.get(round_id, frozenset()):
            await self._aggregator.lose(round_id, lost)
            self._told[round_id] = lost

    async def _close(self, round_id: RoundId, moves: int) -> None:
        try:
            await self._aggregator.close(round_id, moves)
        except (PartyRefused, NotFound) as refused:
            log.info("round.close_refused", reason=refused.detail)  # it ended meanwhile; the next look will tell

    async def _published(self, record: StoredRound, report: RoundReport) -> Published:
        result, kind = report.result, record.round.kind
        if result is None or (kind in _VERSIONED and (result.version_id is None or result.digest is None)):
            raise ResultUnusable("A published round has no version.")
        if kind not in _VERSIONED and result.values is None:
            raise ResultUnusable("A published round has no values.")
        terms = record.manifest.manifest.privacy
        if terms is not None and terms.adaptive_clip is not None and result.clipping is None:
            raise ResultUnusable("A published round does not say how many updates were within its clip norm.")
        values = tuple(result.values or ())
        if kind is RoundKind.STATISTICS:
            (await self._job(record.round.job_id)).fits(values)
        metrics = await self._metrics(record, values) if kind is RoundKind.EVALUATE else {}
        outcome = RoundOutcome(
            count=result.count,
            version_id=result.version_id,
            digest=result.digest,
            values=values,
            metrics=metrics,
            within=None if result.clipping is None else result.clipping.within,
            loss=result.loss if kind is RoundKind.TRAIN else None,
        )
        return Published(outcome, await self._shown(record, report, values))

    async def _shown(self, record: StoredRound, report: RoundReport, values: tuple[float, ...]) -> dict[str, Any]:
        """Return what everybody who sees the job may read of a round that was published."""
        # Sums stay out of what everybody may read: the metrics say what they are for, the context holds the others.
        shown: dict[str, Any] = (
            {} if report.result is None else report.result.model_dump(mode="json", exclude={"values"})
        )
        if groups := await self._groups(record, values):
            shown["groups"] = groups
        if curves := await self._curves(record, values):
            shown["curves"] = curves
        if record.manifest.manifest.site_metrics and (told := await self._told_by_sites(record)):
            shown["sites"], shown["spread"] = told, spread(told)
        if buffered := record.manifest.manifest.buffered:
            shown["staleness"] = {each.site_id: each.staleness for each in buffered}
        if report.steps:
            shown["steps"] = _steps(report)
        if report.faults:
            shown["faults"] = [fault.model_dump(mode="json") for fault in report.faults]
        return shown

    async def _metrics(self, record: StoredRound, values: tuple[float, ...]) -> dict[str, float]:
        """Return named metrics by the layout of the job, not by what an update says of itself."""
        job = await self._job(record.round.job_id)
        found = metrics_of(job.layout, np.asarray(values, np.float64), job.reading)
        return {name: float(value) for name, value in found.items()}

    async def _groups(self, record: StoredRound, values: tuple[float, ...]) -> dict[str, dict[str, float] | None]:
        """Return metrics by group, where the job asks for them; None for a group of few rows."""
        job = await self._job(record.round.job_id)
        group = job.resolved.group
        if record.round.kind is not RoundKind.EVALUATE or group is None or not isinstance(job.spec, JobSpec):
            return {}
        least = job.spec.evaluation.least_rows
        return group_metrics(job.layout, np.asarray(values, np.float64), group.categories or (), least, job.reading)

    async def _curves(self, record: StoredRound, values: tuple[float, ...]) -> dict[str, list[list[float]]]:
        """Return the curves of an evaluation whose rows have one score."""
        job = await self._job(record.round.job_id)
        if record.round.kind is not RoundKind.EVALUATE or not isinstance(job.spec, JobSpec):
            return {}
        return curves_of(job.layout, np.asarray(values, np.float64), job.spec.evaluation.least_rows)

    async def _told_by_sites(self, record: StoredRound) -> dict[str, Mapping[str, float]]:
        """Return the sites' own metrics by their names, of those that tell them."""

        async def work(tx: Transaction) -> dict[str, Mapping[str, float]]:
            told = [task for task in await TaskRepository(tx).of_round(record.round.id) if task.metrics]
            names = await SiteRepository(tx).names(task.site_id for task in told)
            return {names.get(task.site_id, task.site_id): task.metrics or {} for task in told}

        return await self._database.read("round.site_metrics", work)

    async def report_metrics(self, round_id: RoundId) -> None:
        """Give a model version's measurements to the registry."""
        record = await self._rounds.read(round_id)
        model = record.manifest.manifest.model
        spec = (await self._job(record.round.job_id)).spec
        of_training = isinstance(spec, JobSpec) and spec.trains  # what a job only evaluates is told by the job
        if record.metrics and model is not None and of_training:
            try:
                await self._registry.add_metrics(model.version_id, record.metrics, f"{round_id}/metrics")
            except (PartyRefused, NotFound) as refused:
                log.warning("metrics.refused_by_registry", round_id=round_id, reason=refused.detail)
        await self._rounds.settle(round_id, "unreported")

    async def tell_cancelled(self, round_id: RoundId) -> None:
        """Tell the aggregator that a round is over here."""
        try:
            await self._aggregator.cancel(round_id)
        except (PartyRefused, NotFound):
            log.info("round.cancel_refused", round_id=round_id)  # it never heard of it, or it is over there too
        await self._rounds.settle(round_id, "uncancelled")

    async def sweep_rounds(self) -> int:
        """Look at every round that is overdue for a look and return how many moved."""
        moved = 0
        for round_id in await self._find(lambda tx, now: RoundRepository(tx).due(now)):
            before = (await self._rounds.read(round_id)).round
            await self.drive(round_id)
            after = (await self._rounds.read(round_id)).round
            moved += int(after.phase is not before.phase)
        return moved

    async def sweep_answered(self) -> int:
        """Ask the aggregator about each round whose sites have all answered: its word is not heard without Redis."""
        answered = await self._find(lambda tx, _: RoundRepository(tx).answered())
        for round_id in answered:
            await self.drive(round_id)
        return len(answered)

    async def sweep_jobs(self) -> int:
        """Plan for every job that waits; how many got a round."""
        planned = 0
        for job_id in await self._find(lambda tx, now: JobRepository(tx).due(now)):
            try:
                await self.advance(JobId(job_id))
            except Refusal as refusal:
                log.warning("job.not_advanced", job_id=job_id, reason=refusal.detail)
                continue
            planned += int((await self._job(job_id)).round_id is not None)
        return planned

    async def sweep_reports(self) -> int:
        """Do what is still owed to registry and aggregator after a round's end; how many."""
        done = 0
        for round_id in await self._find(lambda tx, _: RoundRepository(tx).unreported()):
            done += await _quietly(self.report_metrics, round_id)
        for round_id in await self._find(lambda tx, _: RoundRepository(tx).uncancelled()):
            done += await _quietly(self.tell_cancelled, round_id)
        return done

    async def _find(self, query: Callable[[Transaction, datetime], Awaitable[T]]) -> T:
        async def work(tx: Transaction) -> T:
            return await query(tx, await tx.now())

        return await self._database.read("sweep.find", work)

    async def _job(self, job_id: JobId) -> Job:
        return await self._database.read("job.read", lambda tx: JobRepository(tx).get(job_id))


def tracks_steps(record: StoredRound) -> bool:
    """Return whether sites or another party have a say before the sum is opened; there is none of a training order."""
    return record.round.kind is not RoundKind.PREPARE and engine_facts(record.manifest.manifest.engine).tracks_steps


def _reason(report: RoundReport) -> str:
    """Why the aggregator ended the round; a quorum missed before the upload names the step that missed it."""
    reason = report.reason or report.state
    return f"{reason}:{report.step}" if reason == "quorum" and report.step not in (None, UPLOAD) else reason


def _verdicts(report: RoundReport) -> Verdicts:
    unusable = {item.site_id: (item.code[:200], item.message) for item in report.rejections}
    faults = tuple(SiteFault(each.site_id, each.code[:200], each.message) for each in report.faults)
    return Verdicts(frozenset(report.accepted), unusable, faults)


def _steps(report: RoundReport) -> list[dict[str, Any]]:
    return [each.model_dump(mode="json") for each in report.steps]


async def _trace(tx: Transaction, round_id: RoundId) -> str | None:
    return await JobRepository(tx).trace((await RoundRepository(tx).get(round_id)).job_id)


async def _quietly(act: Callable[[RoundId], Awaitable[None]], round_id: RoundId) -> int:
    try:
        await act(round_id)
    except PartyAway:
        return 0
    return 1
