"""Who takes part, as told: federations and their sites, people with their roles and tokens."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from undersong.services.coordinator.domain.columns import compare
from undersong.services.coordinator.domain.sites import SiteFacts, alike_columns, lacks_dataset, schema_of, sights_of
from undersong.services.coordinator.repository.accounts import Token, User
from undersong.services.coordinator.repository.sites import Federation, Site
from undersong.services.coordinator.views import View
from undersong.shared.ids import SiteId
from undersong.shared.names import Sights
from undersong.shared.wire.columns import Agreement, Column
from undersong.shared.wire.profiles import SiteProfile


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

    model_config = ConfigDict(frozen=True, extra="forbid")  # people may send it, too
    role: Literal["admin", "scientist", "owner", "auditor"]
    federation_id: str | None = None


class ColumnComparison(View):
    """One column over the sites that have the data set."""

    name: str
    state: Literal["same", "matched", "partial", "different"] = Field(
        description="matched: listed in another order, and matched by text; partial: some sites have no such column"
    )
    agreed: Column | None = Field(description="The form to which every site maps its own.")
    declared: dict[str, Column] = Field(description="What each site declares, by its name.")
    missing: list[str] = Field(description="The sites that have the data set without this column.")
    faults: list[str] = Field(description="Why the sites' columns cannot be matched, and what to do.")
    notes: list[str] = Field(description="What was matched by text.")


class ComparisonView(View):
    """A data set as the sites of a federation declare it; only what their profiles say, never a value."""

    federation_id: str
    dataset: str
    sites: list[str] = Field(description="The active sites that have it.")
    absent: dict[str, str] = Field(description="The federation's other sites, and why each cannot take part.")
    labels: dict[str, str | None] = Field(description="The label that each site declares.")
    matches: bool = Field(description="Whether all sites have every column, and mean the same by it.")
    columns: list[ColumnComparison]


class UserView(View):
    """A person, or a program that acts for one."""

    id: str
    name: str
    roles: list[RoleView]
    created_at: datetime
    issuer: str | None = Field(
        default=None, description="Who signs the person on, and gives the roles by groups; null: tokens alone."
    )
    revoked_at: datetime | None = None


class TokenView(View):
    """An API token, without the token itself; `scopes` of null: all that the user may do."""

    id: str
    user_id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    scopes: list[str] | None = Field(default=None, examples=[["jobs:read"]])
    sign_on: bool = Field(default=False, description="Whether a sign-on made it, for one session.")
    last_used_at: datetime | None = Field(default=None, description="To the minute; null: never.")


class NewTokenView(TokenView):
    """A token that was just made: `token` is shown here and never again."""

    token: str


class IntrospectionView(View):
    """What another service may know of a token."""

    active: bool
    user_id: str | None = None
    name: str | None = None
    roles: list[RoleView] = Field(default=[])
    scopes: list[str] | None = None


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
    return UserView(
        id=user.id,
        name=user.name,
        roles=roles,
        created_at=user.created_at,
        issuer=user.issuer,
        revoked_at=user.revoked_at,
    )


def token_view(token: Token) -> TokenView:
    """As told."""
    return TokenView(
        id=token.id,
        user_id=token.user_id,
        name=token.name,
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
        scopes=None if token.scopes is None else list(token.scopes),
        sign_on=token.sign_on,
        last_used_at=token.last_used_at,
    )


def comparison_view(federation_id: str, dataset: str, sites: Sequence[SiteFacts]) -> ComparisonView:
    """As told; `sites` are all of the federation."""
    absent = {site.name: reason for site in sites if (reason := lacks_dataset(site, dataset)) is not None}
    holders = [site for site in sites if site.name not in absent]
    names = [site.name for site in holders]
    sights = sights_of(dataset, holders)
    columns = [_compared(found, holders, sights) for found in compare(dataset, holders)]
    labels = {site.name: schema_of(site, dataset).label for site in holders}
    return ComparisonView(
        federation_id=federation_id,
        dataset=dataset,
        sites=names,
        absent=absent,
        labels=labels,
        matches=len(set(labels.values())) == 1 and all(column.state in ("same", "matched") for column in columns),
        columns=columns,
    )


def _compared(found: Agreement, sites: Sequence[SiteFacts], sights: Mapping[SiteId, Sights]) -> ColumnComparison:
    without = [site for site in sites if site.name not in found.declared]
    missing = [site.name for site in without]
    alike = alike_columns(found.name, without, sights)
    return ColumnComparison(
        name=found.name,
        state="different" if found.faults else "partial" if without else "matched" if found.notes else "same",
        agreed=found.agreed,
        declared=dict(found.declared),
        missing=missing,
        faults=list(found.faults),
        notes=[*found.notes, *([f"{found.name!r} is missing at {', '.join(missing)}{alike}"] if alike else [])],
    )
