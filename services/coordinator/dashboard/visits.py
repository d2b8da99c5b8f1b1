"""One request of a signed-in person, and the kind of route that answers refusals as pages."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from undersong.services.coordinator.dashboard import session
from undersong.services.coordinator.dashboard.rendering import HEADERS, page
from undersong.services.coordinator.dashboard.view_model import Dashboard, ViewModel, dashboard_of
from undersong.shared.errors import Invalid, Refusal

_FAULTS: Final = 5  # of an address, on the page that says so


class SignedOut(Exception):
    """The request has no valid session."""


class PageRoute(APIRoute):
    """Answers refusals as pages: these routes are for people."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's handler with refusals rendered."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except SignedOut:
                return _to_sign_in(request)
            except RequestValidationError as error:
                said = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()[:_FAULTS])
                return _message(Invalid(said))
            except Refusal as refusal:
                return _message(refusal)

        return answer


def _message(refusal: Refusal) -> Response:
    told = {"title": refusal.title(), "detail": refusal.detail, "back": session.PATH}
    return page("message.html", refusal.status, told)


Board = Annotated[Dashboard, Depends(dashboard_of)]


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a signed-in person."""

    view: ViewModel
    session: session.Session
    board: Dashboard
    now: datetime
    here: str

    def show(self, template: str, tab: str, **values: object) -> Response:
        """Render a page for this person."""
        common = {"tab": tab, "person": self.view.name, "csrf": self.session.csrf, "now": self.now}
        return page(template, 200, {**common, "here": self.here, "origin": self.board.origin, **values})


async def visit(request: Request, board: Board) -> Visit:
    """Return the signed-in person; raises SignedOut."""
    now = board.clock()
    found = jar_of(board).read(request, now)
    if found is None or await board.limiter.ended(found.id):
        raise SignedOut
    view = await board.source.view(found.token)
    if view is None:
        raise SignedOut
    return Visit(view, found, board, now, request.url.path)


def jar_of(board: Dashboard) -> session.Jar:
    """Return the keeper of this dashboard's cookies."""
    return session.Jar(board.sealer, board.secure)


Visitor = Annotated[Visit, Depends(visit)]


def _to_sign_in(request: Request) -> Response:
    if request.headers.get("hx-request"):  # a part of a page renews itself: load the whole page again
        return Response(status_code=401, headers={**HEADERS, "HX-Refresh": "true"})
    if request.url.path.endswith("/stream"):
        return Response(status_code=401, headers=HEADERS)
    query = f"?{request.url.query}" if request.url.query else ""
    wanted = request.url.path + query if request.method == "GET" else session.PATH
    return RedirectResponse(f"{session.PATH}/login?next={quote(wanted)}", 303, HEADERS)
