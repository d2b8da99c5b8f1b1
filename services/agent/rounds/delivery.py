"""A contribution on its way: uploaded until acknowledged, the engine's further steps taken, its task completed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import structlog

from undersong.services.agent.domain.rules import BODY_LOST, Earlier, TaskFailure
from undersong.services.agent.peers.aggregator import Aggregator, Receipt
from undersong.services.agent.peers.coordinator import Coordinator
from undersong.services.agent.peers.keys import Signatures
from undersong.services.agent.peers.link import Away, RequestRefused
from undersong.services.agent.repository.highwater import UNWRITTEN, SentMessages
from undersong.services.agent.repository.state import AgentState, Contribution
from undersong.services.agent.rounds.exchange import Exchange, Exchanges
from undersong.services.agent.rounds.watch import OVER, Hold, Watch
from undersong.shared.faults import point
from undersong.shared.ids import Digest, RoundId, SiteId

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SITE_METRICS = "site_metrics"
"""The key under which a contribution's lease keeps the site's own metrics."""
UNUSABLE = frozenset({400, 411, 413, 415, 422})  # these bytes will not be accepted at any other time either


class ContributionDelivery:
    """Delivers contributions that are durable here. Idempotent: after a crash the same bytes are sent again."""

    def __init__(
        self,
        coordinator: Coordinator,
        aggregator: Aggregator,
        signatures: Signatures,
        state: AgentState,
        exchanges: Exchanges,
        sent: SentMessages,
        site_id: Callable[[], SiteId],
        answered: Callable[[], None],
    ) -> None:
        """`answered` is called after each contribution that was delivered."""
        self._coordinator, self._aggregator, self._signatures = coordinator, aggregator, signatures
        self._state, self._exchanges, self._sent = state, exchanges, sent
        self._site_id, self._answered = site_id, answered

    async def deliver(self, contribution: Contribution, lease: Hold, watch: Watch, *, fresh: bool) -> None:
        """Upload until acknowledged, take the steps that follow, tell the coordinator, then forget the bytes.

        `fresh`: the body was written by this process just now, so it is not read again to compare its digest. Raises
        TaskFailure, and settles the contribution where no later try can succeed.
        """
        round_id, receipt, keep_bytes = contribution.round_id, None, False
        if contribution.state is Earlier.PENDING:
            exchange = await self._exchanges.resume(round_id)
            if not contribution.acknowledged:
                await self._tell_metrics(contribution, lease)
                receipt = await self._upload(contribution, fresh=fresh)
                point("agent.update.acknowledged")
            if exchange is not None:
                if receipt is not None:
                    self._state.acknowledge(round_id, receipt.model_dump(mode="json"))
                await self._follow_up(exchange, contribution, watch)
            keep_bytes = exchange is None
        elif self._state.body(contribution.body_digest).exists():  # handed out again: they rotted there
            await self._upload(contribution, fresh=False)
        self._coordinator.complete(lease.task_id, lease.lease_token, contribution.body_digest)
        point("agent.task.completed")
        signed = receipt.model_dump(mode="json") if receipt else None
        self._state.settle(round_id, Earlier.ANSWERED, signed, keep_bytes=keep_bytes)
        self._state.drop_answered()
        self._answered()

    async def _tell_metrics(self, contribution: Contribution, lease: Hold) -> None:
        """Tell the site's own metrics, where there are any; the round does not depend on them."""
        told = contribution.lease.get(SITE_METRICS)
        if not isinstance(told, dict):
            return
        try:
            await self._coordinator.tell_metrics(lease.task_id, lease.lease_token, told)
        except (Away, RequestRefused) as error:
            log.warning("metrics.not_told", reason=str(error))

    async def _follow_up(self, exchange: Exchange, contribution: Contribution, watch: Watch) -> None:
        """Take the steps after the upload; the same bytes are sent again as often as the aggregator lost them."""
        while True:
            try:
                await exchange.follow_up(contribution.body_digest, watch.enter)
            except TaskFailure as failure:
                if failure.code != BODY_LOST:
                    raise
                log.warning("update.lost", reason=failure.detail)
                await self._upload(contribution, fresh=False)
            else:
                return

    async def _upload(self, contribution: Contribution, *, fresh: bool) -> Receipt:
        round_id, digest, size = contribution.round_id, contribution.body_digest, contribution.body_size
        body = self._state.body(digest)
        if not fresh and not await asyncio.to_thread(_intact, body, digest, size):
            self._state.settle(round_id, Earlier.LOST)
            raise TaskFailure("bytes-lost", "this round's bytes are gone, and it is not answered twice")
        try:
            await asyncio.to_thread(self._sent.reach, contribution.sent)
        except TaskFailure as failure:
            if failure.code != UNWRITTEN:
                self._state.settle(round_id, Earlier.LATE)
            raise
        point("agent.update.noted")
        try:
            signature = contribution.signature
            receipt = await self._aggregator.upload(round_id, body, digest, size, signature=signature)
        except RequestRefused as problem:
            raise self._refused(round_id, problem) from problem
        await self._check_receipt(receipt, round_id, digest, size)
        log.info("update.acknowledged", digest=digest, size=size)
        return receipt

    def _refused(self, round_id: RoundId, problem: RequestRefused) -> TaskFailure:
        if problem.status in OVER:
            self._state.settle(round_id, Earlier.LATE)
            return TaskFailure(problem.slug if problem.slug != "unknown" else "round-closed", problem.detail)
        if problem.status in UNUSABLE:
            self._state.settle(round_id, Earlier.LATE)
        return TaskFailure("upload-refused", str(problem))

    async def _check_receipt(self, receipt: Receipt, round_id: RoundId, digest: Digest, size: int) -> None:
        site_id = self._site_id()
        if (receipt.round_id, receipt.digest, receipt.size, receipt.site_id) != (round_id, digest, size, site_id):
            raise TaskFailure("receipt-wrong", "the aggregator acknowledged something else")
        statement = receipt.document().statement()
        await self._signatures.check("aggregator", receipt.keyid, receipt.signature, statement)


def _intact(body: Path, digest: Digest, size: int) -> bool:
    """Return whether the durable bytes are still those that were recorded."""
    try:
        with body.open("rb") as file:
            return body.stat().st_size == size and hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False
