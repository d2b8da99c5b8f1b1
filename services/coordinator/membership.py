"""How sites become members: invitations with start kits, certificates, and the log of what people changed."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from undersong.services.coordinator.peers.keys import KeysDirectory
from undersong.services.coordinator.repository.audit_log import entries, note
from undersong.services.coordinator.repository.sites import Site, SiteRepository
from undersong.services.coordinator.views.membership import (
    AuditEntryView,
    NewInvitationView,
    SiteCertificateView,
    certificate_view,
    entry_view,
    invitation_view,
)
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import Forbidden, no_such
from undersong.shared.files import read_bytes
from undersong.shared.ids import new_id
from undersong.shared.start_kit import StartKit
from undersong.shared.web.access import Principal, Role

_AUDITORS = (Role.ADMIN, Role.AUDITOR)


class Membership:
    """The use cases. `urls`: where sites reach the services; `ca_file`: whom they trust there."""

    def __init__(self, database: Database, keys: KeysDirectory, urls: Mapping[str, str], ca_file: Path | None) -> None:
        self._database, self._keys = database, keys
        self._urls, self._ca_file = urls, ca_file

    async def invite(
        self, person: Principal, site_id: str, expires_in_s: int, key: str | None = None
    ) -> NewInvitationView:
        """Return an enrolment token for a site, also for one that lost its key; the site's earlier unused ones end.

        With a key, asking again gives the same token.
        The intention is noted before the keys service is asked, so that no token exists without an entry.
        """

        async def work(tx: Transaction) -> Site:
            site = await SiteRepository(tx).get(site_id)
            person.check(Role.ADMIN, federation_id=site.federation_id, hidden=no_such("site", site_id))
            await note(
                tx, person, "site.invite", site.id, site.federation_id, name=site.name, expires_in_s=expires_in_s
            )
            return site

        site = await self._database.run("site.invite", work)
        once = new_id("req") if key is None else hashlib.sha256(f"{person.user_id}/{key}".encode()).hexdigest()
        made = await self._keys.invite(site.id, site.federation_id, person.name, expires_in_s, once)
        return invitation_view(site.id, made)

    async def kit(self, person: Principal, invitation: NewInvitationView) -> StartKit:
        """Return the start kit of a site that the person has just invited."""
        site = await self._site(person, invitation.site_id, Role.ADMIN)
        trusted = self._ca_file is not None and any(url.startswith("https://") for url in self._urls.values())
        return StartKit(
            name=site.name,
            site_id=site.id,
            token=invitation.token,
            expires_at=invitation.expires_at,
            urls=self._urls,
            ca_pem=read_bytes(self._ca_file) if trusted and self._ca_file else b"",
            needs_approval=invitation.needs_approval,
        )

    async def certificates(self, person: Principal, site_id: str) -> Sequence[SiteCertificateView]:
        """Return a site's certificates, the one that ends last first."""
        site = await self._site(person, site_id, *Role)
        now = await self._database.read("certificates.now", lambda tx: tx.now())
        found = [each for each in await self._keys.certificates_of(site.id) if each.kind == "site"]
        return [certificate_view(each, now) for each in sorted(found, key=lambda each: each.not_after, reverse=True)]

    async def audit_log(self, person: Principal, limit: int, after: str | None) -> Page[AuditEntryView]:
        """Return what people changed, newest first, in the federations that the person administers or audits."""
        if not person.may(*_AUDITORS):
            raise Forbidden("this needs the role admin or auditor")
        seen = person.federations(*_AUDITORS)
        found = await self._database.read("audit.entries", lambda tx: entries(tx, seen, limit, after))
        return found.map(entry_view)

    async def _site(self, person: Principal, site_id: str, *roles: Role) -> Site:
        async def work(tx: Transaction) -> Site:
            site = await SiteRepository(tx).get(site_id)
            person.check(*roles, federation_id=site.federation_id, hidden=no_such("site", site_id))
            return site

        return await self._database.read("site.member", work)
