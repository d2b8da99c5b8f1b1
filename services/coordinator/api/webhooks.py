"""Webhooks: addresses that are told what happens to a federation's jobs."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from undersong.services.coordinator.api.access import Admin, Id, Use
from undersong.services.coordinator.domain.webhooks import EVENTS, LONGEST_URL, DeliveryState, WebhookInvalid
from undersong.services.coordinator.views.webhooks import DeliveryView, NewWebhookView, WebhookView
from undersong.services.coordinator.webhooks import TooManyWebhooks
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated
from undersong.shared.web.idempotency import IdempotencyMismatch, IdempotentOnce
from undersong.shared.web.paging import After, Limit, Listing
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1", tags=["webhooks"])
_PEOPLE = problems(Unauthenticated, Forbidden, NotFound)
_ACTING = problems(Unauthenticated, Forbidden, NotFound, IdempotencyMismatch)


class NewWebhook(BaseModel):
    """A webhook to be."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"url": "https://hooks.example.org/undersong", "events": ["job.succeeded", "job.failed"]}]
        },
    )

    url: str = Field(max_length=LONGEST_URL, description="Within an origin that the operator allows.")
    events: list[str] = Field(min_length=1, max_length=len(EVENTS), description=f"Some of: {', '.join(EVENTS)}.")


@router.post(
    "/federations/{federation_id}/webhooks",
    status_code=201,
    responses=problems(Unauthenticated, Forbidden, NotFound, WebhookInvalid, TooManyWebhooks, IdempotencyMismatch),
)
async def create_webhook(
    federation_id: Id, body: NewWebhook, person: Admin, use: Use, once: IdempotentOnce
) -> NewWebhookView:
    """Make a webhook (admin). Its secret, with which messages are signed, is shown here and never again."""
    return await use.webhooks.create(person, federation_id, body.url, body.events, once)


@router.get("/federations/{federation_id}/webhooks", responses=_PEOPLE)
async def list_webhooks(
    federation_id: Id, person: Admin, use: Use, limit: Limit = 100, after: After = None
) -> Listing[WebhookView]:
    """Return a federation's webhooks (admin)."""
    page = await use.webhooks.list(person, federation_id, limit, after)
    return Listing(items=list(page.items), next=page.next)


@router.delete("/webhooks/{webhook_id}", status_code=204, responses=_PEOPLE)
async def delete_webhook(webhook_id: Id, person: Admin, use: Use) -> Response:
    """Delete a webhook with all that is on its way to it (admin). Idempotent."""
    await use.webhooks.delete(person, webhook_id)
    return Response(status_code=204)


@router.post("/webhooks/{webhook_id}/tests", status_code=201, responses=_ACTING)
async def test_webhook(webhook_id: Id, person: Admin, use: Use, once: IdempotentOnce) -> DeliveryView:
    """Send a test message to a webhook (admin)."""
    return await use.webhooks.test(person, webhook_id, once)


@router.get("/webhooks/{webhook_id}/deliveries", responses=_PEOPLE)
async def list_deliveries(
    webhook_id: Id,
    person: Admin,
    use: Use,
    state: Annotated[DeliveryState | None, Query(description="Only deliveries in this state.")] = None,
    limit: Limit = 100,
    after: After = None,
) -> Listing[DeliveryView]:
    """Return what was, is, or was not delivered to a webhook in the last 30 days, newest first (admin)."""
    page = await use.webhooks.deliveries(person, webhook_id, state, limit, after)
    return Listing(items=list(page.items), next=page.next)


@router.post("/deliveries/{delivery_id}/requeue", responses=_ACTING)
async def requeue_delivery(delivery_id: Id, person: Admin, use: Use, once: IdempotentOnce) -> DeliveryView:
    """Try again to deliver what was given up (admin); another delivery is left as it is."""
    return await use.webhooks.requeue(person, delivery_id, once)
