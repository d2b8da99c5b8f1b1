"""Users, API tokens, and what the other services may ask about them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from undersong.services.coordinator.account_changes import NotOneself
from undersong.services.coordinator.accounts import OutlivesSignOn, ScopesExceeded, TokenPlan
from undersong.services.coordinator.api.access import Admin, Id, Use
from undersong.services.coordinator.domain.parts import NewName
from undersong.services.coordinator.domain.two_persons import OwnTokensOnly, SecondPersonNeeded
from undersong.services.coordinator.repository.sites import NameTaken
from undersong.services.coordinator.views.members import IntrospectionView, NewTokenView, RoleView, TokenView, UserView
from undersong.shared.errors import Forbidden, Invalid, NotFound, Unauthenticated
from undersong.shared.identity.verify import Party
from undersong.shared.web.access import Caller, service_party
from undersong.shared.web.idempotency import IdempotencyMismatch, IdempotentOnce
from undersong.shared.web.paging import After, ByTimeOrName, Limit, Listing, NamePart
from undersong.shared.web.problems import problems
from undersong.shared.web.scopes import SCOPES, Scope

router = APIRouter(prefix="/v1", tags=["accounts"])
_YEAR_S = 366 * 86_400


class NewUser(BaseModel):
    """A user to be, with roles."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "ada", "roles": [{"role": "scientist", "federation_id": None}]}]},
    )

    name: NewName
    roles: list[RoleView] = Field(min_length=1, max_length=100)


class NewToken(BaseModel):
    """A token to be; without `user_id`, for the caller; without `expires_in_s`, until it is revoked."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "laptop"}, {"name": "ci", "scopes": ["jobs:read"]}]}
    )

    name: NewName
    user_id: str | None = Field(default=None, max_length=64)
    expires_in_s: int | None = Field(default=None, ge=1, le=10 * _YEAR_S, strict=True)
    scopes: list[Scope] | None = Field(
        default=None,
        min_length=1,
        max_length=len(SCOPES),
        description="What it is for, below what its user may; writing includes reading; null: no limit, or that of the "
        "token that makes it.",
    )


class Roles(BaseModel):
    """All roles of a user."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"roles": [{"role": "auditor", "federation_id": None}]}]}
    )

    roles: list[RoleView] = Field(max_length=100)


class TokenQuestion(BaseModel):
    """A token that another service was shown."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"token": "ust_…"}]})

    token: str = Field(min_length=1, max_length=128)


@router.get("/me", responses=problems(Unauthenticated))
async def me(person: Caller, use: Use) -> UserView:
    """Return who the caller is."""
    return await use.accounts.me(person)


@router.post(
    "/users",
    status_code=201,
    responses=problems(Unauthenticated, Forbidden, NameTaken, Invalid, SecondPersonNeeded, IdempotencyMismatch),
)
async def create_user(body: NewUser, person: Admin, use: Use, once: IdempotentOnce) -> UserView:
    """Make a user (admin)."""
    return await use.accounts.create_user(person, body.name, body.roles, once)


@router.get("/users", responses=problems(Unauthenticated, Forbidden))
async def list_users(
    person: Admin,
    use: Use,
    name: NamePart = None,
    sort: ByTimeOrName = "created",
    limit: Limit = 100,
    after: After = None,
) -> Listing[UserView]:
    """Return all users (admin of all federations)."""
    page = await use.accounts.users(person, limit, after, name=name, sort=sort)
    return Listing(items=list(page.items), next=page.next)


@router.put(
    "/users/{user_id}/roles",
    responses=problems(Unauthenticated, Forbidden, NotFound, Invalid, NotOneself, SecondPersonNeeded),
)
async def set_roles(user_id: Id, body: Roles, person: Admin, use: Use) -> UserView:
    """Give another user exactly these roles (admin of all federations). A sign-on reads its groups' roles again."""
    return await use.accounts.set_roles(person, user_id, body.roles)


@router.delete(
    "/users/{user_id}",
    status_code=204,
    responses=problems(Unauthenticated, Forbidden, NotFound, NotOneself, SecondPersonNeeded),
)
async def revoke_user(user_id: Id, person: Admin, use: Use) -> Response:
    """Revoke another user with all tokens and roles (admin of all federations). Idempotent."""
    await use.accounts.revoke_user(person, user_id)
    return Response(status_code=204)


@router.post(
    "/tokens",
    status_code=201,
    responses=problems(
        Unauthenticated, Forbidden, ScopesExceeded, OutlivesSignOn, OwnTokensOnly, NotFound, IdempotencyMismatch
    ),
)
async def create_token(body: NewToken, person: Caller, use: Use, once: IdempotentOnce) -> NewTokenView:
    """Make a token for oneself, or, as an admin, for another user. It is shown here and never again."""
    plan = TokenPlan(body.name, body.expires_in_s, None if body.scopes is None else tuple(body.scopes))
    return await use.accounts.create_token(person, plan, body.user_id, once)


@router.get("/tokens", responses=problems(Unauthenticated, Forbidden))
async def list_tokens(
    person: Caller,
    use: Use,
    user_id: Annotated[str | None, Query(max_length=64)] = None,
    name: NamePart = None,
    sort: ByTimeOrName = "created",
    limit: Limit = 100,
    after: After = None,
) -> Listing[TokenView]:
    """Return the caller's tokens; an admin may ask for another user's."""
    page = await use.accounts.tokens(person, user_id, limit, after, name=name, sort=sort)
    return Listing(items=list(page.items), next=page.next)


@router.delete("/tokens/{token_id}", status_code=204, responses=problems(Unauthenticated, NotFound, SecondPersonNeeded))
async def revoke_token(token_id: Id, person: Caller, use: Use) -> Response:
    """Revoke a token: at once here, within five seconds at the other services. Idempotent."""
    await use.accounts.revoke_token(person, token_id)
    return Response(status_code=204)


@router.post("/introspections", responses=problems(Unauthenticated, Forbidden))
async def introspect(
    body: TokenQuestion,
    _service: Annotated[Party, Depends(service_party("aggregator", "registry", "keys"))],
    use: Use,
) -> IntrospectionView:
    """Whose token this is and which roles he has (signed by a service of the platform)."""
    return await use.accounts.introspect(body.token)
