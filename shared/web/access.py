"""Who asks, and whether he may: people by bearer token and role, parties by signature. Deny by default.

Routes take, as ``Annotated`` dependencies, `Caller` (a person), `SiteParty`, `Actor` (either kind),
``Depends(service_party("coordinator"))`` or ``Depends(require("scientist"))``.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Protocol

import httpx
from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from undersong.shared.clock import monotonic
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated, Unavailable, no_such
from undersong.shared.identity.verify import Party
from undersong.shared.web.observe import route_template
from undersong.shared.web.scopes import check_scopes

TOKEN_PREFIX: Final = "ust_"  # noqa: S105  (what tokens begin with, so that scanners and our logs know them)
_LONGEST_TOKEN: Final = 128
_CACHE_S: Final = 5.0
_CACHED: Final = 10_000


class TokenRefused(Unauthenticated):
    """The token is unknown, revoked or expired."""


class Role(StrEnum):
    """What a person may do; admin may do everything."""

    ADMIN = "admin"
    SCIENTIST = "scientist"
    OWNER = "owner"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True)
class Grant:
    """A role in one federation, or, with None, in all."""

    role: Role
    federation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """A person whose token was presented, and the token's limits.

    `scopes`: what it is for; None: all that the person may. `expires_at`: its end, if it has one. `sign_on`: whether a
    sign-on made it, so that what it makes for the person ends with it.
    """

    user_id: str
    name: str
    grants: tuple[Grant, ...]
    scopes: frozenset[str] | None = None
    expires_at: datetime | None = None
    sign_on: bool = False

    def may(self, *roles: Role, federation_id: str | None = None) -> bool:
        """Return whether one of the roles, or admin, is granted: in this federation, or anywhere when none is named."""
        wanted = {*roles, Role.ADMIN}
        return any(
            grant.role in wanted and (federation_id is None or grant.federation_id in (None, federation_id))
            for grant in self.grants
        )

    def check(self, *roles: Role, federation_id: str | None = None, hidden: NotFound | None = None) -> None:
        """Raise `hidden` where the person has no role in the federation at all, Forbidden where it is another role.

        `hidden` is the answer about a thing that does not exist (`undersong.shared.errors.no_such`).
        """
        if self.may(*roles, federation_id=federation_id):
            return
        if federation_id is not None and not self.may(*Role, federation_id=federation_id):
            raise hidden or no_such("federation", federation_id)
        raise Forbidden(f"this needs the role {' or '.join(sorted(role.value for role in roles or (Role.ADMIN,)))}")

    def federations(self, *roles: Role) -> frozenset[str] | None:
        """Return the federations in which one of the roles (any, when none is named) is granted; None for all of
        them.
        """
        wanted = {*(roles or Role), Role.ADMIN}
        found = [grant.federation_id for grant in self.grants if grant.role in wanted]
        return None if None in found else frozenset(name for name in found if name is not None)


class TokenDirectory(Protocol):
    """Knows people's tokens; the service puts one into ``app.state.tokens``."""

    async def lookup(self, token: str) -> Principal | None:
        """Return the person, or None when the token is unknown, revoked or expired."""


