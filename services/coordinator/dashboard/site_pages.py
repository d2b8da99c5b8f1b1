"""The page of sites: how they are, and the forms that invite, suspend and resume them."""

from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import StringConstraints, TypeAdapter, ValidationError

from undersong.services.coordinator.dashboard import session
from undersong.services.coordinator.dashboard.member_view import SiteAct
from undersong.services.coordinator.dashboard.paging import PageNumber, part_of
from undersong.services.coordinator.dashboard.rendering import HEADERS
from undersong.services.coordinator.dashboard.visits import PageRoute, Visit, Visitor
from undersong.services.coordinator.domain.parts import NewName
from undersong.services.coordinator.views.members import SiteView
from undersong.services.coordinator.views.membership import NewInvitationView
from undersong.shared.errors import Invalid

router = APIRouter(route_class=PageRoute)
SITES_SHOWN: Final = 50
_NAME: TypeAdapter[str] = TypeAdapter(NewName)
_TOKEN: TypeAdapter[str] = TypeAdapter(Annotated[str, StringConstraints(pattern=r"^use_[A-Za-z0-9_-]{20,100}$")])


@router.get("/sites")
async def sites_page(visitor: Visitor, page: PageNumber = 1) -> Response:
    """Return the sites and how they are, so many on a page."""
    sites, comparisons = await visitor.view.sites(), await visitor.view.comparisons()
    members, (shown, more) = await visitor.view.members.page(), part_of(sites, page, SITES_SHOWN)
    values = {"sites": shown, "more": more, "page": page, "comparisons": comparisons, "members": members}
    return visitor.show("sites.html", "Sites", **values)


@router.get("/data")
async def data_page(visitor: Visitor) -> Response:
    """Return the data sets as sites declare them, side by side."""
    return visitor.show("data.html", "Sites", data=await visitor.view.members.data())


@router.post("/sites/invitations")
async def invite_new_site(request: Request, visitor: Visitor) -> Response:
    """Make a site and show its enrolment token, this once."""
    form = await _checked(request, visitor)
    try:
        name = _NAME.validate_python(form.get("name", "").strip())
        owner = _NAME.validate_python(form.get("owner", "").strip() or name)
    except ValidationError as error:
        said = "; ".join(str(each["msg"]) for each in error.errors())
        raise Invalid(f"A site and its owner have names of 1 to 200 letters: {said}") from error
    return _invited(visitor, *await visitor.view.members.invite_new(form.get("federation", "")[:64], name, owner))


@router.post("/sites/{site_id}/invitations")
async def invite_site_again(site_id: str, request: Request, visitor: Visitor) -> Response:
    """Show a new enrolment token for a site that lost its key or its token."""
    await _checked(request, visitor)
    return _invited(visitor, *await visitor.view.members.invite(site_id))


@router.post("/sites/{site_id}/kit")
async def start_kit(site_id: str, request: Request, visitor: Visitor) -> Response:
    """Return the start kit around a token that was shown just now: the form sends it back, for it is stored nowhere."""
    form = await _checked(request, visitor)
    try:
        told = {"id": "", "site_id": site_id, "token": _TOKEN.validate_python(form.get("token", ""))}
        told |= {"expires_at": form.get("expires_at", ""), "needs_approval": form.get("needs_approval", "true")}
        invitation = NewInvitationView.model_validate(told)
    except ValidationError as error:
        raise Invalid("The form holds no enrolment token: invite the site again.") from error
    kit = await visitor.view.members.kit(invitation)
    headers = {**HEADERS, "content-disposition": f'attachment; filename="{kit.ascii_name}"'}
    return Response(kit.archive(), media_type="application/gzip", headers=headers)


@router.post("/sites/{site_id}/{act}")
async def steer_site(site_id: str, act: SiteAct, request: Request, visitor: Visitor) -> Response:
    """Suspend or resume, then show the sites again."""
    await _checked(request, visitor)
    done = await visitor.view.members.steer_site(site_id, act)
    return RedirectResponse(f"{session.PATH}/{'sites' if done else 'people'}", 303, HEADERS)


async def _checked(request: Request, visitor: Visit) -> Mapping[str, str]:
    form = await session.form_of(request)
    visitor.session.check(form)
    return form


def _invited(visitor: Visit, site: SiteView, invitation: NewInvitationView) -> Response:
    return visitor.show("invited.html", "Sites", site=site, invitation=invitation)
