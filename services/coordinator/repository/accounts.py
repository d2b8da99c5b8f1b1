"""Users, their roles, and API tokens by digest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, or_, select, true, update
from sqlalchemy.exc import IntegrityError

from undersong.services.coordinator.repository.sites import NameTaken, check_apart
from undersong.services.coordinator.tables import GrantRow, TokenRow, UserRow
from undersong.shared.database import Page, Transaction, ordering, page
from undersong.shared.errors import no_such
from undersong.shared.ids import TokenId, UserId

EVERYWHERE = "*"


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """A role in one federation, or everywhere (None)."""

    role: str
    federation_id: str | None


@dataclass(frozen=True, slots=True)
class User:
    """A person, or a program that acts for one."""

    id: UserId
    name: str
    roles: tuple[StoredGrant, ...]
    created_at: datetime
    issuer: str | None = None
    subject: str | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """What may be told of an API token after it was shown once."""

    id: TokenId
    user_id: UserId
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    scopes: tuple[str, ...] | None = None
    sign_on: bool = False
    last_used_at: datetime | None = None


class AccountRepository:
    """Users and tokens in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def add_user(self, user: User) -> None:
        """Insert; raises `NameTaken`, also where another name looks the same."""
        await check_apart(self._tx, select(UserRow.name), user.name)
        try:
            async with self._session.begin_nested():
                await self._session.execute(
                    insert(UserRow).values(
                        id=user.id,
                        name=user.name,
                        created_at=user.created_at,
                        issuer=user.issuer,
                        subject=user.subject,
                    )
                )
        except IntegrityError as error:
            raise NameTaken(f"Choose another name: there is a user {user.name!r} already.") from error
        await self._add_grants(user.id, user.roles)

    async def _add_grants(self, user_id: str, grants: Iterable[StoredGrant]) -> None:
        for grant in grants:
            await self._session.execute(
                insert(GrantRow).values(
                    user_id=user_id, role=grant.role, federation_id=grant.federation_id or EVERYWHERE
                )
            )

    async def replace_grants(self, user_id: str, grants: Iterable[StoredGrant]) -> None:
        """Give a user exactly these roles."""
        await self._session.execute(delete(GrantRow).where(GrantRow.user_id == user_id))
        await self._add_grants(user_id, grants)

    async def signed_on(self, issuer: str, subject: str) -> User | None:
        """Load by the name that an issuer has for a person, locked: of two sign-ons at once one waits."""
        named = select(UserRow).where(UserRow.issuer == issuer, UserRow.subject == subject)
        row = await self._session.scalar(named.with_for_update())
        return (await self._with_roles([row]))[0] if row else None

    async def user(self, user_id: str) -> User:
        """Load; raises NotFound."""
        row = await self._session.get(UserRow, user_id)
        if row is None:
            raise no_such("user", user_id)
        return (await self._with_roles([row]))[0]

    async def user_named(self, name: str) -> User | None:
        """Load by name."""
        row = await self._session.scalar(select(UserRow).where(UserRow.name == name))
        return (await self._with_roles([row]))[0] if row else None

    async def users(
        self, limit: int, after: str | None, *, name: str | None = None, sort: str = "created"
    ) -> Page[User]:
        """Return a page of users that have a part of the name, by `created` or `name`."""
        query = select(UserRow)
        if name is not None:
            query = query.where(UserRow.name.icontains(name, autoescape=True))
        by, falling = ordering(sort, {"name": UserRow.name})
        found = await page(self._session, query, UserRow.id, limit, after, descending=falling, by=by)
        return Page(await self._with_roles(found.items), found.next)

    async def add_token(self, token: Token, digest: str) -> None:
        """Insert."""
        await self._session.execute(
            insert(TokenRow).values(
                id=token.id,
                user_id=token.user_id,
                name=token.name,
                digest=digest,
                created_at=token.created_at,
                expires_at=token.expires_at,
                scopes=None if token.scopes is None else list(token.scopes),
                sign_on=token.sign_on,
            )
        )

    async def token(self, token_id: str) -> Token:
        """Load; raises NotFound."""
        row = await self._session.get(TokenRow, token_id)
        if row is None:
            raise no_such("token", token_id)
        return _token(row)

    async def tokens(
        self, user_id: str | None, limit: int, after: str | None, *, name: str | None = None, sort: str = "created"
    ) -> Page[Token]:
        """Return a page of tokens, of one user or of all, that have a part of the name, by `created` or `name`."""
        seen = true() if user_id is None else TokenRow.user_id == user_id
        query = select(TokenRow).where(seen)
        if name is not None:
            query = query.where(TokenRow.name.icontains(name, autoescape=True))
        by, falling = ordering(sort, {"name": TokenRow.name})
        found = page(self._session, query, TokenRow.id, limit, after, descending=falling, by=by, within=seen)
        return (await found).map(_token)

    async def revoke_token(self, token_id: str, now: datetime) -> None:
        """Revoke; a second time changes nothing."""
        await self._session.execute(
            update(TokenRow).where(TokenRow.id == token_id, TokenRow.revoked_at.is_(None)).values(revoked_at=now)
        )

    async def note_use(self, token_id: str, now: datetime) -> None:
        """Note that a token was used."""
        await self._session.execute(update(TokenRow).where(TokenRow.id == token_id).values(last_used_at=now))

    async def revoke_user(self, user_id: str, now: datetime) -> bool:
        """Revoke a user with all tokens and roles; False when that was done before."""
        mark = update(UserRow).where(UserRow.id == user_id, UserRow.revoked_at.is_(None)).values(revoked_at=now)
        if (await self._session.execute(mark.returning(UserRow.id))).first() is None:
            return False
        mine = update(TokenRow).where(TokenRow.user_id == user_id, TokenRow.revoked_at.is_(None))
        await self._session.execute(mine.values(revoked_at=now))
        await self.replace_grants(user_id, ())
        return True

    async def revoke_sign_ons(self, user_id: str, now: datetime) -> None:
        """Revoke all that sign-ons made for a user."""
        await self._session.execute(
            update(TokenRow)
            .where(TokenRow.user_id == user_id, TokenRow.sign_on, TokenRow.revoked_at.is_(None))
            .values(revoked_at=now)
        )

    async def revoke_digest(self, digest: str, now: datetime) -> None:
        """Revoke the token of this digest if a sign-on made it."""
        await self._session.execute(
            update(TokenRow)
            .where(TokenRow.digest == digest, TokenRow.sign_on, TokenRow.revoked_at.is_(None))
            .values(revoked_at=now)
        )

    async def prune_sign_ons(self, ended_before: datetime) -> None:
        """Delete tokens of sign-ons that ended before."""
        await self._session.execute(delete(TokenRow).where(TokenRow.sign_on, TokenRow.expires_at < ended_before))

    async def holder(self, digest: str, now: datetime) -> tuple[User, Token] | None:
        """Return a valid token and whose it is."""
        found = await self._session.execute(
            select(UserRow, TokenRow)
            .join(TokenRow, TokenRow.user_id == UserRow.id)
            .where(
                TokenRow.digest == digest,
                TokenRow.revoked_at.is_(None),
                UserRow.revoked_at.is_(None),
                or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now),
            )
        )
        row = found.first()
        return ((await self._with_roles([row[0]]))[0], _token(row[1])) if row else None

    async def _with_roles(self, rows: Sequence[UserRow]) -> list[User]:
        ids = [row.id for row in rows]
        grants = list(await self._session.scalars(select(GrantRow).where(GrantRow.user_id.in_(ids))))
        return [_user(row, [grant for grant in grants if grant.user_id == row.id]) for row in rows]


def _user(row: UserRow, grants: Sequence[GrantRow]) -> User:
    roles = sorted((grant.role, grant.federation_id) for grant in grants)
    return User(
        id=UserId(row.id),
        name=row.name,
        roles=tuple(StoredGrant(role, None if where == EVERYWHERE else where) for role, where in roles),
        created_at=row.created_at,
        issuer=row.issuer,
        subject=row.subject,
        revoked_at=row.revoked_at,
    )


def _token(row: TokenRow) -> Token:
    return Token(
        id=TokenId(row.id),
        user_id=UserId(row.user_id),
        name=row.name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        scopes=None if row.scopes is None else tuple(row.scopes),
        sign_on=row.sign_on,
        last_used_at=row.last_used_at,
    )
