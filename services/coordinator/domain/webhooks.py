"""Webhooks: what is told, how it is signed (Standard Webhooks 1.0), and when it is tried again. Pure.

Source: https://www.standardwebhooks.com. Receivers check the signature with that project's libraries, or in six lines.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from undersong.shared.errors import FieldError, Invalid
from undersong.shared.ids import DeliveryId, FederationId, JobId, WebhookId
from undersong.shared.names import hint
from undersong.shared.origins import origin_of

TEST: Final = "webhook.test"
EVENTS: Final = (
    "job.created",
    "job.waiting",
    "job.paused",
    "job.resumed",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "round.published",
    "round.failed",
)
"""What a webhook may ask for: events of jobs and rounds, none of single sites."""
TOLD: Final = ("round_id", "kind", "number", "attempt", "state", "phase", "reason", "needed", "version_id")
"""Fields of an event's data that leave the platform: no site, no message of one, no metric."""
LONGEST_ATTEMPT: Final = timedelta(seconds=15)
"""From the connection to the answer's headers, however slowly they come."""
GIVEN_UP_AFTER: Final = timedelta(days=1)
KEPT: Final = timedelta(days=30)
LONGEST_URL: Final = 2000
_PAUSES_S: Final = (5, 30, 120, 600, 1800, 3600)
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105  (what every secret begins with)


class WebhookInvalid(Invalid):
    """The webhook's address is not one that the operator allows, or an event is not known."""


class DeliveryState(StrEnum):
    """The state of a delivery. `dead` was given up after a day; an administrator may have it tried again."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address of a federation's that is told what happens to its jobs."""

    id: WebhookId
    federation_id: FederationId
    url: str
    events: tuple[str, ...]
    created_by: str
    created_at: datetime
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One event on its way to one webhook. `answer`: what came back last, such as "HTTP 500"."""

    id: DeliveryId
    webhook_id: WebhookId
    type: str
    job_id: JobId | None
    number: int | None
    state: DeliveryState
    attempts: int
    answer: str | None
    created_at: datetime
    next_attempt_at: datetime
    finished_at: datetime | None


def check_webhook(url: str, events: Collection[str], allowed: Collection[str]) -> None:
    """Raise WebhookInvalid with every fault of a webhook to be; `allowed` are origins that the operator named."""
    faults = []
    if (reason := refusal_of(url, allowed)) is not None:
        faults.append(FieldError("/url", reason))
    for at, event in enumerate(events):
        if event not in EVENTS:
            faults.append(FieldError(f"/events/{at}", f"no event is called {event!r}{hint(event, EVENTS)}"))
    if len(set(events)) < len(events):
        faults.append(FieldError("/events", "name each event once"))
    if faults:
        raise WebhookInvalid("The webhook cannot be made as it is written.", errors=faults)


def refusal_of(url: str, allowed: Collection[str]) -> str | None:
    """Return why nothing is sent to an address; None where it is within an origin that the operator allows."""
    try:
        parts = urlsplit(url)
        named = parts.username is not None or parts.password is not None
        origin = origin_of(url)
    except ValueError:
        return "this is no web address"
    if named or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        return "an address without user, password, fragment, spaces and letters beyond ASCII is needed"
    if origin in allowed:
        return None
    known = f"it allows {', '.join(sorted(allowed))}" if allowed else "it allows none yet"
    return f"{origin} is no origin that the operator allows (COORDINATOR_WEBHOOK_ORIGINS; {known})"


def message(
    delivery: WebhookDelivery, federation_id: str, job_name: str | None, data: Mapping[str, Any], happened_at: datetime
) -> bytes:
    """Return the body of a delivery: the same bytes at each attempt."""
    told = {name: data[name] for name in TOLD if data.get(name) is not None}
    document = {
        "type": delivery.type,
        "timestamp": happened_at.isoformat(),
        "data": {
            "federation_id": federation_id,
            "job_id": delivery.job_id,
            "job_name": job_name,
            "event": delivery.number,
            **told,
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def secret_text(secret: bytes) -> str:
    """Return a secret as the receiver is given it."""
    return _SECRET_PREFIX + base64.b64encode(secret).decode()


def headers(secret: bytes, delivery_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of one attempt: HMAC-SHA256 over id, time in whole seconds, and body."""
    timestamp = str(int(at.timestamp()))
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "content-type": "application/json",
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def pause(attempts: int) -> timedelta:
    """Return how long to wait after attempt number `attempts`, from 1."""
    return timedelta(seconds=_PAUSES_S[min(attempts, len(_PAUSES_S)) - 1])
