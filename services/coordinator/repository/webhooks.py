"""Webhooks and their deliveries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update

from undersong.services.coordinator.domain.webhooks import (
    LONGEST_ATTEMPT,
    DeliveryState,
    Webhook,
    WebhookDelivery,
    pause,
)
from undersong.services.coordinator.tables import DeliveryRow, JobEventRow, JobRow, WebhookRow
from undersong.shared.database import Page, Transaction, page
from undersong.shared.errors import no_such
from undersong.shared.ids import DeliveryId, FederationId, JobId, WebhookId, new_id

MOST_OF_ONE: Final = 4  # deliveries to one webhook at a time


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A delivery that is due, with all that one attempt needs; the secret is sealed."""

    delivery: WebhookDelivery
    webhook: Webhook
    secret: bytes
    job_name: str | None
    data: dict[str, Any]
    happened_at: datetime


class WebhookRepository:
    """Webhooks in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def add(self, webhook: Webhook, secret: bytes) -> None:
        """Insert; `secret` is sealed."""
        values = {
            "id": webhook.id,
            "federation_id": webhook.federation_id,
            "url": webhook.url,
            "events": list(webhook.events),
            "secret": secret,
            "created_by": webhook.created_by,
            "created_at": webhook.created_at,
        }
        await self._session.execute(insert(WebhookRow).values(values))

    async def get(self, webhook_id: str) -> Webhook:
        """Load; raises NotFound."""
        row = await self._session.get(WebhookRow, webhook_id)
        if row is None:
            raise no_such("webhook", webhook_id)
        return _webhook(row)

    async def list(self, federation_id: str, limit: int, after: str | None) -> Page[Webhook]:
        """Return a page of a federation's webhooks, oldest first."""
        query = select(WebhookRow).where(WebhookRow.federation_id == federation_id, WebhookRow.deleted_at.is_(None))
        return (await page(self._session, query, WebhookRow.id, limit, after)).map(_webhook)

    async def count(self, federation_id: str) -> int:
        """Return how many webhooks a federation has."""
        query = select(func.count()).select_from(WebhookRow)
        query = query.where(WebhookRow.federation_id == federation_id, WebhookRow.deleted_at.is_(None))
        return await self._session.scalar(query) or 0

    async def remove(self, webhook_id: str) -> None:
        """Send nothing to a webhook any more, and forget its secret and deliveries; the row remembers who made it."""
        await self._session.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id))
        gone = {"deleted_at": await self._tx.now(), "secret": b""}
        await self._session.execute(
            update(WebhookRow).where(WebhookRow.id == webhook_id, WebhookRow.deleted_at.is_(None)).values(gone)
        )

    async def announce(self, job_id: str, numbered: Sequence[tuple[int, str]]) -> None:
        """Put events of a job, by number and type, on their way to the webhooks of its federation that ask for it."""
        query = select(WebhookRow.id, WebhookRow.events).join(JobRow, JobRow.federation_id == WebhookRow.federation_id)
        asking = (await self._session.execute(query.where(JobRow.id == job_id, WebhookRow.deleted_at.is_(None)))).all()
        for webhook_id, events in asking:
            for number, type_ in numbered:
                if type_ in events:
                    await self.enqueue(webhook_id, type_, job_id, number)

    async def enqueue(self, webhook_id: str, type_: str, job_id: str | None, number: int | None) -> DeliveryId:
        """Put one message on its way."""
        now, delivery_id = await self._tx.now(), DeliveryId(new_id("dlv"))
        values = {
            "id": delivery_id,
            "webhook_id": webhook_id,
            "type": type_,
            "job_id": job_id,
            "number": number,
            "state": str(DeliveryState.WAITING),
            "attempts": 0,
            "created_at": now,
            "next_attempt_at": now,
        }
        await self._session.execute(insert(DeliveryRow).values(values))
        return delivery_id

    async def delivery(self, delivery_id: str) -> WebhookDelivery:
        """Load; raises NotFound."""
        row = await self._session.get(DeliveryRow, delivery_id, populate_existing=True)
        if row is None:
            raise no_such("delivery", delivery_id)
        return _delivery(row)

    async def deliveries(
        self, webhook_id: str, state: str | None, limit: int, after: str | None
    ) -> Page[WebhookDelivery]:
        """Return a page of a webhook's deliveries, newest first."""
        query = select(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id)
        if state is not None:
            query = query.where(DeliveryRow.state == state)
        return (await page(self._session, query, DeliveryRow.id, limit, after, descending=True)).map(_delivery)

    async def counts(self, webhook_ids: Sequence[str]) -> dict[tuple[str, str], int]:
        """Return the number of deliveries by webhook and state."""
        columns = (DeliveryRow.webhook_id, DeliveryRow.state)
        query = select(*columns, func.count()).where(DeliveryRow.webhook_id.in_(webhook_ids)).group_by(*columns)
        return {(webhook_id, state): count for webhook_id, state, count in await self._session.execute(query)}

    async def due(self) -> bool:
        """Return whether a delivery is due."""
        query = select(DeliveryRow.id).join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
        return await self._session.scalar(query.where(*_due(await self._tx.now())).limit(1)) is not None

    async def claim(self, limit: int) -> Sequence[Outgoing]:
        """Take deliveries that are due, and note the attempt and when the next is due: a crash is a failed attempt.

        No other process takes them for as long as an attempt can last. A few of each webhook come first, so that one
        with thousands does not hold up the others.
        """
        now = await self._tx.now()
        place = func.row_number().over(partition_by=DeliveryRow.webhook_id, order_by=DeliveryRow.next_attempt_at)
        queue = select(DeliveryRow.id, DeliveryRow.next_attempt_at, place.label("place")).join(
            WebhookRow, WebhookRow.id == DeliveryRow.webhook_id
        )
        waiting = queue.where(*_due(now)).subquery()
        chosen = select(waiting.c.id).where(waiting.c.place <= MOST_OF_ONE)
        first = chosen.order_by(waiting.c.place, waiting.c.next_attempt_at, waiting.c.id).limit(limit)
        ids = (await self._session.scalars(first)).all()
        query = (
            select(DeliveryRow, WebhookRow, JobRow.name, JobEventRow.data, JobEventRow.created_at)
            .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
            .outerjoin(JobRow, JobRow.id == DeliveryRow.job_id)
            .outerjoin(
                JobEventRow, (JobEventRow.job_id == DeliveryRow.job_id) & (JobEventRow.number == DeliveryRow.number)
            )
            .where(DeliveryRow.id.in_(ids), *_due(now))
            .order_by(DeliveryRow.next_attempt_at, DeliveryRow.id)
            .with_for_update(skip_locked=True, of=DeliveryRow)
        )
        taken = []
        for row, webhook, name, data, at in (await self._session.execute(query)).all():
            row.attempts += 1
            row.next_attempt_at = now + max(pause(row.attempts), 2 * LONGEST_ATTEMPT)
            facts = (_delivery(row), _webhook(webhook), webhook.secret)
            taken.append(Outgoing(*facts, name, dict(data or {}), at or row.created_at))
        await self._session.flush()
        return taken

    async def settle(self, delivery: WebhookDelivery, state: DeliveryState, answer: str) -> None:
        """Note how an attempt ended; nothing where another attempt began meanwhile, or the webhook was deleted."""
        now = await self._tx.now()
        again = {"next_attempt_at": now + pause(delivery.attempts)} if state is DeliveryState.WAITING else {}
        await self._session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.id == delivery.id, DeliveryRow.attempts == delivery.attempts)
            .values(state=str(state), answer=answer, finished_at=None if again else now, **again)
        )

    async def requeue(self, delivery_id: str) -> None:
        """Begin anew with a delivery that was given up; nothing for another."""
        now = await self._tx.now()
        await self._session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.id == delivery_id, DeliveryRow.state == DeliveryState.DEAD)
            .values(state=str(DeliveryState.WAITING), created_at=now, next_attempt_at=now, finished_at=None)
        )

    async def prune(self, before: datetime) -> None:
        """Forget deliveries that ended before a time, and what a deletion at the same moment left behind."""
        gone = select(WebhookRow.id).where(WebhookRow.deleted_at.is_not(None))
        old = or_(DeliveryRow.finished_at < before, DeliveryRow.webhook_id.in_(gone))
        await self._session.execute(delete(DeliveryRow).where(old))

    async def secrets(self) -> dict[str, bytes]:
        """Return every webhook's sealed secret."""
        query = select(WebhookRow.id, WebhookRow.secret).where(WebhookRow.deleted_at.is_(None))
        rows = await self._session.execute(query.with_for_update())
        return {row.id: row.secret for row in rows}

    async def keep_secret(self, webhook_id: str, secret: bytes) -> None:
        """Replace a webhook's sealed secret."""
        await self._session.execute(update(WebhookRow).where(WebhookRow.id == webhook_id).values(secret=secret))


def _due(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of what is due; a webhook that was deleted gets nothing."""
    waits = (DeliveryRow.state == DeliveryState.WAITING, DeliveryRow.next_attempt_at <= now)
    return (*waits, WebhookRow.deleted_at.is_(None))


def _webhook(row: WebhookRow) -> Webhook:
    return Webhook(
        WebhookId(row.id),
        FederationId(row.federation_id),
        row.url,
        tuple(row.events),
        row.created_by,
        row.created_at,
        row.deleted_at,
    )


def _delivery(row: DeliveryRow) -> WebhookDelivery:
    return WebhookDelivery(
        id=DeliveryId(row.id),
        webhook_id=WebhookId(row.webhook_id),
        type=row.type,
        job_id=JobId(row.job_id) if row.job_id else None,
        number=row.number,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        answer=row.answer,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        finished_at=row.finished_at,
    )
