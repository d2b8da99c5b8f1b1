"""One leased task from its verification to its acknowledgement. What each step leaves behind survives `kill -9`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from undersong.services.agent.domain.rules import (
    Detail,
    Earlier,
    EarlierAnswer,
    Policy,
    SiteFacts,
    TaskAction,
    TaskFailure,
    next_step,
    objections,
    report,
)
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.peers.aggregator import Aggregator
from undersong.services.agent.peers.coordinator import Coordinator, Lease
from undersong.services.agent.peers.keys import Signatures
from undersong.services.agent.peers.link import Away, RequestRefused
from undersong.services.agent.peers.registry import Registry
from undersong.services.agent.repository.highwater import Place, SentMessages
from undersong.services.agent.repository.room import Room, is_full
from undersong.services.agent.repository.state import AgentState, Contribution
from undersong.services.agent.rounds.delivery import SITE_METRICS, ContributionDelivery
from undersong.services.agent.rounds.exchange import Exchange, Exchanges
from undersong.services.agent.rounds.watch import OVER, Hold, OldLease, Watch, beside_heartbeats, together
from undersong.services.agent.runner.folders import erase, fresh
from undersong.services.agent.runner.protocol import Runner, RunOrder, RunOutcome
from undersong.shared.faults import point
from undersong.shared.identity.authority import Identity
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.telemetry.traces import continue_trace
from undersong.shared.wire.manifest import LogHead, RoundManifest
from undersong.shared.wire.privacy import RECORD_NOISE

if TYPE_CHECKING:
    from undersong.shared.secagg.engine import Payload

    Made = tuple[Payload, Mapping[str, float]]
    """What the engine sums, and the site's own metrics where they are told."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

DISK_FULL = "disk-full"
TAKEN_UP_AGAIN = frozenset({"interrupted", "child-died", DISK_FULL})  # the coordinator opens the same task once more
FORGET_AFTER_S = 3600.0  # beyond its round's deadline, a pending contribution is of no use


@dataclass(frozen=True, slots=True)
class ServiceClients:
    """The services, as this agent reaches them."""

    coordinator: Coordinator
    aggregator: Aggregator
    registry: Registry
    signatures: Signatures
    identity: Callable[[], Identity]


