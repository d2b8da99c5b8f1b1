"""Users, their roles and API tokens. A token is shown once; only its hash is stored."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from undersong.services.coordinator.repository import accounts as store
from undersong.services.coordinator.repository.accounts import AccountRepository, Token, User
from undersong.services.coordinator.repository.audit_log import note
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.views.members import (
    IntrospectionView,
    NewTokenView,
    RoleView,
    TokenView,
    UserView,
    token_view,
    user_view,
)
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import FieldError, Forbidden, Invalid, NotFound, no_such
from undersong.shared.files import read_text
from undersong.shared.identity.authority import write_private
from undersong.shared.identity.sealing import Sealer
from undersong.shared.ids import TokenId, UserId, new_id
from undersong.shared.web.access import Grant, Principal, Role, new_token, token_hash
from undersong.shared.web.answers import Answered
from undersong.shared.web.idempotency import Once
from undersong.shared.web.scopes import covers

FIRST_ADMIN: Final = "admin"
ADMIN_TOKEN_FILE: Final = "admin-token"  # noqa: S105  (a file's name)
_PLACE: Final = ("idempotency", "token", "body")
_PEOPLE: Final = Grant(Role.ADMIN, None)


class ScopesExceeded(Forbidden):
    """A token cannot make one that may do more than itself."""


class OutlivesSignOn(Forbidden):
    """A token that is made in a sign-on's session ends with the session."""


@dataclass(frozen=True, slots=True)
class TokenPlan:
    """A token to be: without `scopes`, for all that its user may; without `expires_in_s`, until it is revoked."""

    name: str
    expires_in_s: int | None = None
    scopes: tuple[str, ...] | None = None


class Accounts:
    """What people do with accounts, and the lookup of tokens."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database, self._sealer = database, sealer

    async def lookup(self, token: str) -> Principal | None:
        """Return the person whose valid token this is."""

        async def work(tx: Transaction) -> tuple[User, Token] | None:
            return await AccountRepository(tx).holder(token_hash(token), await tx.now())

        found = await self._database.read("token.lookup", work)
        if found is None:
            return None
        user, held = found
        grants = tuple(Grant(Role(g.role), g.federation_id) for g in user.roles)
        scopes = None if held.scopes is None else frozenset(held.scopes)
        return Principal(user.id, user.name, grants, scopes, held.expires_at, held.sign_on)

    async def introspect(self, token: str) -> IntrospectionView:
        """Return what another service may know of a token."""
        person = await self.lookup(token)
        if person is None:
            return IntrospectionView(active=False)
        roles = [RoleView(role=grant.role.value, federation_id=grant.federation_id) for grant in person.grants]
        scopes = None if person.scopes is None else sorted(person.scopes)
        return IntrospectionView(active=True, user_id=person.user_id, name=person.name, roles=roles, scopes=scopes)

    async def me(self, person: Principal) -> UserView:
        """Return the caller's own account."""
        return await self._database.read("user.me", lambda tx: _view(tx, person.user_id))

    async def create_user(self, person: Principal, name: str, roles: Sequence[RoleView], once: Once) -> UserView:
        """Return a new user; who administers one federation gives roles in that one only."""
        for role in roles:
            _may_grant(person, role.federation_id)

        async def work(tx: Transaction) -> UserView:
            await _check_federations(tx, roles)
            grants = {store.StoredGrant(role.role, role.federation_id) for role in roles}
            user = User(UserId(new_id("usr")), name, tuple(sorted(grants, key=repr)), await tx.now())
            await AccountRepository(tx).add_user(user)
            for at in sorted({role.federation_id for role in roles}, key=str):
                given = sorted(role.role for role in roles if role.federation_id == at)
                await note(tx, person, "user.create", user.id, at, name=name, roles=given)
            return user_view(user)

        return await self._database.run("user.create", once(work))

    async def users(self, person: Principal, limit: int, after: str | None) -> Page[UserView]:
        """Return all users; for admins."""
        _may_grant(person, None)

        async def work(tx: Transaction) -> Page[UserView]:
            return (await AccountRepository(tx).users(limit, after)).map(user_view)

        return await self._database.read("users.list", work)

    async def create_token(self, person: Principal, plan: TokenPlan, user_id: str | None, once: Once) -> NewTokenView:
        """Return a token for oneself, or, by an admin, for another.

        A token with scopes makes tokens within them. What a sign-on's token makes for the same person ends with it:
        raises OutlivesSignOn for one that would last longer. With an Idempotency-Key the token is kept sealed in the
        stored answer, so that a repeated request shows it.
        """
        owner = user_id or person.user_id
        if owner != person.user_id:
            _may_grant(person, None)

        async def work(tx: Transaction) -> NewTokenView:
            user, now = await AccountRepository(tx).user(owner), await tx.now()
            own = person.sign_on and owner == person.user_id
            end = _end_of(plan, now, person.expires_at if own else None)
            made = await insert_token(tx, user.id, plan.name, end, _scopes_of(plan, person.scopes), sign_on=own)
            await note(tx, person, "token.create", made.id, name=plan.name, user=user.name)
            return made.model_copy(update={"token": self._sealer.seal(made.token.encode(), *_PLACE).hex()})

        try:
            sealed = await self._database.run("token.create", once(work))
        except Answered as answer:
            sealed = TypeAdapter(NewTokenView).validate_json(answer.body)
        token = self._sealer.open(bytes.fromhex(sealed.token), *_PLACE).decode()
        return sealed.model_copy(update={"token": token})

    async def tokens(self, person: Principal, user_id: str | None, limit: int, after: str | None) -> Page[TokenView]:
        """One's own tokens; an admin's look at those of another."""
        owner = user_id or person.user_id
        if owner != person.user_id:
            _may_grant(person, None)

        async def work(tx: Transaction) -> Page[TokenView]:
            return (await AccountRepository(tx).tokens(owner, limit, after)).map(token_view)

        return await self._database.read("tokens.list", work)

    async def revoke_token(self, person: Principal, token_id: str) -> None:
        """Revoke one's own token, or, by an admin, any. Idempotent."""

        async def work(tx: Transaction) -> None:
            accounts = AccountRepository(tx)
            token = await accounts.token(token_id)
            if token.user_id != person.user_id and _PEOPLE not in person.grants:
                raise no_such("token", token_id)
            if token.revoked_at is None:
                await note(tx, person, "token.revoke", token.id, name=token.name, user_id=token.user_id)
            await accounts.revoke_token(token_id, await tx.now())

        await self._database.run("token.revoke", work)

    async def end_sign_on(self, token: str) -> None:
        """Revoke the token if a sign-on made it; others are left as they are. Idempotent."""

        async def work(tx: Transaction) -> None:
            await AccountRepository(tx).revoke_digest(token_hash(token), await tx.now())

        await self._database.run("sign_on.end", work)

    async def bootstrap(self, folder: Path) -> Path:
        """Make the first admin and write a token for it to ``admin-token`` (0600); a file that works is left alone."""
        file = folder / ADMIN_TOKEN_FILE
        if file.exists():
            person = await self.lookup(read_text(file).strip())
            if person is not None:
                return file

        async def work(tx: Transaction) -> str:
            accounts = AccountRepository(tx)
            user = await accounts.user_named(FIRST_ADMIN)
            if user is None:
                grants = (store.StoredGrant(Role.ADMIN.value, None),)
                user = User(UserId(new_id("usr")), FIRST_ADMIN, grants, await tx.now())
                await accounts.add_user(user)
            return (await insert_token(tx, user.id, "bootstrap", None)).token

        token = await self._database.run("account.bootstrap", work)
        _write_token(file, token)
        return file


