"""Invitations of sites, their certificates, and the log of what people changed."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from undersong.services.coordinator.api.access import Admin, Id, Reader
from undersong.services.coordinator.membership import Membership
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.views.membership import AuditEntryView, NewInvitationView, SiteCertificateView
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from undersong.shared.web.idempotency import IdempotentOnce
from undersong.shared.web.paging import AfterNumber, Limit, Listing
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1")
_ASKING_KEYS = problems(Unauthenticated, Forbidden, NotFound, PartyAway, PartyRefused)


class InvitationRequest(BaseModel):
    """How long the enrolment token is good."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"expires_in_s": 86400}]})
    expires_in_s: int = Field(86_400, ge=60, le=30 * 86_400, strict=True)


async def membership(request: Request) -> Membership:
    """Return the running service's use cases; raises Unavailable while it starts."""
    found = getattr(request.app.state, "membership", None)
    if not isinstance(found, Membership):
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


Use = Annotated[Membership, Depends(membership)]


@router.post("/sites/{site_id}/invitations", status_code=201, tags=["sites"], responses=_ASKING_KEYS)
async def invite_site(
    site_id: Id, body: InvitationRequest, person: Admin, use: Use, once: IdempotentOnce
) -> NewInvitationView:
    """Make a single-use enrolment token for a site, also for one that lost its key (admin). It is shown here alone."""
    return await use.invite(person, site_id, body.expires_in_s, once.key)


@router.get("/sites/{site_id}/certificates", tags=["sites"], responses=_ASKING_KEYS)
async def list_site_certificates(site_id: Id, person: Reader, use: Use) -> Listing[SiteCertificateView]:
    """Return a site's certificates with their ends, the last first."""
    return Listing(items=list(await use.certificates(person, site_id)), next=None)


@router.get("/audit-entries", tags=["accounts"], responses=problems(Unauthenticated, Forbidden))
async def list_audit_entries(
    person: Reader, use: Use, limit: Limit = 100, after: AfterNumber = None
) -> Listing[AuditEntryView]:
    """Return who changed what about sites, people and their rights, newest first (admin, auditor)."""
    page = await use.audit_log(person, limit, None if after is None else str(after))
    return Listing(items=list(page.items), next=page.next)
