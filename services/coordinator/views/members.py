"""Who takes part, as told: federations and their sites, people with their roles and tokens."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from services.coordinator.repository.accounts import Token, User
from services.coordinator.repository.sites import Federation, Site
from services.coordinator.views import View
from shared.wire.profiles import SiteProfile


class FederationView(View):
    """A federation."""

    id: str = Field(examples=["fed_01m0dwh5mdaecm6yfk3d8y9c8v"])
    name: str = Field(examples=["heart"])
    created_at: datetime


class SiteView(View):
    """A site; `online` says whether it was heard within the last lease period."""

    id: str = Field(examples=["site_01m0dwh5mdaecm6yfk3d8y9c8v"])
    federation_id: str
    name: str = Field(examples=["cleveland"])
    owner: str = Field(examples=["Cleveland Clinic"])
    state: Literal["active", "suspended"]
    online: bool
    last_seen_at: datetime | None
    profile: SiteProfile | None
    profile_at: datetime | None
    created_at: datetime


class RoleView(View):
    """A role in one federation, or in all (null)."""

    model_config = ConfigDict(frozen=True, extra="forbid")  # it is taken from people, too
    role: Literal["admin", "scientist", "owner", "auditor"]
    federation_id: str | None = None


class UserView(View):
    """A person, or a program that acts for one."""

    id: str
    name: str
    roles: list[RoleView]
    created_at: datetime


class TokenView(View):
    """An API token, without the token itself."""

    id: str
    user_id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewTokenView(TokenView):
    """A token that was just made: `token` is shown here and never again."""

    token: str


class IntrospectionView(View):
    """What another service may know of a token."""

    active: bool
    user_id: str | None = None
    name: str | None = None
    roles: list[RoleView] = Field(default=[])


def federation_view(federation: Federation) -> FederationView:
    """As told."""
    return FederationView(id=federation.id, name=federation.name, created_at=federation.created_at)


def site_view(site: Site, heard_since: datetime) -> SiteView:
    """As told; online when heard after `heard_since`."""
    return SiteView(
        id=site.id,
        federation_id=site.federation_id,
        name=site.name,
        owner=site.owner,
        state="suspended" if site.suspended else "active",
        online=site.last_seen_at is not None and site.last_seen_at >= heard_since,
        last_seen_at=site.last_seen_at,
        profile=site.profile,
        profile_at=site.profile_at,
        created_at=site.created_at,
    )


def user_view(user: User) -> UserView:
    """As told."""
    roles = [RoleView.model_validate({"role": g.role, "federation_id": g.federation_id}) for g in user.roles]
    return UserView(id=user.id, name=user.name, roles=roles, created_at=user.created_at)


def token_view(token: Token) -> TokenView:
    """As told."""
    return TokenView(
        id=token.id,
        user_id=token.user_id,
        name=token.name,
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
    )
