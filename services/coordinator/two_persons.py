"""The two-person rule: one person asks for a change, another of the right role confirms it, and then it is made.

Both must still have the role when it is confirmed; confirming is idempotent.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from undersong.services.coordinator import account_changes as changes
from undersong.services.coordinator.domain.two_persons import (
    Action,
    PendingAction,
    RuleOff,
    TwoPersonRule,
)
from undersong.services.coordinator.repository.accounts import AccountRepository
from undersong.services.coordinator.repository.audit_log import note
from undersong.services.coordinator.repository.pending_actions import PendingActionRepository
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.sites import suspend_site
from undersong.services.coordinator.views.members import RoleView
from undersong.services.coordinator.views.two_persons import PendingActionView, action_view
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import Forbidden, Invalid, NotFound, no_such
from undersong.shared.ids import new_id
from undersong.shared.web.access import Grant, Principal, Role
from undersong.shared.web.idempotency import Once
from undersong.shared.web.scopes import check_scopes

_CONFIRMING = (Role.ADMIN, Role.OWNER)
_ALONE: Mapping[Action, str] = {
    "site.suspend": "undersong site suspend NAME",
    "user.revoke": "undersong user revoke NAME",
    "user.roles": "undersong user roles NAME --role ROLE",
    "token.revoke": "undersong token revoke ID",
}
_ROLES: TypeAdapter[list[RoleView]] = TypeAdapter(list[RoleView])
_MOST_ROLES = 100


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a change is about, to a person who may make it."""

    name: str
    federation_id: str | None


class TwoPersons:
    """The use cases, one transaction each."""

    def __init__(self, database: Database, rule: TwoPersonRule) -> None:
        self._database, self._rule = database, rule

    async def request(
        self, person: Principal, action: Action, subject: str, data: Mapping[str, Any], reason: str, once: Once
    ) -> PendingActionView:
        """Ask for a change; what waits already for the same is returned. Raises RuleOff where one person suffices."""
        if not self._rule.on:
            raise RuleOff(f"The two-person rule is off here: one person does this, with `{_ALONE[action]}`.")
        told = _checked(action, data)

        async def work(tx: Transaction) -> PendingActionView:
            about, now = await _may(tx, person, action, subject), await tx.now()
            if action == "user.roles":
                await changes.check_federations(tx, _roles(told))
            pending = PendingActionRepository(tx)
            known = await pending.waiting(action, subject, now)
            if known is not None and known.data == told:
                return action_view(known, now, person.user_id)
            fresh = PendingAction(
                id=new_id("act"),
                action=action,
                subject=subject,
                name=about.name,
                federation_id=about.federation_id,
                data=told,
                reason=reason,
                stored="waiting",
                requested_by=person.user_id,
                requester=person.name,
                requested_at=now,
                expires_at=now + self._rule.within,
            )
            await pending.add(fresh)
            await note(
                tx, person, "pending.request", subject, about.federation_id, name=about.name, id=fresh.id, what=action
            )
            return action_view(fresh, now, person.user_id)

        return await self._database.run("pending.request", once(work))

    async def list(self, person: Principal, limit: int, after: str | None) -> Page[PendingActionView]:
        """Return the changes of the person's federations that waited or wait, newest first."""
        if not person.may(*_CONFIRMING):
            raise Forbidden("this needs the role admin or owner")

        async def work(tx: Transaction) -> Page[PendingActionView]:
            now = await tx.now()
            seen = person.federations(*_CONFIRMING)
            everybody = changes.EVERYBODY in person.grants
            found = await PendingActionRepository(tx).list(seen, limit, after, people=everybody)
            return found.map(lambda each: action_view(each, now, person.user_id))

        return await self._database.read("pending.list", work)

    async def confirm(self, person: Principal, action_id: str) -> PendingActionView:
        """Confirm what another person asked for, and make the change. Idempotent.

        Raises SamePerson, ActionOver, or what the change itself is refused for.
        """

        async def work(tx: Transaction) -> PendingActionView:
            pending, now = PendingActionRepository(tx), await tx.now()
            found = await _seen(tx, person, action_id)
            if found.stored == "confirmed":
                return action_view(found, now, person.user_id)
            found.check_confirmable(person.user_id, now)
            await _may(tx, person, found.action, found.subject)
            await _check_requester(tx, found)
            if await pending.decide(action_id, "confirmed", person.name, now):
                await _APPLY[found.action](tx, person, found.subject, found.data)
                about = {"name": found.name, "id": found.id, "what": found.action, "requester": found.requester}
                await note(tx, person, "pending.confirm", found.subject, found.federation_id, **about)
            tx.session.expire_all()
            return action_view(await pending.get(action_id), now, person.user_id)

        return await self._database.run("pending.confirm", work)

    async def withdraw(self, person: Principal, action_id: str) -> PendingActionView:
        """End what waits: by who asked, or by another of the role whom it is not about. Idempotent."""

        async def work(tx: Transaction) -> PendingActionView:
            pending, now = PendingActionRepository(tx), await tx.now()
            found = await _seen(tx, person, action_id)
            if found.state(now) == "waiting" and person.user_id != found.requested_by:
                await _may(tx, person, found.action, found.subject)
                await _check_not_about(tx, person, found)
            if found.state(now) == "waiting" and await pending.decide(action_id, "withdrawn", person.name, now):
                about = {"name": found.name, "id": found.id, "what": found.action, "requester": found.requester}
                await note(tx, person, "pending.withdraw", found.subject, found.federation_id, **about)
            tx.session.expire_all()
            return action_view(await pending.get(action_id), now, person.user_id)

        return await self._database.run("pending.withdraw", work)


