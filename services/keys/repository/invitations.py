"""SQL of invitations: enrolment tokens for sites that the coordinator asked for."""

from datetime import datetime

from sqlalchemy import select, update

from undersong.services.keys.domain import Invitation, InvitationUnknown
from undersong.services.keys.repository.enrolments import token_of
from undersong.services.keys.tables import EnrolmentTokenRow
from undersong.shared.database import Page, Transaction, page
from undersong.shared.identity.authority import Subject


class InvitationRepository:
    """Invitations within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._session = tx.session

    async def get(self, invitation_id: str) -> Invitation:
        """Return one, locked; raises InvitationUnknown."""
        query = select(EnrolmentTokenRow).where(
            EnrolmentTokenRow.id == invitation_id, EnrolmentTokenRow.invited_by.is_not(None)
        )
        row = (await self._session.scalars(query.with_for_update())).one_or_none()
        if row is None:
            raise InvitationUnknown(f"there is no invitation {invitation_id}")
        return _invitation(row)

    async def list(self, site_id: str | None, limit: int, after: str | None) -> Page[Invitation]:
        """Return a page of invitations, of one site or of all."""
        query = select(EnrolmentTokenRow).where(EnrolmentTokenRow.invited_by.is_not(None))
        if site_id is not None:
            query = query.where(EnrolmentTokenRow.name == site_id)
        return (await page(self._session, query, EnrolmentTokenRow.id, limit, after)).map(_invitation)

    async def approve(self, invitation_id: str, now: datetime) -> None:
        """Let the key that asked have its certificate; a second time changes nothing."""
        row = update(EnrolmentTokenRow).where(
            EnrolmentTokenRow.id == invitation_id, EnrolmentTokenRow.approved_at.is_(None)
        )
        await self._session.execute(row.values(approved_at=now))

    async def end_earlier(self, subject: Subject, newest: str, now: datetime) -> None:
        """End the party's earlier invitations: no certificate is issued under them any more, approved or not."""
        row = update(EnrolmentTokenRow).where(
            EnrolmentTokenRow.kind == subject.kind,
            EnrolmentTokenRow.name == subject.name,
            EnrolmentTokenRow.federation_id == subject.federation_id,
            EnrolmentTokenRow.invited_by.is_not(None),
            EnrolmentTokenRow.id != newest,
            EnrolmentTokenRow.expires_at > now,
        )
        await self._session.execute(row.values(expires_at=now))


def _invitation(row: EnrolmentTokenRow) -> Invitation:
    return Invitation(token_of(row), row.created_at, row.used_at)