@dataclass(frozen=True, slots=True)
class SiteSetup:
    """What holds at this site while a task runs."""

    facts: SiteFacts
    policy: Policy
    local_now: Callable[[], datetime]
    work_dir: Path


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
        self._platform, self._runner, self._state, self._site = platform, runner, state, site
        self._sent, self._room, self._ledger = sent, room, ledger
        self._fresh: Digest | None = None  # written by this very task, so not yet to be doubted
        self._exchanges = Exchanges(
            platform.aggregator,
            state.engines,
            sent,
            platform.identity,
            platform.signatures,
            lambda: site().policy,
        )
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
            contribution = await self._contribution(lease, watch)
            watch.phase, watch.kept = "sending", True
            await self._delivery.deliver(contribution, lease, watch, fresh=contribution.body_digest == self._fresh)
        except (TaskFailure, asyncio.CancelledError):
            raise
        except RequestRefused as problem:
            raise TaskFailure("platform-refused", str(problem)) from problem
        except Exception as error:
            if is_full(error):
                raise TaskFailure(DISK_FULL, "this site's disk is full: the agent rests until there is room") from error
            log.exception("task.broken")
            raise TaskFailure("agent-error", type(error).__name__) from error

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
        return await self._make(lease, manifest, digest, watch)

    async def _charge(self, manifest: RoundManifest, digest: Digest) -> None:
        """Hold what the round costs in the owner's ledger, durably; TaskFailure where it must not be spent."""
        model = await self._model(manifest) if manifest.privacy is not None else None
        rule = self._site().policy.privacy

        def hold() -> None:
            from undersong.services.agent.rounds.costs import cost_of

            event = cost_of(manifest, model)
            if event is not None:
                self._ledger.charge(manifest, digest, event, rule)

        await asyncio.to_thread(hold)

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

    async def _make(self, lease: Lease, manifest: RoundManifest, digest: Digest, watch: Watch) -> Contribution:
        # The key is checked before the recipe runs: nothing is computed for a key that is not this round's.
        await self._check_engine_key(lease, manifest, digest)
        site_id, public = self._site().facts.site_id, lease.engine_public.document.public
        exchange = await self._exchanges.join(manifest, digest, site_id, public)
        answer, made = await together(exchange.lead_up(), self._payload(manifest, site_id, watch))
        watch.phase = "sealing"
        keeping = asyncio.create_task(asyncio.to_thread(self._keep, lease, digest, exchange, answer, made))
        try:
            return await asyncio.shield(keeping)
        except asyncio.CancelledError:
            with suppress(Exception):  # the thread cannot be stopped: know what it left before saying anything
                await keeping
                watch.kept = True
            raise

    async def _payload(self, manifest: RoundManifest, site_id: SiteId, watch: Watch) -> Made:
        """Run the recipe and return what the engine sums, and what is told beside it; no file that shows the update is
        left.

        It is made while the cohort still agrees on keys, so that only masking waits for the last site.
        """
        outcome: RunOutcome | None = None
        try:
            outcome, model = await self._run(manifest, watch)
            made = await asyncio.to_thread(self._make_payload, manifest, site_id, outcome, model)
            watch.phase = "agreeing"
            return made
        finally:
            if outcome is not None:
                outcome.forget()
            await asyncio.to_thread(erase, self._folder())

    def _make_payload(self, manifest: RoundManifest, site_id: SiteId, outcome: RunOutcome, model: Path | None) -> Made:
        """In a thread."""
        from undersong.services.agent.repository.samples import Samples
        from undersong.services.agent.rounds.site_metrics import own_metrics
        from undersong.services.agent.rounds.updates import make_payload

        told = own_metrics(self._site().policy.site_metrics, manifest, outcome)
        return make_payload(manifest, site_id, outcome, model, Samples(self._state.store)), told

    async def _run(self, manifest: RoundManifest, watch: Watch) -> tuple[RunOutcome, Path | None]:
        """Fetch the model and run the recipe on it."""
        site, model = self._site(), None
        if manifest.model is not None:
            watch.phase = "fetching"
            model = await self._model(manifest)
        folder = self._folder()
        await asyncio.to_thread(fresh, folder, 0o777)  # a container's own user writes here; above, only the agent
        watch.phase = "running"
        point("agent.training")

        def progressed(value: float) -> None:
            watch.progress = value

        limit_s = min(site.policy.resources.task_s, manifest.deadline_s)
        local = await asyncio.to_thread(self._state.local.before, manifest, folder)
        order = _order(manifest, site.facts.site_id, model, local, folder)
        outcome = await self._runner.run(order, progressed, limit_s=limit_s)
        await asyncio.to_thread(self._state.local.keep, manifest, outcome.local)
        return outcome, model

    async def _model(self, manifest: RoundManifest) -> Path | None:
        """Fetch the model that the round starts from, unless it is here; TaskFailure where the registry refuses it."""
        if manifest.model is None:
            return None
        limit = self._site().policy.resources.model_bytes
        try:
            return await self._platform.registry.fetch(
                manifest.model.version_id, manifest.model.digest, limit_bytes=limit
            )
        except RequestRefused as problem:
            raise TaskFailure("model-refused", str(problem)) from problem

    def _folder(self) -> Path:
        return self._site().work_dir / "task"

    async def _check_engine_key(self, lease: Lease, manifest: RoundManifest, digest: Digest) -> None:
        signed = lease.engine_public
        public = signed.document
        await self._platform.signatures.check("aggregator", signed.keyid, signed.signature, public.statement())
        if (public.round_id, public.manifest_digest, public.engine) != (manifest.round_id, digest, manifest.engine):
            raise TaskFailure("engine-key", "the aggregator's key belongs to another round")

    def _keep(
        self,
        lease: Lease,
        digest: Digest,
        exchange: Exchange,
        answer: bytes | None,
        made: Made,
    ) -> Contribution:
        """Hide, make durable, record. In a thread."""
        from undersong.services.agent.rounds.updates import write_body

        manifest, (payload, told) = exchange.client_round.manifest, made
        written = write_body(exchange, answer, payload, self._state.outbox)
        memory: dict[str, object] = {
            "witness": exchange.client_round.witness,
            "lease_token": lease.lease_token,
            "heartbeat_s": lease.heartbeat_s,
            "deadline_s": manifest.deadline_s,
            "traceparent": lease.traceparent,
            "signature": written.signature,
        }
        if told:
            memory[SITE_METRICS] = dict(told)
        # The body is on disk; its row and the engine's state are one transaction. Only then may a byte leave.
        engine_state = written.state if exchange.has_steps else None
        point("agent.body.written")
        kept = self._state.keep(manifest, digest, lease.task_id, written.body, memory, engine_state=engine_state)
        self._fresh = kept.body_digest
        point("agent.update.kept")
        return kept

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


def _context(manifest: RoundManifest) -> Mapping[str, list[float]]:
    """Return what the recipe is told beside its parameters: in a round that protects records, by which noise."""
    noise = manifest.privacy.record_noise if manifest.privacy is not None else None
    return manifest.context if noise is None else {**manifest.context, RECORD_NOISE: list(noise)}


def _order(manifest: RoundManifest, site_id: SiteId, model: Path | None, local: Path | None, folder: Path) -> RunOrder:
    return RunOrder(
        kind=manifest.kind.value,
        recipe=manifest.recipe.name,
        recipe_digest=manifest.recipe.digest,
        params=manifest.recipe.params,
        data=manifest.data,
        context=_context(manifest),
        seed=manifest.seed_of(site_id),
        folder=folder,
        model=model,
        local=local,
    )
