"""Invitations: the coordinator asks for a site's enrolment token, and an operator approves the key that uses it.

The coordinator sees the token, so the token alone must not be worth a certificate: the keys service certifies the key
that an operator compared and approved, and no other.
"""

from datetime import timedelta
from typing import Literal

from undersong.services.keys.authority import Authority
from undersong.services.keys.domain import EnrolmentToken, Invitation, InvitationsOff
from undersong.services.keys.enrolments import NewToken, TokenRequestDiffers, fresh_token
from undersong.services.keys.repository.enrolments import EnrolmentRepository
from undersong.services.keys.repository.invitations import InvitationRepository
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.identity.authority import Subject
from undersong.shared.ids import new_id
from undersong.shared.web.access import token_hash

_PRINCIPAL = "coordinator"


class Invitations:
    """The use cases, one transaction each. `mode`: see the setting `invitations`."""

    def __init__(self, database: Database, authority: Authority, mode: Literal["approve", "trust", "refuse"]) -> None:
        self._database, self._authority, self._mode = database, authority, mode

    @property
    def approved_by_hand(self) -> bool:
        """Whether an operator approves each key."""
        return self._mode == "approve"

    async def invite(self, site: Subject, invited_by: str, expires_in: timedelta, key: str | None) -> NewToken:
        """Return a single-use token for a site; it ends the site's earlier ones that no certificate came of.

        With an idempotency key, asking again gives the same token. Raises InvitationsOff or TokenRequestDiffers.
        """
        if self._mode == "refuse":
            raise InvitationsOff("ask its operator for an enrolment token: undersong site enroll NAME")
        token = fresh_token(self._authority, _PRINCIPAL, key)

        async def work(tx: Transaction) -> NewToken:
            enrolments, now = EnrolmentRepository(tx), await tx.now()
            approved_at = None if self.approved_by_hand else now
            ends = now.replace(microsecond=0) + expires_in
            fresh = EnrolmentToken(new_id("tok"), site, ends, None, invited_by, approved_at)
            if await enrolments.add_token(fresh, token_hash(token), now):
                await InvitationRepository(tx).end_earlier(site, fresh.id, now)
                return NewToken(fresh.id, token, fresh.expires_at)
            known = await enrolments.token(token_hash(token))
            if (known.subject, known.invited_by) != (site, invited_by):
                raise TokenRequestDiffers("this Idempotency-Key made an enrolment token for another party")
            return NewToken(known.id, token, known.expires_at)

        return await self._database.run("invitation.create", work)

    async def list(self, site_id: str | None, limit: int, after: str | None) -> Page[tuple[Invitation, str]]:
        """Return a page of invitations with their states."""

        async def work(tx: Transaction) -> Page[tuple[Invitation, str]]:
            now = await tx.now()
            found = await InvitationRepository(tx).list(site_id, limit, after)
            return found.map(lambda each: (each, each.state(now)))

        return await self._database.read("invitation.list", work)

    async def approve(self, invitation_id: str, fingerprint: str) -> tuple[Invitation, str]:
        """Approve the key with this fingerprint; its agent gets its certificate when it asks again. Idempotent.

        Raises InvitationUnknown or KeyNotWaiting.
        """

        async def work(tx: Transaction) -> tuple[Invitation, str]:
            invitations, now = InvitationRepository(tx), await tx.now()
            (await invitations.get(invitation_id)).check_approval(fingerprint, now)
            await invitations.approve(invitation_id, now)
            tx.session.expire_all()
            found = await invitations.get(invitation_id)
            return found, found.state(now)

        return await self._database.run("invitation.approve", work)