def new_token() -> str:
    """Return a fresh bearer token of 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """Return what is stored in place of a token: SHA-256 in hexadecimal.

    Tokens are random, so no salt or slow hash is due.
    """
    return hashlib.sha256(token.encode()).hexdigest()


_bearer = HTTPBearer(auto_error=False, description="A person's API token.")
_signature = APIKeyHeader(
    name="Signature",
    scheme_name="signature",
    auto_error=False,
    description="HTTP message signature (RFC 9421, Ed25519) by a certificate of the federation.",
)
Presented = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
_Signature = Annotated[str | None, Depends(_signature)]


async def caller(request: Request, credentials: Presented) -> Principal:
    """Return the person whose bearer token came with the request.

    Raises Unauthenticated or TokenRefused, and ScopeMissing where the token is not for this operation.
    """
    if credentials is None:
        raise Unauthenticated("a bearer token is needed")
    token = credentials.credentials
    directory: TokenDirectory | None = request.app.state.tokens
    if directory is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    principal = await directory.lookup(token) if 0 < len(token) <= _LONGEST_TOKEN and token.isascii() else None
    if principal is None:
        raise TokenRefused("the token is unknown, revoked or expired")
    request.state.principal = principal.user_id
    check_scopes(principal.scopes, request.method, route_template(request.scope))
    return principal


Caller = Annotated[Principal, Depends(caller)]


def require(*roles: Role | str) -> Callable[[Principal], Coroutine[Any, Any, Principal]]:
    """Return a dependency: the caller, who has one of the roles (or admin) in at least one federation.

    Which federation it must be is for the use case to check with `Principal.check`.
    """
    wanted = tuple(Role(role) for role in roles)

    async def granted(principal: Caller) -> Principal:
        principal.check(*wanted)
        return principal

    return granted


async def party(request: Request, _documented: _Signature = None) -> Party:
    """Return the site or service that signed the request."""
    found: Party | None = getattr(request.state, "party", None)
    if found is None:
        raise Unauthenticated("a signed request is needed")
    request.state.principal = found.subject.uri
    return found


async def site_party(signer: Annotated[Party, Depends(party)]) -> Party:
    """Return the site that signed the request."""
    if signer.subject.kind != "site":
        raise Forbidden("only a site may do this")
    return signer


AnyParty = Annotated[Party, Depends(party)]
SiteParty = Annotated[Party, Depends(site_party)]


def service_party(*names: str) -> Callable[[Party], Coroutine[Any, Any, Party]]:
    """Return a dependency: the request is signed by one of these services."""

    async def named(signer: AnyParty) -> Party:
        if signer.subject.kind != "service" or signer.subject.name not in names:
            raise Forbidden(f"only {' or '.join(names)} may do this")
        return signer

    return named


async def actor(request: Request, credentials: Presented, _documented: _Signature = None) -> Principal | Party:
    """Return a party if the request is signed, otherwise the person whose token it bears."""
    if getattr(request.state, "party", None) is not None:
        return await party(request)
    return await caller(request, credentials)


Actor = Annotated[Principal | Party, Depends(actor)]


class IntrospectionClient:
    """A `TokenDirectory` that asks the coordinator and remembers the answer for five seconds.

    `http` is a client for the coordinator that signs its requests (SigningAuth).
    """

    def __init__(self, http: httpx.AsyncClient, coordinator_url: str) -> None:
        self._http, self._url = http, f"{coordinator_url}/v1/introspections"
        self._known: dict[str, tuple[float, asyncio.Future[Principal | None]]] = {}

    async def lookup(self, token: str) -> Principal | None:
        """Return the person, or None; raises Unavailable when the coordinator cannot be asked."""
        key, now = token_hash(token), monotonic()
        entry = self._known.get(key)
        if entry is None or now - entry[0] > _CACHE_S:
            if len(self._known) >= _CACHED:
                self._known.clear()
            entry = (now, asyncio.ensure_future(self._ask(token)))
            self._known[key] = entry
        try:
            return await asyncio.shield(entry[1])
        except Exception:
            self._known.pop(key, None)  # a failure is not remembered as an answer
            raise

    async def _ask(self, token: str) -> Principal | None:
        try:
            response = await self._http.post(self._url, json={"token": token})
        except httpx.TransportError as error:
            raise Unavailable("the coordinator, which knows the tokens, cannot be reached", retry_after_s=1) from error
        if not response.is_success:
            raise Unavailable(f"the coordinator answered {response.status_code} about a token", retry_after_s=1)
        answer = response.json()
        if not answer["active"]:
            return None
        grants = tuple(Grant(Role(item["role"]), item["federation_id"]) for item in answer["roles"])
        scopes = answer.get("scopes")
        return Principal(answer["user_id"], answer["name"], grants, None if scopes is None else frozenset(scopes))
