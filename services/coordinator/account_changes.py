"""Changes of users, roles and tokens within a transaction: by one person, or by two (`two_persons.py`)."""

from collections.abc import Sequence

from undersong.services.coordinator.repository.accounts import AccountRepository, StoredGrant
from undersong.services.coordinator.repository.audit_log import note
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.views.members import RoleView
from undersong.shared.database import Transaction
from undersong.shared.errors import Conflict, FieldError, Forbidden, Invalid, NotFound, no_such
from undersong.shared.web.access import Grant, Principal, Role

EVERYBODY = Grant(Role.ADMIN, None)
"""Who administers all federations, and so all people."""


class NotOneself(Conflict):
    """An account is revoked, and its roles are changed, by another administrator."""


def check_people(person: Principal) -> None:
    """Raise Forbidden unless the person administers all federations."""
    if EVERYBODY not in person.grants:
        raise Forbidden("this needs the role admin in all federations")


def check_another(person: Principal, user_id: str) -> None:
    """Raise Forbidden, or NotOneself: so the last administrator stays."""
    check_people(person)
    if person.user_id == user_id:
        raise NotOneself("Another administrator does this to your account.")


async def check_federations(tx: Transaction, roles: Sequence[RoleView]) -> None:
    """Raise Invalid for roles in federations that do not exist."""
    sites, unknown = SiteRepository(tx), []
    for at, role in enumerate(roles):
        if role.federation_id is not None:
            try:
                await sites.federation(role.federation_id)
            except NotFound:
                unknown.append(FieldError(f"/roles/{at}/federation_id", "there is no such federation"))
    if unknown:
        raise Invalid("A role names a federation that is not there.", errors=unknown)


async def revoke_token(tx: Transaction, person: Principal, token_id: str) -> None:
    """Revoke one's own token, or, by an admin, any; a second time changes nothing."""
    accounts = AccountRepository(tx)
    token = await accounts.token(token_id)
    if token.user_id != person.user_id and EVERYBODY not in person.grants:
        raise no_such("token", token_id)
    if token.revoked_at is None:
        await note(tx, person, "token.revoke", token.id, name=token.name, user_id=token.user_id)
    await accounts.revoke_token(token_id, await tx.now())


async def revoke_user(tx: Transaction, person: Principal, user_id: str) -> None:
    """Revoke a user with all tokens and roles; a second time changes nothing."""
    check_another(person, user_id)
    accounts = AccountRepository(tx)
    user = await accounts.user(user_id)
    if await accounts.revoke_user(user_id, await tx.now()):
        had = [f"{role.role} of {role.federation_id or 'all'}" for role in user.roles]
        await note(tx, person, "user.revoke", user.id, name=user.name, roles=had)


async def set_roles(tx: Transaction, person: Principal, user_id: str, roles: Sequence[RoleView]) -> None:
    """Give a user exactly these roles."""
    check_another(person, user_id)
    await check_federations(tx, roles)
    accounts = AccountRepository(tx)
    user = await accounts.user(user_id)
    if user.revoked_at is not None:
        raise Conflict(f"The user {user.name} was revoked, and gets no role.")
    grants = sorted({StoredGrant(role.role, role.federation_id) for role in roles}, key=repr)
    if tuple(grants) != tuple(sorted(user.roles, key=repr)):
        await accounts.replace_grants(user_id, grants)
        given = [f"{role.role} of {role.federation_id or 'all'}" for role in grants]
        await note(tx, person, "user.roles", user.id, name=user.name, roles=given)
