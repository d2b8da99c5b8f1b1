"""Users, their roles and API tokens. A token is shown once; only its hash is stored."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from undersong.services.coordinator import account_changes as changes
from undersong.services.coordinator.domain.two_persons import (
    ONE_PERSON,
    OwnTokensOnly,
    SecondPersonNeeded,
    TwoPersonRule,
)
from undersong.services.coordinator.repository import accounts as store
from undersong.services.coordinator.repository.accounts import AccountRepository, Token, User
from undersong.services.coordinator.repository.audit_log import note
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
from undersong.shared.errors import Forbidden, Unavailable
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
_CONFIRMING: Final = ("admin", "owner")  # roles that may confirm what another person asks for
_USE_NOTED: Final = timedelta(minutes=1)  # how exactly a token's last use is known


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

    def __init__(self, database: Database, sealer: Sealer, rule: TwoPersonRule = ONE_PERSON) -> None:
        self._database, self._sealer, self._rule = database, sealer, rule

    async def lookup(self, token: str) -> Principal | None:
        """Return the person whose valid token this is."""

        async def work(tx: Transaction) -> tuple[User, Token, datetime] | None:
            now = await tx.now()
            found = await AccountRepository(tx).holder(token_hash(token), now)
            return None if found is None else (*found, now)

        found = await self._database.read("token.lookup", work)
        if found is None:
            return None
        user, held, now = found
        if held.last_used_at is None or now - held.last_used_at >= _USE_NOTED:
            with suppress(Unavailable):  # who may read may go on where nothing can be written
                await self._database.run("token.used", lambda tx: AccountRepository(tx).note_use(held.id, now))
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
        if self._rule.on and any(role.role in _CONFIRMING for role in roles):
            raise SecondPersonNeeded(
                "Make the user with another role; then `undersong user roles NAME --role …` asks for this one, and "
                "another administrator confirms it."
            )

        async def work(tx: Transaction) -> UserView:
            await changes.check_federations(tx, roles)
            grants = {store.StoredGrant(role.role, role.federation_id) for role in roles}
            user = User(UserId(new_id("usr")), name, tuple(sorted(grants, key=repr)), await tx.now())
            await AccountRepository(tx).add_user(user)
            for at in sorted({role.federation_id for role in roles}, key=str):
                given = sorted(role.role for role in roles if role.federation_id == at)
                await note(tx, person, "user.create", user.id, at, name=name, roles=given)
            return user_view(user)

        return await self._database.run("user.create", once(work))

    async def users(
        self, person: Principal, limit: int, after: str | None, *, name: str | None = None, sort: str = "created"
    ) -> Page[UserView]:
        """Return all users; for admins."""
        _may_grant(person, None)

        async def work(tx: Transaction) -> Page[UserView]:
            return (await AccountRepository(tx).users(limit, after, name=name, sort=sort)).map(user_view)

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
            if self._rule.on and owner != person.user_id and any(role.role in _CONFIRMING for role in user.roles):
                raise OwnTokensOnly(f"{user.name} makes it, signed in: undersong token create NAME --user {user.name}.")
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

    async def tokens(
        self,
        person: Principal,
        user_id: str | None,
        limit: int,
        after: str | None,
        *,
        name: str | None = None,
        sort: str = "created",
    ) -> Page[TokenView]:
        """One's own tokens; an admin's look at those of another."""
        owner = user_id or person.user_id
        if owner != person.user_id:
            _may_grant(person, None)

        async def work(tx: Transaction) -> Page[TokenView]:
            return (await AccountRepository(tx).tokens(owner, limit, after, name=name, sort=sort)).map(token_view)

        return await self._database.read("tokens.list", work)

    async def revoke_token(self, person: Principal, token_id: str) -> None:
        """Revoke one's own token, or, by an admin, any. Idempotent.

        Raises SecondPersonNeeded for another's where the two-person rule is on.
        """

        async def work(tx: Transaction) -> None:
            token = await AccountRepository(tx).token(token_id)
            if token.user_id != person.user_id and changes.EVERYBODY in person.grants and token.revoked_at is None:
                self._rule.check("token.revoke", token_id)
            await changes.revoke_token(tx, person, token_id)

        await self._database.run("token.revoke", work)

    async def end_sign_on(self, token: str) -> None:
        """Revoke the token if a sign-on made it; others are left as they are. Idempotent."""

        async def work(tx: Transaction) -> None:
            await AccountRepository(tx).revoke_digest(token_hash(token), await tx.now())

        await self._database.run("sign_on.end", work)

    async def revoke_user(self, person: Principal, user_id: str) -> None:
        """Revoke a user with all tokens and roles. Idempotent; raises NotOneself or SecondPersonNeeded."""
        changes.check_another(person, user_id)

        async def work(tx: Transaction) -> None:
            if (await AccountRepository(tx).user(user_id)).revoked_at is None:
                self._rule.check("user.revoke", user_id)
            await changes.revoke_user(tx, person, user_id)

        await self._database.run("user.revoke", work)

    async def set_roles(self, person: Principal, user_id: str, roles: Sequence[RoleView]) -> UserView:
        """Give a user exactly these roles. Idempotent; raises NotOneself or SecondPersonNeeded."""
        changes.check_another(person, user_id)

        async def work(tx: Transaction) -> UserView:
            await AccountRepository(tx).user(user_id)
            self._rule.check("user.roles", user_id)
            await changes.set_roles(tx, person, user_id, roles)
            tx.session.expire_all()
            return await _view(tx, user_id)

        return await self._database.run("user.roles", work)

    async def tokens_of_all(self, person: Principal, limit: int, after: str | None) -> Page[TokenView]:
        """Return everybody's tokens; for admins of all federations."""
        changes.check_people(person)

        async def work(tx: Transaction) -> Page[TokenView]:
            return (await AccountRepository(tx).tokens(None, limit, after)).map(token_view)

        return await self._database.read("tokens.all", work)

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


def _may_grant(person: Principal, federation_id: str | None) -> None:
    """Only who administers all federations gives roles in all of them."""
    allowed = Grant(Role.ADMIN, federation_id) in person.grants or changes.EVERYBODY in person.grants
    if not allowed:
        raise Forbidden("this needs the role admin" + ("" if federation_id else " in all federations"))
