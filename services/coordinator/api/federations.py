"""Federations and their sites, as people manage them."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from undersong.services.coordinator.api.access import Admin, Id, Owner, Reader, Use
from undersong.services.coordinator.domain.parts import Name, NewName
from undersong.services.coordinator.domain.two_persons import SecondPersonNeeded
from undersong.services.coordinator.leases import SiteUnknown
from undersong.services.coordinator.repository.sites import NameTaken, SiteFilter
from undersong.services.coordinator.views.jobs import ExclusionView
from undersong.services.coordinator.views.members import ComparisonView, FederationView, SiteView
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated
from undersong.shared.ids import SiteId
from undersong.shared.web.access import SiteParty
from undersong.shared.web.idempotency import IdempotencyMismatch, IdempotentOnce
from undersong.shared.web.paging import After, ByTimeOrName, Limit, Listing, NamePart
from undersong.shared.web.problems import problems
from undersong.shared.wire.profiles import SiteProfile

router = APIRouter(prefix="/v1")
_PEOPLE = problems(Unauthenticated, Forbidden, NotFound)


class NewFederation(BaseModel):
    """A federation to be."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "heart"}]})

    name: NewName


class NewSite(BaseModel):
    """A site to be; `owner` is the organisation behind it."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "cleveland", "owner": "Cleveland Clinic"}]}
    )

    name: NewName
    owner: NewName


class Exclusions(BaseModel):
    """Jobs that go on without a site."""

    items: list[ExclusionView]


@router.post(
    "/federations",
    status_code=201,
    tags=["federations"],
    responses=problems(Unauthenticated, Forbidden, NameTaken, IdempotencyMismatch),
)
async def create_federation(body: NewFederation, person: Admin, use: Use, once: IdempotentOnce) -> FederationView:
    """Make a federation (admin of all federations)."""
    return await use.federations.create(person, body.name, once)


@router.get("/federations", tags=["federations"], responses=problems(Unauthenticated, Forbidden))
async def list_federations(
    person: Reader,
    use: Use,
    name: NamePart = None,
    sort: ByTimeOrName = "created",
    limit: Limit = 100,
    after: After = None,
) -> Listing[FederationView]:
    """Return the federations in which the caller has a role."""
    page = await use.federations.list(person, limit, after, name=name, sort=sort)
    return Listing(items=list(page.items), next=page.next)


@router.get("/federations/{federation_id}", tags=["federations"], responses=_PEOPLE)
async def get_federation(federation_id: Id, person: Reader, use: Use) -> FederationView:
    """Return one federation."""
    return await use.federations.get(person, federation_id)


@router.get("/federations/{federation_id}/comparison", tags=["federations"], responses=_PEOPLE)
async def compare_data_set(
    federation_id: Id, person: Reader, use: Use, dataset: Annotated[Name, Query(description="The data set's name.")]
) -> ComparisonView:
    """Compare how the federation's sites declare a data set: types, categories, image shapes and channels."""
    return await use.sites.compare(person, federation_id, dataset)


@router.post(
    "/federations/{federation_id}/sites",
    status_code=201,
    tags=["sites"],
    responses=problems(Unauthenticated, Forbidden, NotFound, NameTaken, IdempotencyMismatch),
)
async def create_site(federation_id: Id, body: NewSite, person: Admin, use: Use, once: IdempotentOnce) -> SiteView:
    """Register a site (admin). Its agent then enrols at keys under the site's id."""
    return await use.sites.create(person, federation_id, body.name, body.owner, once)


@router.get("/sites", tags=["sites"], responses=problems(Unauthenticated, Forbidden))
async def list_sites(
    person: Reader,
    use: Use,
    federation_id: Annotated[str | None, Query(max_length=64)] = None,
    name: NamePart = None,
    suspended: bool | None = None,
    sort: ByTimeOrName = "created",
    limit: Limit = 100,
    after: After = None,
) -> Listing[SiteView]:
    """Return the sites of the caller's federations."""
    page = await use.sites.list(person, limit, after, SiteFilter(federation_id, name, suspended, sort))
    return Listing(items=list(page.items), next=page.next)


@router.get("/sites/{site_id}", tags=["sites"], responses=_PEOPLE)
async def get_site(site_id: Id, person: Reader, use: Use) -> SiteView:
    """Return one site."""
    return await use.sites.get(person, site_id)


@router.put("/sites/self/profile", tags=["agents"], responses=problems(Unauthenticated, Forbidden, SiteUnknown))
async def put_profile(body: SiteProfile, site: SiteParty, use: Use) -> SiteView:
    """Return an agent tells its recipes, the shape of its data sets and its machine (signed by the site)."""
    return await use.sites.tell_profile(SiteId(site.name), site.federation_id, body)


@router.get("/sites/self/exclusions", tags=["agents"], responses=problems(Unauthenticated, Forbidden))
async def get_exclusions(site: SiteParty, use: Use) -> Exclusions:
    """Return the running jobs in whose later rounds the site has no part, and why (signed by the site)."""
    return Exclusions(items=list(await use.sites.exclusions(SiteId(site.name))))


@router.post(
    "/sites/{site_id}/suspension",
    tags=["sites"],
    responses=problems(Unauthenticated, Forbidden, NotFound, SecondPersonNeeded),
)
async def suspend_site(site_id: Id, person: Owner, use: Use) -> SiteView:
    """Give the site no tasks any more and reclaim what it holds (owner). Idempotent."""
    return await use.sites.suspend(person, site_id)


@router.delete("/sites/{site_id}/suspension", tags=["sites"], responses=_PEOPLE)
async def readmit_site(site_id: Id, person: Owner, use: Use) -> SiteView:
    """Let a suspended site back (owner)."""
    return await use.sites.readmit(person, site_id)
