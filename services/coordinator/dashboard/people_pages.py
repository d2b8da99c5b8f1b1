"""The page of people: their roles and tokens, what waits for a second person, and who changed what."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from undersong.services.coordinator.dashboard import session
from undersong.services.coordinator.dashboard.rendering import HEADERS
from undersong.services.coordinator.dashboard.visits import PageRoute, Visitor

router = APIRouter(route_class=PageRoute)


@router.get("/people")
async def people_page(visitor: Visitor) -> Response:
    """Return the users and tokens that the person may see."""
    return visitor.show("people.html", "People", page=await visitor.view.members.people())


@router.post("/people/{kind}/{subject}/revoke")
async def revoke(kind: Literal["users", "tokens"], subject: str, request: Request, visitor: Visitor) -> Response:
    """Revoke a user or a token, or ask for it, then show what is left."""
    visitor.session.check(await session.form_of(request))
    await visitor.view.members.revoke(kind, subject)
    return RedirectResponse(f"{session.PATH}/people", 303, HEADERS)


@router.post("/people/pending/{action_id}/{act}")
async def decide(action_id: str, act: Literal["confirm", "withdraw"], request: Request, visitor: Visitor) -> Response:
    """Confirm or withdraw what waits for a second person."""
    visitor.session.check(await session.form_of(request))
    await visitor.view.members.decide(action_id, act)
    return RedirectResponse(f"{session.PATH}/people", 303, HEADERS)
