"""Webhooks and their deliveries, as told."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import Field

from undersong.services.coordinator.domain.webhooks import DeliveryState, Webhook, WebhookDelivery
from undersong.services.coordinator.views import View


class WebhookView(View):
    """A webhook, without its secret."""

    id: str = Field(examples=["whk_01m0dwh5mdaecm6yfk3d8y9c8v"])
    federation_id: str
    url: str = Field(examples=["https://hooks.example.org/undersong"])
    events: list[str] = Field(examples=[["job.succeeded", "job.failed"]])
    created_by: str
    created_at: datetime
    waiting: int = Field(description="Deliveries on their way.")
    dead: int = Field(description="Deliveries that were given up after a day, and not tried again since.")


class NewWebhookView(WebhookView):
    """A webhook that was just made: `secret` is shown here and never again."""

    secret: str = Field(description="Checks the signature of what arrives (Standard Webhooks).")


class DeliveryView(View):
    """One event on its way to a webhook."""

    id: str
    webhook_id: str
    type: str
    job_id: str | None
    event: int | None = Field(description="The number of the job's event; null for a test.")
    state: DeliveryState
    attempts: int
    answer: str | None = Field(description='What came back last, such as "HTTP 500".')
    created_at: datetime
    next_attempt_at: datetime | None
    finished_at: datetime | None


def webhook_view(webhook: Webhook, counts: Mapping[tuple[str, str], int]) -> WebhookView:
    """As told; `counts` are its deliveries by webhook and state."""
    return WebhookView(
        id=webhook.id,
        federation_id=webhook.federation_id,
        url=webhook.url,
        events=list(webhook.events),
        created_by=webhook.created_by,
        created_at=webhook.created_at,
        waiting=counts.get((webhook.id, DeliveryState.WAITING), 0),
        dead=counts.get((webhook.id, DeliveryState.DEAD), 0),
    )


def delivery_view(delivery: WebhookDelivery) -> DeliveryView:
    """As told."""
    return DeliveryView(
        id=delivery.id,
        webhook_id=delivery.webhook_id,
        type=delivery.type,
        job_id=delivery.job_id,
        event=delivery.number,
        state=delivery.state,
        attempts=delivery.attempts,
        answer=delivery.answer,
        created_at=delivery.created_at,
        next_attempt_at=delivery.next_attempt_at if delivery.state is DeliveryState.WAITING else None,
        finished_at=delivery.finished_at,
    )