async def insert_token(
    tx: Transaction,
    user_id: UserId,
    name: str,
    expires_at: datetime | None,
    scopes: tuple[str, ...] | None = None,
    *,
    sign_on: bool = False,
) -> NewTokenView:
    """Store a new token's digest and return the token, in the caller's transaction."""
    now, secret = await tx.now(), new_token()
    token = Token(TokenId(new_id("tok")), user_id, name, now, expires_at, None, scopes, sign_on)
    await AccountRepository(tx).add_token(token, token_hash(secret))
    return NewTokenView(**token_view(token).model_dump(), token=secret)


def _end_of(plan: TokenPlan, now: datetime, latest: datetime | None) -> datetime | None:
    """Return when the token ends: as asked, and not after `latest`, which is the default where there is one."""
    if plan.expires_in_s is None:
        return latest
    end = now + timedelta(seconds=plan.expires_in_s)
    if latest is not None and end > latest:
        raise OutlivesSignOn(
            f"Your session ends at {latest:%Y-%m-%d %H:%M} UTC, and tokens that you make in it end with it. "
            "An administrator makes tokens for programs: undersong token create NAME."
        )
    return end


def _scopes_of(plan: TokenPlan, limit: Collection[str] | None) -> tuple[str, ...] | None:
    """Return the token's scopes; those of the maker's token where none are named."""
    if limit is None:
        return None if plan.scopes is None else tuple(sorted(set(plan.scopes)))
    wanted = sorted(set(limit if plan.scopes is None else plan.scopes))
    beyond = [scope for scope in wanted if not covers(limit, scope)]
    if beyond:
        raise ScopesExceeded(
            f"Your token is for {', '.join(sorted(limit))}, and cannot make one for {', '.join(beyond)}. Use a token "
            "without scopes."
        )
    return tuple(wanted)


def _write_token(file: Path, token: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_private(file, token.encode() + b"\n")


async def _view(tx: Transaction, user_id: str) -> UserView:
    return user_view(await AccountRepository(tx).user(user_id))


async def _check_federations(tx: Transaction, roles: Sequence[RoleView]) -> None:
    sites, unknown = SiteRepository(tx), []
    for at, role in enumerate(roles):
        if role.federation_id is not None:
            try:
                await sites.federation(role.federation_id)
            except NotFound:
                unknown.append(FieldError(f"/roles/{at}/federation_id", "there is no such federation"))
    if unknown:
        raise Invalid("A role names a federation that is not there.", errors=unknown)


def _may_grant(person: Principal, federation_id: str | None) -> None:
    """Only who administers all federations gives roles in all of them."""
    allowed = Grant(Role.ADMIN, federation_id) in person.grants or _PEOPLE in person.grants
    if not allowed:
        raise Forbidden("this needs the role admin" + ("" if federation_id else " in all federations"))
