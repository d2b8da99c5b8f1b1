"""SQL of the audit trail: who did what."""

from undersong.services.registry.tables import ActionRow
from undersong.shared.database import Transaction


class ActionRepository:
    """The audit trail within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def record(self, actor: str, action: str, subject: str, **detail: object) -> None:
        """Note who did what."""
        row = ActionRow(at=await self._tx.now(), actor=actor, action=action, subject=subject, detail=detail or None)
        self._session.add(row)
