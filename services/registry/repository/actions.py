"""SQL of the audit trail: who did what."""

from collections.abc import Sequence

from sqlalchemy import select

from undersong.services.registry.domain import Action
from undersong.services.registry.tables import ActionRow
from undersong.shared.database import Page, Transaction, page


class ActionRepository:
    """The audit trail within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def of_subject(self, subject: str, actions: Sequence[str], limit: int, after: str | None) -> Page[Action]:
        """Return a page of what was done to a subject, newest first; ValueError where `after` is no number."""
        query = select(ActionRow).where(ActionRow.subject == subject, ActionRow.action.in_(actions))
        found = await page(self._session, query, ActionRow.id, limit, after, descending=True)
        return found.map(lambda row: Action(row.id, row.at, row.actor, row.action, row.subject, row.detail or {}))

    async def record(self, actor: str, action: str, subject: str, **detail: object) -> None:
        """Note who did what."""
        row = ActionRow(at=await self._tx.now(), actor=actor, action=action, subject=subject, detail=detail or None)
        self._session.add(row)
