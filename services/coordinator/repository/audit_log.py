"""Audit entries: who changed what about sites, people and their rights. Append only."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from undersong.services.coordinator.tables import AuditEntryRow
from undersong.shared.database import Page, Transaction, page
from undersong.shared.web.access import Principal


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change; `subject` is the id of what was changed."""

    id: int
    at: datetime
    actor_id: str
    actor: str
    action: str
    subject: str
    federation_id: str | None
    data: dict[str, Any]


async def note(
    tx: Transaction, person: Principal, action: str, subject: str, federation_id: str | None = None, **data: object
) -> None:
    """Append an entry in the transaction of the change that it tells of."""
    values = {
        "at": await tx.now(),
        "actor_id": person.user_id,
        "actor": person.name,
        "action": action,
        "subject": subject,
        "federation_id": federation_id,
        "data": data,
    }
    await tx.session.execute(insert(AuditEntryRow).values(values))


async def entries(
    tx: Transaction, federations: Collection[str] | None, limit: int, after: str | None
) -> Page[AuditEntry]:
    """Return a page of entries, newest first: of these federations, or with None all."""
    query = select(AuditEntryRow)
    if federations is not None:
        query = query.where(AuditEntryRow.federation_id.in_(federations))
    found = await page(tx.session, query, AuditEntryRow.id, limit, after, descending=True)
    return found.map(_entry)


def _entry(row: AuditEntryRow) -> AuditEntry:
    return AuditEntry(
        row.id, row.at, row.actor_id, row.actor, row.action, row.subject, row.federation_id, dict(row.data)
    )
