"""How a site's contribution to a round is made: the recipe runs, its update is hidden, and the body is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.peers.coordinator import Lease
from undersong.services.agent.peers.link import RequestRefused
from undersong.services.agent.repository.state import AgentState, Contribution
from undersong.services.agent.rounds.delivery import SITE_METRICS
from undersong.services.agent.rounds.exchange import Exchange, Exchanges
from undersong.services.agent.rounds.setup import ServiceClients, SiteSetup
from undersong.services.agent.rounds.watch import Watch, together
from undersong.services.agent.runner.folders import erase, fresh
from undersong.services.agent.runner.protocol import Runner, RunOrder, RunOutcome
from undersong.shared.faults import point
from undersong.shared.ids import Digest, SiteId
from undersong.shared.wire.manifest import TRAINING, RoundManifest, SignedEnginePublic
from undersong.shared.wire.privacy import RECORD_NOISE

if TYPE_CHECKING:
    from undersong.shared.secagg.engine import Payload

    Made = tuple[Payload, Mapping[str, float]]
    """What the engine sums, and the site's own metrics where they are told."""


class ContributionMaker:
    """Makes contributions. `made` is the digest of the last one's body, which this process wrote."""

    def __init__(
        self,
        platform: ServiceClients,
        runner: Runner,
        state: AgentState,
        site: Callable[[], SiteSetup],
        exchanges: Exchanges,
    ) -> None:
        self._platform, self._runner, self._state, self._site = platform, runner, state, site
        self._exchanges = exchanges
        self.made: Digest | None = None

    async def make(self, lease: Lease, manifest: RoundManifest, digest: Digest, watch: Watch) -> Contribution:
        """Return the contribution, durable here; raises TaskFailure. Cancelling waits until the recipe is gone."""
        # The key is checked before the recipe runs: nothing is computed for a key that is not this round's.
        signed = await self._checked_key(lease, manifest, digest)
        site_id, public = self._site().facts.site_id, signed.document.public
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

    async def train(self, manifest: RoundManifest, digest: Digest, watch: Watch) -> None:
        """Train for an order, and keep the change durably; raises TaskFailure. Nothing leaves."""
        outcome: RunOutcome | None = None

        def keep(outcome: RunOutcome, model: Path | None) -> None:
            from undersong.services.agent.rounds.buffered import keep_change

            keep_change(self._state.changes, manifest, digest, outcome, model)

        try:
            outcome, model = await self._run(manifest, watch)
            await asyncio.to_thread(keep, outcome, model)
        finally:
            if outcome is not None:
                outcome.forget()
            await asyncio.to_thread(erase, self._folder())

    async def _payload(self, manifest: RoundManifest, site_id: SiteId, watch: Watch) -> Made:
        """Run the recipe and return what the engine sums, and what is told beside it; no file that shows the update is
        left.

        It is made while the cohort still agrees on keys, so that only masking waits for the last site.
        """
        if manifest.buffered:
            return await asyncio.to_thread(self._give_change, manifest, site_id), {}
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

    def _give_change(self, manifest: RoundManifest, site_id: SiteId) -> Payload:
        """In a thread."""
        from undersong.services.agent.rounds.buffered import buffered_payload

        return buffered_payload(manifest, site_id, self._state.changes)

    def _make_payload(self, manifest: RoundManifest, site_id: SiteId, outcome: RunOutcome, model: Path | None) -> Made:
        """In a thread."""
        from undersong.services.agent.repository.residuals import Residuals
        from undersong.services.agent.repository.samples import Samples
        from undersong.services.agent.rounds.site_metrics import own_metrics
        from undersong.services.agent.rounds.updates import make_payload

        told = own_metrics(self._site().policy.site_metrics, manifest, outcome)
        samples = Samples(self._state.store)
        residuals = Residuals(self._state.residuals_dir, lambda id_: self._state.contribution(id_) is not None)
        return make_payload(manifest, site_id, outcome, model, samples, residuals), told

    async def _run(self, manifest: RoundManifest, watch: Watch) -> tuple[RunOutcome, Path | None]:
        """Fetch the model and run the recipe on it."""
        site, model = self._site(), None
        if manifest.model is not None:
            watch.phase = "fetching"
            model = await self.model(manifest)
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

    async def model(self, manifest: RoundManifest) -> Path | None:
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

    async def _checked_key(self, lease: Lease, manifest: RoundManifest, digest: Digest) -> SignedEnginePublic:
        signed = lease.engine_public
        if signed is None:
            raise TaskFailure("engine-key", "the round has no key of the aggregator's")
        public = signed.document
        await self._platform.signatures.check("aggregator", signed.keyid, signed.signature, public.statement())
        if (public.round_id, public.manifest_digest, public.engine) != (manifest.round_id, digest, manifest.engine):
            raise TaskFailure("engine-key", "the aggregator's key belongs to another round")
        return signed

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
        self.made = kept.body_digest
        point("agent.update.kept")
        return kept


def _context(manifest: RoundManifest) -> Mapping[str, list[float]]:
    """Return what the recipe is told beside its parameters: in a round that protects records, by which noise."""
    noise = manifest.privacy.record_noise if manifest.privacy is not None else None
    return manifest.context if noise is None else {**manifest.context, RECORD_NOISE: list(noise)}


def _order(manifest: RoundManifest, site_id: SiteId, model: Path | None, local: Path | None, folder: Path) -> RunOrder:
    return RunOrder(
        kind="train" if manifest.kind in TRAINING else manifest.kind.value,
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
