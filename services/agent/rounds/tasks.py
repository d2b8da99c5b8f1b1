"""One leased task from its verification to its acknowledgement. What each step leaves behind survives `kill -9`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from undersong.services.agent.domain.rules import (
    Detail,
    Earlier,
    EarlierAnswer,
    Policy,
    TaskAction,
    TaskFailure,
    next_step,
    objections,
    report,
)
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.peers.coordinator import Lease
from undersong.services.agent.peers.link import Away, RequestRefused
from undersong.services.agent.repository.highwater import Place, SentMessages
from undersong.services.agent.repository.local_tensors import RoundFiles
from undersong.services.agent.repository.room import Room, is_full
from undersong.services.agent.repository.state import AgentState, Contribution
from undersong.services.agent.rounds.delivery import ContributionDelivery
from undersong.services.agent.rounds.exchange import Exchanges
from undersong.services.agent.rounds.making import ContributionMaker
from undersong.services.agent.rounds.setup import ServiceClients, SiteSetup
from undersong.services.agent.rounds.watch import OVER, Hold, OldLease, Watch, beside_heartbeats
from undersong.services.agent.runner.protocol import Runner
from undersong.shared.ids import Digest, RoundId
from undersong.shared.telemetry.traces import continue_trace
from undersong.shared.wire.manifest import LogHead, RoundKind, RoundManifest

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

DISK_FULL = "disk-full"
TAKEN_UP_AGAIN = frozenset({"interrupted", "child-died", DISK_FULL})  # the coordinator opens the same task once more
FORGET_AFTER_S = 3600.0  # beyond its round's deadline, a pending contribution is of no use


class Tasks:
    """Runs leased tasks, one at a time."""

    def __init__(
        self,
        platform: ServiceClients,
        runner: Runner,
        state: AgentState,
        site: Callable[[], SiteSetup],
        sent: SentMessages,
        room: Room,
        ledger: Ledger,
        answered: Callable[[], None] = lambda: None,
        met: Callable[[LogHead | None], None] = lambda _: None,
        consent: Callable[[Policy, RoundManifest], Awaitable[None]] | None = None,
    ) -> None:
        self._met, self._consent = met, consent
        self._platform, self._state, self._site = platform, state, site
        self._sent, self._room, self._ledger = sent, room, ledger
        self._exchanges = Exchanges(
            platform.aggregator,
            state.engines,
            sent,
            platform.identity,
            platform.signatures,
            lambda: site().policy,
        )
        self._maker = ContributionMaker(platform, runner, state, site, self._exchanges)
        self._delivery = ContributionDelivery(
            platform.coordinator,
            platform.aggregator,
            platform.signatures,
            state,
            self._exchanges,
            sent,
            lambda: site().facts.site_id,
            answered,
        )

    async def perform(self, lease: Lease) -> None:
        """Run a task to its end and report it. Cancelling kills the recipe and waits until it is gone."""
        ids = {"job_id": lease.job_id, "round_id": lease.round_id, "task_id": lease.task_id}
        with (
            structlog.contextvars.bound_contextvars(**ids, kind=lease.kind),
            continue_trace(lease.traceparent, "task.perform", {**ids, "attempt": lease.attempt}),
        ):
            started = time.monotonic()
            log.info("task.leased", attempt=lease.attempt)
            watch = Watch()
            try:
                reason = await beside_heartbeats(self._platform.coordinator, lease, watch, self._work(lease, watch))
            except TaskFailure as failure:
                if failure.code == DISK_FULL:
                    self._room.note_full()
                if failure.code not in TAKEN_UP_AGAIN:
                    await self._give_up(lease.round_id, failure.code)
                    await self.settle(gave_up=lease.round_id)
                await self._report(lease, failure)
            except asyncio.CancelledError:
                if not watch.kept:
                    await self._report(lease, TaskFailure("interrupted", "the agent is stopping"), within_s=1.0)
                raise
            else:
                duration_ms = round((time.monotonic() - started) * 1000)
                if watch.aborted:
                    await self._give_up(lease.round_id, "aborted")
                    await self.settle(gave_up=lease.round_id)
                log.info("task.aborted" if reason else "task.done", reason=reason, duration_ms=duration_ms)
            finally:
                self._ledger.rest()

    async def refuse(self, lease: Lease, failure: TaskFailure) -> None:
        """Report a task as failed before anything is done for it."""
        with structlog.contextvars.bound_contextvars(round_id=lease.round_id, task_id=lease.task_id, kind=lease.kind):
            await self._give_up(lease.round_id, failure.code)
            await self._report(lease, failure)

    async def _work(self, lease: Lease, watch: Watch) -> None:
        try:
            if lease.signed_manifest.manifest.kind is RoundKind.PREPARE:
                await self._prepare(lease, watch)
                return
            contribution = await self._contribution(lease, watch)
            watch.phase, watch.kept = "sending", True
            fresh = contribution.body_digest == self._maker.made  # written just now, so not yet to be doubted
            await self._delivery.deliver(contribution, lease, watch, fresh=fresh)
            self._state.changes.given(lease.job_id, lease.signed_manifest.manifest.number)
        except (TaskFailure, asyncio.CancelledError):
            raise
        except RequestRefused as problem:
            raise TaskFailure("platform-refused", str(problem)) from problem
        except Exception as error:
            if is_full(error):
                raise TaskFailure(DISK_FULL, "this site's disk is full: the agent rests until there is room") from error
            log.exception("task.broken")
            raise TaskFailure("agent-error", type(error).__name__) from error

    async def _prepare(self, lease: Lease, watch: Watch) -> None:
        """Train for an order, keep the change on this disk, and say that it is ready: nothing of it leaves."""
        manifest, digest = await self._verified(lease)
        self._state.saw_epoch(manifest.epoch)
        if manifest.epoch < self._state.highest_epoch():
            raise TaskFailure("epoch-stale", f"epoch {manifest.epoch} after a later one was seen")
        known = self._state.changes.find(manifest.job_id)
        if known is None or known.order != digest or known.used is not None:
            await self._charge(manifest, digest, hold=False)
            await self._maker.train(manifest, digest, watch)
        watch.kept = True
        self._platform.coordinator.complete(lease.task_id, lease.lease_token, digest)

    async def _contribution(self, lease: Lease, watch: Watch) -> Contribution:
        """Return this site's one answer to the round: the one that is there, or a new one."""
        manifest, digest = await self._verified(lease)
        earlier = self._state.contribution(manifest.round_id)
        answer = EarlierAnswer(earlier.state, earlier.manifest_digest, earlier.epoch) if earlier is not None else None
        self._state.saw_epoch(manifest.epoch)
        if self._state.engines.opened(manifest) not in (None, manifest.round_id):
            raise TaskFailure("round-answered", "this round of the job was opened in another attempt")
        step = next_step(
            digest,
            manifest.epoch,
            same_round=answer,
            same_place=self._state.same_place(manifest),
            highest_epoch=self._state.highest_epoch(),
        )
        if step is not TaskAction.TRAIN and earlier is not None:
            log.info("contribution.found", state=earlier.state.value)
            return earlier
        self._check_restored(manifest)
        await self._charge(manifest, digest)
        return await self._maker.make(lease, manifest, digest, watch)

    async def _charge(self, manifest: RoundManifest, digest: Digest, *, hold: bool = True) -> None:
        """Hold what the round costs in the owner's ledger, durably; TaskFailure where it must not be spent.

        `hold` False: only look whether it could be spent.
        """
        model = await self._maker.model(manifest) if manifest.privacy is not None else None
        rule = self._site().policy.privacy

        def charge() -> None:
            from undersong.services.agent.rounds.costs import cost_of

            event = cost_of(manifest, model)
            if event is not None and hold:
                self._ledger.charge(manifest, digest, event, rule)
            elif event is not None:
                self._ledger.check(manifest, event, rule)

        await asyncio.to_thread(charge)

    async def settle(self, gave_up: RoundId | None = None) -> None:
        """Write into the ledger what became of the rounds that this site was charged for."""
        await asyncio.to_thread(self._ledger.try_settle, self._site().policy.privacy, gave_up)

    def _check_restored(self, manifest: RoundManifest) -> None:
        """Refuse, before any work, a round in which more was sent than the database knows."""
        # Ended rounds send nothing more, so only open ones can contradict what was sent before.
        begun = self._state.engines.find(manifest.round_id)
        if begun is None or begun.ended is None:
            self._sent.check(Place.of(manifest), self._state.engines.digests(manifest.round_id))

    async def _verified(self, lease: Lease) -> tuple[RoundManifest, Digest]:
        """Return the manifest, once the coordinator signed it and the site's policy allows it."""
        signed = lease.signed_manifest
        manifest = signed.manifest
        await self._platform.signatures.check("coordinator", signed.keyid, signed.signature, manifest.statement())
        if (manifest.round_id, manifest.job_id) != (lease.round_id, lease.job_id):
            raise TaskFailure("manifest-round", "the lease names another round than its manifest")
        site = self._site()
        self._met(manifest.log_head)
        found = objections(site.policy, manifest, site.facts, site.local_now())
        if found:
            raise TaskFailure(found[0].code, "; ".join(reason.detail for reason in found))
        if self._consent is not None:
            await self._consent(site.policy, manifest)
        return manifest, manifest.digest()

    async def resume(self) -> None:
        """After a start: send what was durable but not acknowledged, byte for byte, and go on from there."""
        for contribution in self._state.pending():
            ids = {"round_id": contribution.round_id, "task_id": contribution.task_id}
            trace = str(contribution.lease.get("traceparent") or "") or None
            with structlog.contextvars.bound_contextvars(**ids), continue_trace(trace, "task.resume", ids):
                log.info("contribution.resumed", digest=contribution.body_digest)
                hold = OldLease(
                    contribution.task_id,
                    str(contribution.lease["lease_token"]),
                    float(str(contribution.lease.get("heartbeat_s", 5.0))),
                )
                watch = Watch("sending", 1.0, kept=True)
                try:
                    await beside_heartbeats(
                        self._platform.coordinator,
                        hold,
                        watch,
                        self._delivery.deliver(contribution, hold, watch, fresh=False),
                    )
                    self._state.changes.given(contribution.place.job_id, contribution.place.number)
                except (TaskFailure, RequestRefused) as error:
                    log.warning("contribution.not_sent", reason=str(error))
                    if isinstance(error, TaskFailure):
                        await self._give_up(contribution.round_id, error.code)
                if watch.aborted:
                    await self._give_up(contribution.round_id, "aborted")

    def forget_hopeless(self) -> None:
        """Give up pending contributions and begun rounds that must be over by any clock; drop what they needed."""
        self._state.drop_answered()
        self._state.local.forget()
        self._state.changes.forget()
        RoundFiles(self._state.residuals_dir).forget()
        for contribution in self._state.pending():
            deadline_s = float(str(contribution.lease.get("deadline_s", 0.0)))
            if time.time() > contribution.created_at + deadline_s + FORGET_AFTER_S:
                self._state.settle(contribution.round_id, Earlier.LATE)
        for round_id in self._state.engines.expired():
            self._state.engines.end(round_id, "round-over")
            self._state.settle(round_id, Earlier.LATE)

    async def _give_up(self, round_id: RoundId, code: str) -> None:
        """Leave a round of an engine with steps permanently and erase its secrets."""

        def erase() -> None:
            if self._state.engines.end(round_id, code):
                self._state.settle(round_id, Earlier.LATE)
                log.info("engine.secrets_erased", reason=code)

        if self._state.engines.find(round_id) is not None:
            await asyncio.to_thread(erase)

    async def _report(self, lease: Hold, failure: TaskFailure, within_s: float = 60.0) -> None:
        """Tell the coordinator as much as the policy lets out; the whole text stays in this site's log."""
        log.warning("task.failed", code=failure.code, detail=failure.detail, text=failure.text or None)
        told = report(failure, self._reports())
        try:
            await self._platform.coordinator.fail(lease.task_id, lease.lease_token, told, within_s=within_s)
        except (Away, RequestRefused) as error:
            if isinstance(error, RequestRefused) and error.status in OVER:
                log.info("failure.unneeded", reason=str(error))
            else:
                log.warning("failure.unheard", reason=str(error))

    def _reports(self) -> Detail:
        return self._site().policy.reports