async def _seen(tx: Transaction, person: Principal, action_id: str) -> PendingAction:
    """Return it, locked, to a person who may see it."""
    found = await PendingActionRepository(tx).get(action_id)
    federations = person.federations(*_CONFIRMING)
    hidden = federations is not None and found.federation_id not in federations
    if hidden or (found.federation_id is None and changes.EVERYBODY not in person.grants):
        raise no_such("pending action", action_id)
    return found


async def _check_requester(tx: Transaction, found: PendingAction) -> None:
    """Raise Forbidden where the person who asked may no longer do this."""
    try:
        await _may(tx, await _person(tx, found.requested_by), found.action, found.subject)
    except (Forbidden, NotFound):
        said = f"{found.requester} asked for this, and may no longer do it: withdraw it, and ask for it yourself."
        raise Forbidden(said) from None


async def _check_not_about(tx: Transaction, person: Principal, found: PendingAction) -> None:
    """Raise NotOneself where the person would keep a token that another wants to revoke."""
    about = (await AccountRepository(tx).token(found.subject)).user_id if found.action == "token.revoke" else None
    if about == person.user_id:
        raise changes.NotOneself("Another administrator decides about your token.")


async def _person(tx: Transaction, user_id: str) -> Principal:
    user = await AccountRepository(tx).user(user_id)
    return Principal(user.id, user.name, tuple(Grant(Role(each.role), each.federation_id) for each in user.roles))


async def _may(tx: Transaction, person: Principal, action: Action, subject: str) -> _Subject:
    """Return what the change is about; raises what the person is refused for."""
    accounts = AccountRepository(tx)
    if action == "site.suspend":
        site = await SiteRepository(tx).get(subject)
        check_scopes(person.scopes, "POST", "/v1/sites/{site_id}/suspension")
        person.check(Role.OWNER, federation_id=site.federation_id, hidden=no_such("site", subject))
        return _Subject(site.name, site.federation_id)
    if action == "token.revoke":
        changes.check_people(person)
        token = await accounts.token(subject)
        return _Subject(f"{token.name} of {(await accounts.user(token.user_id)).name}", None)
    changes.check_another(person, subject)
    return _Subject((await accounts.user(subject)).name, None)


def _checked(action: Action, data: Mapping[str, Any]) -> dict[str, object]:
    """Return the change's details: roles for `user.roles`, nothing for the others."""
    if action != "user.roles":
        if data:
            raise Invalid(f"{action} takes no data.")
        return {}
    try:
        return {"roles": [role.model_dump() for role in _roles(data)]}
    except ValidationError as error:
        raise Invalid('user.roles takes data: {"roles": [{"role": …, "federation_id": …}]}.') from error


def _roles(data: Mapping[str, Any]) -> Sequence[RoleView]:
    if set(data) != {"roles"} or not isinstance(data["roles"], list) or len(data["roles"]) > _MOST_ROLES:
        raise Invalid('user.roles takes data: {"roles": [{"role": …, "federation_id": …}]}.')
    return _ROLES.validate_python(data["roles"])


async def _suspend(tx: Transaction, person: Principal, subject: str, _data: Mapping[str, Any]) -> None:
    await suspend_site(tx, person, subject)


async def _revoke_user(tx: Transaction, person: Principal, subject: str, _data: Mapping[str, Any]) -> None:
    await changes.revoke_user(tx, person, subject)


async def _revoke_token(tx: Transaction, person: Principal, subject: str, _data: Mapping[str, Any]) -> None:
    await changes.revoke_token(tx, person, subject)


async def _set_roles(tx: Transaction, person: Principal, subject: str, data: Mapping[str, Any]) -> None:
    await changes.set_roles(tx, person, subject, _roles(data))


_APPLY: Mapping[Action, Callable[[Transaction, Principal, str, Mapping[str, Any]], Awaitable[None]]] = {
    "site.suspend": _suspend,
    "user.revoke": _revoke_user,
    "user.roles": _set_roles,
    "token.revoke": _revoke_token,
}
