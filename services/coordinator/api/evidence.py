"""Evidence, for checking a round or version without trusting any service, and privacy datasheets of versions."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from undersong.services.coordinator.api.access import Id, Reader
from undersong.services.coordinator.api.access import Use as UseCasesUse
from undersong.services.coordinator.auditing import Auditing, NoEvidence
from undersong.services.coordinator.datasheets import Datasheets, NoDatasheet
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.views.privacy import SpentView, spent_view
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from undersong.shared.transparency.collecting import PartsUnusable
from undersong.shared.transparency.datasheet import SignedDatasheet
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.transparency.ledger_heads import LoggedLedgerHead
from undersong.shared.web.paging import After, Limit, Listing
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1")
Subject = Annotated[
    str, Path(pattern=r"^(rnd|ver)_[0-9A-Za-z_]{1,60}$", description="A round or a version.", examples=["rnd_01k5"])
]


async def auditing(request: Request) -> Auditing:
    """Return the running service's use cases for auditors."""
    found = getattr(request.app.state, "auditing", None)
    if not isinstance(found, Auditing):
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


async def datasheets(request: Request) -> Datasheets:
    """Return the running service's use cases for datasheets."""
    found = getattr(request.app.state, "datasheets", None)
    if not isinstance(found, Datasheets):
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


Use = Annotated[Auditing, Depends(auditing)]
Sheets = Annotated[Datasheets, Depends(datasheets)]
Version = Annotated[
    str, Path(pattern=r"^ver_[0-9A-Za-z_]{1,60}$", description="A model version.", examples=["ver_01k5"])
]


@router.get(
    "/evidence/{subject}",
    tags=["evidence"],
    response_class=Response,
    responses={
        200: {"model": Evidence, "description": "A file for `undersong verify`, in its one form."},
        **problems(Unauthenticated, Forbidden, NoEvidence, PartsUnusable, PartyRefused, PartyAway),
    },
)
async def get_evidence(subject: Subject, person: Reader, use: Use) -> Response:
    """Everything that is needed to check a round, and the version that came of it, offline."""
    evidence = await use.evidence(person, subject)
    return Response(evidence.pack(), media_type="application/json")


@router.get(
    "/versions/{version_id}/datasheet",
    tags=["evidence"],
    responses=problems(Unauthenticated, Forbidden, NoDatasheet, PartyRefused, PartyAway),
)
async def get_datasheet(version_id: Version, person: Reader, sheets: Sheets) -> SignedDatasheet:
    """Return the version's privacy datasheet, made now and signed by the coordinator."""
    return await sheets.datasheet(person, version_id)


@router.get("/jobs/{job_id}/privacy", tags=["jobs"], responses=problems(Unauthenticated, Forbidden, NotFound))
async def get_spent(job_id: Id, person: Reader, sheets: Sheets) -> SpentView:
    """Return what a job's opened sums cost in privacy so far: the platform's own account beside owners' ledgers."""
    account = await sheets.account(person, job_id)
    return await asyncio.to_thread(spent_view, job_id, account.opened, account.exact, account.costs)


@router.get(
    "/sites/{site_id}/ledger-heads",
    tags=["evidence"],
    responses=problems(Unauthenticated, Forbidden, NotFound, PartyRefused, PartyAway),
)
async def get_ledger_heads(
    site_id: Id, person: Reader, use: Use, cases: UseCasesUse, limit: Limit = 100, after: After = None
) -> Listing[LoggedLedgerHead]:
    """Return the heads of a site's privacy ledger in the transparency log, in its order, as the site signed them."""
    site = await cases.sites.get(person, site_id)
    page = await use.ledger_heads(site.federation_id, site.id, limit, after)
    return Listing(items=list(page.items), next=page.next)
