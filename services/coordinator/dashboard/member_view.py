"""What one signed-in person may see and do about sites and people: the calls of the API, with the same refusals."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from undersong.services.coordinator.account_changes import EVERYBODY
from undersong.services.coordinator.accounts import Accounts
from undersong.services.coordinator.auditing import Auditing
from undersong.services.coordinator.dashboard import translate_audits
from undersong.services.coordinator.dashboard.audit_views import Key
from undersong.services.coordinator.dashboard.data_views import DataItem, data_item
from undersong.services.coordinator.domain.two_persons import Action, SecondPersonNeeded
from undersong.services.coordinator.federations import Federations
from undersong.services.coordinator.membership import Membership
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.sites import Sites
from undersong.services.coordinator.two_persons import TwoPersons
from undersong.services.coordinator.views.members import FederationView, SiteView, TokenView, UserView
from undersong.services.coordinator.views.membership import AuditEntryView, NewInvitationView
from undersong.services.coordinator.views.two_persons import PendingActionView
from undersong.shared.start_kit import StartKit
from undersong.shared.web.access import Principal, Role
from undersong.shared.web.idempotency import Once

SiteAct = Literal["suspend", "resume"]
INVITED_FOR_S = 7 * 86_400  # seconds that a token from the page is good
_MOST = 500
_MOST_DATA = 50  # data sets on the page
_SHOWN = 30
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
class PeoplePage:
    """Users with their tokens, what waits for a second person, and what people changed; as far as the person may see.

    `federations`: names by id. `administers`: whether the person revokes users and others' tokens.
    """

    me: str
    users: Sequence[UserView]
    tokens: Mapping[str, Sequence[TokenView]]
    federations: Mapping[str, str]
    administers: bool
    pending: Sequence[PendingActionView] | None
    changes: Sequence[AuditEntryView] | None

    def roles(self, user: UserView) -> str:
        """Return a user's roles in words."""
        named = [(role.role, role.federation_id) for role in user.roles]
        return ", ".join(f"{role} of {self.federations.get(at, at) if at else 'all'}" for role, at in named)


@dataclass(frozen=True, slots=True)
class MemberView:
    """One person's view of sites and people."""

    person: Principal
    accounts: Accounts
    federations: Federations
    sites: Sites
    membership: Membership
    auditing: Auditing
    two_persons: TwoPersons

    async def page(self) -> MemberPage:
        """Return what the person may do about sites."""
        found = (await self.federations.list(self.person, _MOST, None)).items
        inviting = [each for each in found if self.person.may(Role.ADMIN, federation_id=each.id)]
        steering = [each.id for each in found if self.person.may(Role.OWNER, federation_id=each.id)]
        return MemberPage(tuple(inviting), frozenset(steering), await self._certificates())

    async def _certificates(self) -> Mapping[str, Key]:
        names = {site.id: site.name for site in (await self.sites.list(self.person, _MOST, None)).items}
        try:
            keys = translate_audits.keys(await self.auditing.certificates(_MOST_KEYS), names)
        except (PartyAway, PartyRefused, ValidationError):
            return {}
        return {key.subject: key for key in keys if key.kind == "site"}

    async def data(self) -> Sequence[DataItem]:
        """Return the data sets of the person's federations, side by side."""
        found = list(await self.sites.comparisons(self.person))[:_MOST_DATA]
        federations = {each.id: each.name for each in (await self.federations.list(self.person, _MOST, None)).items}
        members: dict[str, list[SiteView]] = {}
        for site in (await self.sites.list(self.person, _MOST, None)).items:
            members.setdefault(site.federation_id, []).append(site)
        return await asyncio.to_thread(
            lambda: [data_item(each, members.get(each.federation_id, ()), federations) for each in found]
        )

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

    async def people(self) -> PeoplePage:
        """Return the users and tokens that the person may see: all, or their own."""
        person, administers = self.person, EVERYBODY in self.person.grants
        if administers:
            users = (await self.accounts.users(person, _MOST, None)).items
            tokens = (await self.accounts.tokens_of_all(person, _MOST, None)).items
        else:
            users = [await self.accounts.me(person)]
            tokens = (await self.accounts.tokens(person, None, _MOST, None)).items
        held: dict[str, list[TokenView]] = {}
        for token in tokens:
            if token.revoked_at is None:
                held.setdefault(token.user_id, []).append(token)
        seen = (await self.federations.list(person, _MOST, None)).items
        waits = person.may(Role.ADMIN, Role.OWNER)
        audits = person.may(Role.ADMIN, Role.AUDITOR)
        return PeoplePage(
            me=person.user_id,
            users=users,
            tokens=held,
            federations={each.id: each.name for each in seen},
            administers=administers,
            pending=(await self.two_persons.list(person, _SHOWN, None)).items if waits else None,
            changes=(await self.membership.audit_log(person, _SHOWN, None)).items if audits else None,
        )

    async def revoke(self, kind: Literal["users", "tokens"], subject: str) -> None:
        """Revoke a user or a token, or ask for it where that takes two persons."""
        if kind == "users":
            await self._done_or_asked("user.revoke", subject, self.accounts.revoke_user)
        else:
            await self._done_or_asked("token.revoke", subject, self.accounts.revoke_token)

    async def decide(self, action_id: str, act: Literal["confirm", "withdraw"]) -> None:
        """Confirm what another person asked for, or withdraw it."""
        await (self.two_persons.confirm if act == "confirm" else self.two_persons.withdraw)(self.person, action_id)

    async def _done_or_asked(
        self, action: Action, subject: str, do: Callable[[Principal, str], Awaitable[object]]
    ) -> bool:
        try:
            await do(self.person, subject)
        except SecondPersonNeeded:
            await self.two_persons.request(self.person, action, subject, {}, "", Once(None))
            return False
        return True

    async def steer_site(self, site_id: str, act: SiteAct) -> bool:
        """Suspend a site or let it back; False where that waits for a second person."""
        if act == "resume":
            await self.sites.readmit(self.person, site_id)
            return True
        return await self._done_or_asked("site.suspend", site_id, self.sites.suspend)
