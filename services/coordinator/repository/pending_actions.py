"""SQL of changes that take two persons."""

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime
from typing import cast

from sqlalchemy import insert, select, update

from undersong.services.coordinator.domain.two_persons import Action, PendingAction
from undersong.services.coordinator.tables import PendingActionRow
from undersong.shared.database import Page, Transaction, page
from undersong.shared.errors import no_such


class PendingActionRepository:
    """Pending actions in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._session = tx.session

    async def add(self, found: PendingAction) -> None:
        """Insert."""
        values = asdict(found)
        values["state"] = values.pop("stored")
        await self._session.execute(insert(PendingActionRow).values(values))

    async def get(self, action_id: str) -> PendingAction:
        """Load, locked; raises NotFound."""
        query = select(PendingActionRow).where(PendingActionRow.id == action_id).with_for_update()
        row = await self._session.scalar(query)
        if row is None:
            raise no_such("pending action", action_id)
        return _action(row)

    async def waiting(self, action: str, subject: str, now: datetime) -> PendingAction | None:
        """Return what waits already for the same."""
        query = select(PendingActionRow).where(
            PendingActionRow.action == action,
            PendingActionRow.subject == subject,
            PendingActionRow.state == "waiting",
            PendingActionRow.expires_at > now,
        )
        row = await self._session.scalar(query.limit(1))
        return None if row is None else _action(row)

    async def list(
        self, federations: Collection[str] | None, limit: int, after: str | None, *, people: bool
    ) -> Page[PendingAction]:
        """Return a page, newest first: of these federations, or with None all; with `people` those about them too."""
        query = select(PendingActionRow)
        if not people:
            query = query.where(PendingActionRow.federation_id.is_not(None))
        if federations is not None:
            query = query.where(PendingActionRow.federation_id.in_(federations))
        found = await page(self._session, query, PendingActionRow.id, limit, after, descending=True)
        return found.map(_action)

    async def decide(self, action_id: str, state: str, decider: str, now: datetime) -> bool:
        """Note the end of what waits; False where it waits no longer."""
        row = update(PendingActionRow).where(PendingActionRow.id == action_id, PendingActionRow.state == "waiting")
        values = {"state": state, "decider": decider, "decided_at": now}
        done = await self._session.execute(row.values(values).returning(PendingActionRow.id))
        return done.first() is not None


def _action(row: PendingActionRow) -> PendingAction:
    return PendingAction(
        id=row.id,
        action=cast("Action", row.action),
        subject=row.subject,
        name=row.name,
        federation_id=row.federation_id,
        data=dict(row.data),
        reason=row.reason,
        stored=row.state,
        requested_by=row.requested_by,
        requester=row.requester,
        requested_at=row.requested_at,
        expires_at=row.expires_at,
        decider=row.decider,
        decided_at=row.decided_at,
    )
