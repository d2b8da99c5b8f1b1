"""Webhooks and their deliveries."""

from datetime import datetime

from pydantic import Field

from undersong.client.types.base import Answer


class Webhook(Answer):
    """An address that is told what happens to a federation's jobs; `secret` is in the answer that made it alone."""

    id: str
    federation_id: str
    url: str
    events: list[str] = Field(default_factory=list)
    secret: str | None = None
    created_by: str = ""
    created_at: datetime | None = None
    waiting: int = 0
    dead: int = 0


class WebhookDelivery(Answer):
    """One event on its way to a webhook; `state` is waiting, delivered or dead, `answer` what came back last."""

    id: str
    webhook_id: str
    type: str
    job_id: str | None = None
    event: int | None = None
    state: str = ""
    attempts: int = 0
    answer: str | None = None
    created_at: datetime | None = None
    next_attempt_at: datetime | None = None
    finished_at: datetime | None = None
