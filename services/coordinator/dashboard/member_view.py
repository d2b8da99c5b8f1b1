"""What one signed-in person may see and do about sites and people: the calls of the API, with the same refusals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from undersong.services.coordinator.accounts import Accounts
from undersong.services.coordinator.auditing import Auditing
from undersong.services.coordinator.dashboard import translate
from undersong.services.coordinator.dashboard.audit_views import Key
from undersong.services.coordinator.federations import Federations
from undersong.services.coordinator.membership import Membership
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.sites import Sites
from undersong.services.coordinator.views.members import FederationView, SiteView
from undersong.services.coordinator.views.membership import NewInvitationView
from undersong.shared.start_kit import StartKit
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.idempotency import Once

SiteAct = Literal["suspend", "resume"]
INVITED_FOR_S = 7 * 86_400  # seconds that a token from the page is good
_MOST = 500
_MOST_KEYS = 5000


@dataclass(frozen=True, slots=True)
class MemberPage:
    """What the person may do on the sites' page. `certificates` are the newest, by site; empty without an answer."""

    inviting: tuple[FederationView, ...]
    steering: frozenset[str]
    certificates: Mapping[str, Key]

    def may_invite(self, federation_id: str) -> bool:
        """Return whether the person may invite a site of this federation."""
        return any(each.id == federation_id for each in self.inviting)


@dataclass(frozen=True, slots=True)
class MemberView:
    """One person's view of sites and people."""

    person: Principal
    accounts: Accounts
    federations: Federations
    sites: Sites
    membership: Membership
    auditing: Auditing

    async def page(self) -> MemberPage:
        """Return what the person may do about sites."""
        found = (await self.federations.list(self.person, _MOST, None)).items
        inviting = [each for each in found if self.person.may(Role.ADMIN, federation_id=each.id)]
        steering = [each.id for each in found if self.person.may(Role.OWNER, federation_id=each.id)]
        return MemberPage(tuple(inviting), frozenset(steering), await self._certificates())

    async def _certificates(self) -> Mapping[str, Key]:
        names = {site.id: site.name for site in (await self.sites.list(self.person, _MOST, None)).items}
        try:
            keys = translate.keys(await self.auditing.certificates(_MOST_KEYS), names)
        except (PartyAway, PartyRefused, ValidationError):
            return {}
        return {key.subject: key for key in keys if key.kind == "site"}

    async def invite(self, site_id: str) -> tuple[SiteView, NewInvitationView]:
        """Return a site with a new enrolment token for it."""
        site = await self.sites.get(self.person, site_id)
        return site, await self.membership.invite(self.person, site_id, INVITED_FOR_S)

    async def invite_new(self, federation_id: str, name: str, owner: str) -> tuple[SiteView, NewInvitationView]:
        """Return a new site with an enrolment token for it; raises NameTaken."""
        site = await self.sites.create(self.person, federation_id, name, owner or name, Once(None))
        return site, await self.membership.invite(self.person, site.id, INVITED_FOR_S)

    async def kit(self, invitation: NewInvitationView) -> StartKit:
        """Return the start kit of a site that was invited just now."""
        return await self.membership.kit(self.person, invitation)

    async def steer_site(self, site_id: str, act: SiteAct) -> None:
        """Suspend a site or let it back."""
        await (self.sites.suspend if act == "suspend" else self.sites.readmit)(self.person, site_id)
