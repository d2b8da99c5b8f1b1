"""Sends what is due to webhooks, at least once; a failed attempt is made again, until a day has passed."""

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import Final

import httpx
import structlog

from undersong.services.coordinator.domain.webhooks import (
    GIVEN_UP_AFTER,
    KEPT,
    LONGEST_ATTEMPT,
    DeliveryState,
    headers,
    message,
    refusal_of,
)
from undersong.services.coordinator.repository.webhooks import Outgoing, WebhookRepository
from undersong.services.coordinator.webhooks import SECRET_PLACE
from undersong.shared.clock import Clock, utc_now
from undersong.shared.database import Database, Transaction
from undersong.shared.identity.sealing import SealBrokenError, Sealer
from undersong.shared.telemetry.metrics import WEBHOOK_ATTEMPTS

TOGETHER: Final = 40
TIMEOUT: Final = httpx.Timeout(10.0, connect=5.0)
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class WebhookSender:
    """Sends in turns. `http` follows no redirect, so that nothing leaves for an origin that is not `allowed`."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        http: httpx.AsyncClient,
        allowed: Collection[str],
        clock: Clock = utc_now,
        longest_s: float = LONGEST_ATTEMPT.total_seconds(),
    ) -> None:
        self._database, self._sealer, self._http = database, sealer, http
        self._allowed, self._clock, self._longest_s = frozenset(allowed), clock, longest_s

    async def sweep(self) -> int:
        """Send what is due, some together; return how many there were."""
        if not await self._database.read("webhooks.due", lambda tx: WebhookRepository(tx).due()):
            return 0
        due = await self._database.run("webhooks.claim", lambda tx: WebhookRepository(tx).claim(TOGETHER))
        await asyncio.gather(*(self._deliver(one) for one in due))
        return len(due)

    async def tidy(self) -> int:
        """Forget old deliveries, and seal secrets anew where the seal key was changed."""

        async def work(tx: Transaction) -> None:
            webhooks = WebhookRepository(tx)
            await webhooks.prune(await tx.now() - KEPT)
            for webhook_id, sealed in (await webhooks.secrets()).items():
                if not self._sealer.is_current(sealed):
                    fresh = self._sealer.reseal(sealed, SECRET_PLACE[0], webhook_id, SECRET_PLACE[1])
                    await webhooks.keep_secret(webhook_id, fresh)

        await self._database.run("webhooks.tidy", work)
        return 0

    async def _deliver(self, outgoing: Outgoing) -> None:
        now = self._clock()
        answer, done = await self._send(outgoing, now)
        state = DeliveryState.DELIVERED if done else DeliveryState.WAITING
        if not done and now - outgoing.delivery.created_at >= GIVEN_UP_AFTER:
            state = DeliveryState.DEAD
        WEBHOOK_ATTEMPTS.labels(str(state)).inc()
        log.info(
            "webhook.attempted",
            webhook_id=outgoing.webhook.id,
            delivery_id=outgoing.delivery.id,
            type=outgoing.delivery.type,
            state=str(state),
            answer=answer,
        )
        await self._database.run(
            "webhooks.settle", lambda tx: WebhookRepository(tx).settle(outgoing.delivery, state, answer)
        )

    async def _send(self, outgoing: Outgoing, now: datetime) -> tuple[str, bool]:
        """Return what came back, and whether the receiver took it."""
        webhook, delivery = outgoing.webhook, outgoing.delivery
        if (reason := refusal_of(webhook.url, self._allowed)) is not None:
            return reason[:200], False
        body = message(delivery, webhook.federation_id, outgoing.job_name, outgoing.data, outgoing.happened_at)
        try:
            secret = self._sealer.open(outgoing.secret, SECRET_PLACE[0], webhook.id, SECRET_PLACE[1])
            signed = headers(secret, delivery.id, now, body)
            within = asyncio.timeout(self._longest_s)
            async with within, self._http.stream("POST", webhook.url, content=body, headers=signed) as response:
                return f"HTTP {response.status_code}", response.is_success  # its body is not read
        except SealBrokenError:
            return "the webhook's secret cannot be opened: delete it and make it again", False
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return type(error).__name__, False
