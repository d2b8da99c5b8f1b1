"""What people do with webhooks: make, list and delete them, look at deliveries, have them tried again."""

import secrets
from collections.abc import Collection
from typing import Final

from pydantic import TypeAdapter

from undersong.services.coordinator.domain.webhooks import TEST, Webhook, check_webhook, secret_text
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.webhooks import WebhookRepository
from undersong.services.coordinator.views.webhooks import (
    DeliveryView,
    NewWebhookView,
    WebhookView,
    delivery_view,
    webhook_view,
)
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import Conflict, no_such
from undersong.shared.identity.sealing import Sealer
from undersong.shared.ids import FederationId, WebhookId, new_id
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.answers import Answered
from undersong.shared.web.idempotency import Once

SECRET_PLACE: Final = ("webhooks", "secret")
MOST: Final = 20  # of one federation
_ANSWER_PLACE: Final = ("idempotency", "webhook", "body")
_SECRET_BYTES: Final = 32


class TooManyWebhooks(Conflict):
    """The federation has as many webhooks as it may."""


class Webhooks:
    """The use cases; `allowed` are the origins to which the operator lets the platform send."""

    def __init__(self, database: Database, sealer: Sealer, allowed: Collection[str]) -> None:
        self._database, self._sealer, self._allowed = database, sealer, frozenset(allowed)

    async def create(
        self, person: Principal, federation_id: str, url: str, events: Collection[str], once: Once
    ) -> NewWebhookView:
        """Return a new webhook with its secret; raises WebhookInvalid with every fault.

        With an Idempotency-Key the secret is kept sealed in the stored answer, so that a repeated request shows it.
        """
        person.check(Role.ADMIN, federation_id=federation_id)
        check_webhook(url, events, self._allowed)
        secret = secrets.token_bytes(_SECRET_BYTES)

        async def work(tx: Transaction) -> NewWebhookView:
            webhooks = WebhookRepository(tx)
            federation = await SiteRepository(tx).federation(federation_id, lock=True)
            if await webhooks.count(federation.id) >= MOST:
                raise TooManyWebhooks(f"The federation has {MOST} webhooks: delete one that is not used any more.")
            made = Webhook(
                WebhookId(new_id("whk")), FederationId(federation.id), url, tuple(events), person.name, await tx.now()
            )
            await webhooks.add(made, self._sealer.seal(secret, SECRET_PLACE[0], made.id, SECRET_PLACE[1]))
            sealed = self._sealer.seal(secret, *_ANSWER_PLACE).hex()
            return NewWebhookView(**webhook_view(made, {}).model_dump(), secret=sealed)

        try:
            view = await self._database.run("webhook.create", once(work))
        except Answered as answer:
            view = TypeAdapter(NewWebhookView).validate_json(answer.body)
        opened = self._sealer.open(bytes.fromhex(view.secret), *_ANSWER_PLACE)
        return view.model_copy(update={"secret": secret_text(opened)})

    async def list(self, person: Principal, federation_id: str, limit: int, after: str | None) -> Page[WebhookView]:
        """Return a federation's webhooks."""
        person.check(Role.ADMIN, federation_id=federation_id)

        async def work(tx: Transaction) -> Page[WebhookView]:
            webhooks, federation = WebhookRepository(tx), await SiteRepository(tx).federation(federation_id)
            found = await webhooks.list(federation.id, limit, after)
            counts = await webhooks.counts([one.id for one in found.items])
            return found.map(lambda one: webhook_view(one, counts))

        return await self._database.read("webhooks.list", work)

    async def delete(self, person: Principal, webhook_id: str) -> None:
        """Delete a webhook with all that is on its way to it. Idempotent."""

        async def work(tx: Transaction) -> None:
            await self._of(tx, person, webhook_id)
            await WebhookRepository(tx).remove(webhook_id)

        await self._database.run("webhook.delete", work)

    async def test(self, person: Principal, webhook_id: str, once: Once) -> DeliveryView:
        """Send a test message."""

        async def work(tx: Transaction) -> DeliveryView:
            if (await self._of(tx, person, webhook_id)).deleted_at is not None:
                raise no_such("webhook", webhook_id)
            webhooks = WebhookRepository(tx)
            return delivery_view(await webhooks.delivery(await webhooks.enqueue(webhook_id, TEST, None, None)))

        return await self._database.run("webhook.test", once(work))

    async def deliveries(
        self, person: Principal, webhook_id: str, state: str | None, limit: int, after: str | None
    ) -> Page[DeliveryView]:
        """Return a webhook's deliveries, newest first."""

        async def work(tx: Transaction) -> Page[DeliveryView]:
            await self._of(tx, person, webhook_id)
            return (await WebhookRepository(tx).deliveries(webhook_id, state, limit, after)).map(delivery_view)

        return await self._database.read("webhook.deliveries", work)

    async def requeue(self, person: Principal, delivery_id: str, once: Once) -> DeliveryView:
        """Begin anew with a delivery that was given up; another is left as it is."""

        async def work(tx: Transaction) -> DeliveryView:
            webhooks = WebhookRepository(tx)
            found = await webhooks.delivery(delivery_id)
            webhook = await webhooks.get(found.webhook_id)
            hidden = no_such("delivery", delivery_id)
            person.check(Role.ADMIN, federation_id=webhook.federation_id, hidden=hidden)
            await webhooks.requeue(delivery_id)
            return delivery_view(await webhooks.delivery(delivery_id))

        return await self._database.run("webhook.requeue", once(work))

    @staticmethod
    async def _of(tx: Transaction, person: Principal, webhook_id: str) -> Webhook:
        found = await WebhookRepository(tx).get(webhook_id)
        person.check(Role.ADMIN, federation_id=found.federation_id, hidden=no_such("webhook", webhook_id))
        return found
