"""Sign-on at the dashboard: off to the issuer, back with a code, and to the page that was wanted.

The answer comes from another site, so it is a page that leads on by itself: only what our own page asks for carries the
session's cookie, which is `SameSite=Strict`.
"""

from typing import Final

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from undersong.services.coordinator.dashboard import session
from undersong.services.coordinator.dashboard.rendering import HEADERS, page
from undersong.services.coordinator.dashboard.view_model import Dashboard
from undersong.services.coordinator.dashboard.visits import Board, PageRoute, jar_of
from undersong.services.coordinator.sign_on import FLOW_LASTS, SignOn, mark_of
from undersong.shared.errors import NotFound, Refusal

CALLBACK: Final = f"{session.PATH}/sign-on/callback"
_MOST_FLOWS: Final = 8  # of one browser; the cookies of more would not fit into a request
_LONGEST: Final = 4096  # of one value in the issuer's answer
_SAID: Final = {
    "access_denied": "The issuer says that access was denied.",
    "login_required": "The issuer asks you to sign in there first.",
    "temporarily_unavailable": "The issuer is not available at the moment.",
}
router = APIRouter(route_class=PageRoute)
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def sign_in_form(board: Dashboard, wanted: str, status: int = 200, error: str | None = None) -> Response:
    """Return the sign-in page, with the issuer's name where one signs people on."""
    issuer = None if board.sign_on is None else board.sign_on.issuer.registration.issuer
    return page("login.html", status, {"next": session.own_path(wanted), "error": error, "issuer": issuer})


@router.get("/sign-on")
async def begin(request: Request, board: Board, next: str = session.PATH) -> Response:  # noqa: A002  (the query's name)
    """Send the browser to the issuer."""
    sign_on, wanted, jar = _sign_on(board), session.own_path(next), jar_of(board)
    try:
        url, flow, sealed = await sign_on.begin(board.origin + CALLBACK, wanted, board.clock())
    except Refusal as refusal:
        return sign_in_form(board, wanted, refusal.status, refusal.detail)
    answer = RedirectResponse(url, 303, HEADERS)
    begun = jar.flows(request)
    for mark in begun if len(begun) >= _MOST_FLOWS else ():
        jar.drop_flow(answer, mark)
    jar.keep_flow(answer, flow.mark, sealed, FLOW_LASTS)
    return answer


@router.get("/sign-on/callback")
async def finish(
    request: Request,
    board: Board,
    state: str = "",
    code: str = "",
    iss: str | None = None,
    error: str | None = None,
) -> Response:
    """Take the issuer's answer, begin a session, and lead on to the page that was wanted."""
    sign_on, jar, now = _sign_on(board), jar_of(board), board.clock()
    mark, wanted = mark_of(state), session.PATH
    try:
        flow = sign_on.opened(jar.flow(request, mark), state, now)
        wanted = flow.target
        if error is not None:
            await sign_on.issuer.check_answer(iss)
            said = _SAID.get(error, "The issuer did not sign you on.")
            answer = sign_in_form(board, wanted, 403, f"{said} Begin again.")
        else:
            address = request.client.host if request.client else ""
            made = await sign_on.finish(flow, code[:_LONGEST], iss, board.origin + CALLBACK, address)
            answer = page("signed-on.html", 200, {"target": session.own_path(wanted)})
            if (earlier := jar.read(request, now)) is not None:
                await board.limiter.end(earlier.id, earlier.until)
            jar.write(answer, session.Session.begin(made.token, now, sign_on=True))
    except Refusal as refusal:
        log.warning("sign_on.refused", reason=refusal.slug())
        answer = sign_in_form(board, wanted, refusal.status, refusal.detail)
    jar.drop_flow(answer, mark)
    return answer


@router.get("/signed-out")
async def signed_out(board: Board) -> Response:
    """Say that the session here is over, and how to end the issuer's."""
    try:
        url = await _sign_on(board).issuer.end_session_url(f"{board.origin}{session.PATH}/login")
    except Refusal:
        url = None
    return page("signed-out.html", 200, {"url": url})


def _sign_on(board: Dashboard) -> SignOn:
    if board.sign_on is None:
        raise NotFound("This platform has no sign-on: sign in with an API token.")
    return board.sign_on
