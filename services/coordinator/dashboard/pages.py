"""The dashboard's routes: each reads one view and renders one template."""

import math
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse

from undersong.services.coordinator.dashboard import (
    assets,
    job_pages,
    model_pages,
    people_pages,
    plot_files,
    schedule_pages,
    session,
    sign_on_pages,
    site_pages,
    submit_pages,
    sweep_pages,
)
from undersong.services.coordinator.dashboard.rendering import HEADERS
from undersong.services.coordinator.dashboard.sign_on_pages import sign_in_form
from undersong.services.coordinator.dashboard.view_model import ViewModel
from undersong.services.coordinator.dashboard.views import Measure
from undersong.services.coordinator.dashboard.visits import Board, PageRoute, Visitor, jar_of
from undersong.services.coordinator.domain.comparison import metric_names
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.peers.registry import ModelFacts
from undersong.shared.errors import Refusal, TooMany
from undersong.shared.sections import html_page

AUDITABLE: Final = re.compile(r"(rnd|ver)_[0-9A-Za-z_]{1,60}")
STREAM_FOR_S: Final = 600.0  # then the browser connects again, and a proxy's limits never surprise it
STREAM_LOOK_S: Final = 0.8  # how late a change may show when no notification comes
STREAM_QUIET_S: Final = 15.0  # a comment this often keeps proxies from closing the line


router = APIRouter(prefix=session.PATH, route_class=PageRoute, include_in_schema=False)
router.include_router(job_pages.router)
router.include_router(model_pages.router)
router.include_router(people_pages.router)
router.include_router(plot_files.router)
router.include_router(schedule_pages.router)
router.include_router(site_pages.router)
router.include_router(submit_pages.router)
router.include_router(sign_on_pages.router)
router.include_router(sweep_pages.router)


@router.get("/static/{name:path}")
async def static(request: Request, name: str) -> Response:
    """Return one file of the dashboard itself."""
    return assets.answer(request, name)


@router.get("/login")
async def sign_in_page(board: Board, next: str = session.PATH) -> Response:  # noqa: A002  (the query's name)
    """Return the sign-in form."""
    return sign_in_form(board, next)


@router.post("/login")
async def sign_in(request: Request, board: Board) -> Response:
    """Check the token and begin a session, always a new one: what the browser brought along ends here."""
    form = await session.form_of(request)
    token, wanted = form.get("token", "").strip(), session.own_path(form.get("next", ""))
    address = request.client.host if request.client else ""
    try:
        await board.limiter.admit(address)
    except TooMany as refusal:
        shown = sign_in_form(board, wanted, refusal.status, f"{refusal.title()} {refusal.detail}")
        shown.headers["Retry-After"] = str(math.ceil(refusal.retry_after_s or 1))
        return shown
    if not token or await board.source.view(token) is None:
        await board.limiter.failed(address)
        return sign_in_form(board, wanted, 401, "This token is not known, or it was revoked.")
    await board.limiter.succeeded(address)
    jar, now = jar_of(board), board.clock()
    if (earlier := jar.read(request, now)) is not None:
        await board.limiter.end(earlier.id, earlier.until)
    answer = RedirectResponse(wanted, 303, HEADERS)
    jar.write(answer, session.Session.begin(token, now))
    return answer


@router.post("/logout")
async def sign_out(request: Request, visitor: Visitor) -> Response:
    """End the session, here and wherever else its cookie may have got to."""
    visitor.session.check(await session.form_of(request))
    await visitor.board.limiter.end(visitor.session.id, visitor.session.until)
    page_after, sign_on = "login", visitor.board.sign_on
    if visitor.session.sign_on and sign_on is not None:
        await sign_on.accounts.end_sign_on(visitor.session.token)
        page_after = "signed-out"
    answer = RedirectResponse(f"{session.PATH}/{page_after}", 303, HEADERS)
    jar_of(visitor.board).empty(answer)
    return answer


@router.get("")
async def now_page(visitor: Visitor) -> Response:
    """Is anything stuck?"""
    return visitor.show("now.html", "Now", page=await visitor.view.now())


@router.get("/jobs/{job_id}")
async def job_page(job_id: str, visitor: Visitor) -> Response:
    """Return one job."""
    return visitor.show("job.html", "Jobs", page=await visitor.view.job(job_id))


@router.get("/jobs/{job_id}/metrics")
async def job_metrics(job_id: str, visitor: Visitor) -> Response:
    """Return the metric curves: `rounds` and, for each metric, a value or null for each round."""
    return JSONResponse(curves(await visitor.view.measures(job_id)), headers=HEADERS)


@router.post("/jobs/{job_id}/{action}")
async def steer_job(
    job_id: str, action: Literal["pause", "resume", "cancel"], request: Request, visitor: Visitor
) -> Response:
    """Pause, resume or cancel, then show the job again."""
    visitor.session.check(await session.form_of(request))
    await visitor.view.steer(job_id, action)
    return RedirectResponse(f"{session.PATH}/jobs/{quote(job_id)}", 303, HEADERS)


@router.get("/rounds/{round_id}")
async def round_page(round_id: str, visitor: Visitor) -> Response:
    """Return one round."""
    return visitor.show("round.html", "Jobs", page=await visitor.view.round(round_id))


@router.get("/models")
async def models_page(visitor: Visitor) -> Response:
    """Return the model versions and where each came from."""
    models: Sequence[ModelFacts] = ()
    fault = ""
    try:
        models = await visitor.view.models.all()
    except (PartyAway, PartyRefused) as error:
        fault = error.detail
    return visitor.show("models.html", "Models", models=models, fault=fault, releases=await visitor.view.releases())


@router.get("/audit")
async def audit_page(visitor: Visitor, subject: str = "") -> Response:
    """Return what the evidence about a round or version proves."""
    subject = subject.strip()
    if not subject:
        return visitor.show("audit.html", "Audit", subject="", page=None, fault=None)
    if not AUDITABLE.fullmatch(subject):
        fault = "A round's id begins with rnd_, a version's with ver_."
        return visitor.show("audit.html", "Audit", subject=subject, page=None, fault=fault)
    try:
        found = await visitor.view.audit(subject)
    except Refusal as refusal:
        return visitor.show("audit.html", "Audit", subject=subject, page=None, fault=refusal.detail)
    return visitor.show("audit.html", "Audit", subject=subject, page=found, fault=None)


@router.get("/operations")
async def operations_page(visitor: Visitor) -> Response:
    """Return what waits, what was given up, how the last day went."""
    return visitor.show("operations.html", "Operations", page=await visitor.view.operations())


@router.post("/operations/dead-tasks/{task_id}/{act}")
async def decide_on_dead_task(
    task_id: str, act: Literal["requeue", "discard"], request: Request, visitor: Visitor
) -> Response:
    """Requeue or discard a task that was given up, then show what is left."""
    visitor.session.check(await session.form_of(request))
    await visitor.view.decide(task_id, act)
    return RedirectResponse(f"{session.PATH}/operations", 303, HEADERS)


@router.get("/keys")
async def keys_page(visitor: Visitor) -> Response:
    """Return the inventory of keys."""
    return visitor.show("keys.html", "Keys", page=await visitor.view.keys())


@router.get("/privacy")
async def privacy_page(visitor: Visitor) -> Response:
    """Return what was released from which data, and what protects it."""
    return visitor.show("privacy.html", "Privacy", exposures=await visitor.view.privacy())


@router.get("/versions/{version_id}/datasheet")
async def datasheet_page(version_id: str, visitor: Visitor) -> Response:
    """Return the privacy datasheet of a version."""
    return visitor.show("datasheet.html", "Models", page=await visitor.view.datasheet(version_id))


@router.get("/versions/{version_id}/datasheet.{form}")
async def datasheet_file(version_id: str, form: Literal["json", "html"], visitor: Visitor) -> Response:
    """Return the privacy datasheet of a version as a file: signed JSON, or one HTML page without this frame."""
    found = await visitor.view.datasheet(version_id)
    headers = {**HEADERS, "content-disposition": f'attachment; filename="datasheet-{found.version_id}.{form}"'}
    if form == "json":
        return Response(found.document, media_type="application/json", headers=headers)
    return Response(html_page(found.title, found.sections), media_type="text/html", headers=headers)


@router.get("/stream")
async def stream(request: Request, visitor: Visitor) -> Response:
    """Server-sent events that only say that something changed; `Last-Event-ID` resumes."""
    seen = request.headers.get("last-event-id")

    async def gone() -> bool:
        stopping = getattr(request.app.state, "stopping", None)
        return (stopping is not None and stopping.is_set()) or await request.is_disconnected()

    events = changes(visitor.view, seen, gone)
    return StreamingResponse(events, media_type="text/event-stream", headers={**HEADERS, "X-Accel-Buffering": "no"})


async def changes(
    view: ViewModel, seen: str | None, gone: Callable[[], Coroutine[Any, Any, bool]], lasts_s: float = STREAM_FOR_S
) -> AsyncIterator[str]:
    """Say `changed` for each new pulse after `seen`, until the browser is gone or `lasts_s` is over."""
    waits = int(lasts_s / STREAM_LOOK_S)
    quiet = int(STREAM_QUIET_S / STREAM_LOOK_S)
    yield "retry: 2000\n\n"
    for turn in range(waits):
        pulse = await view.pulse()
        if seen is None:
            yield f"id: {pulse}\nevent: hello\ndata: \n\n"
        elif pulse != seen:
            yield f"id: {pulse}\nevent: changed\ndata: \n\n"
        elif turn % quiet == quiet - 1:
            yield ": still here\n\n"
        seen = pulse
        await view.wait(STREAM_LOOK_S)
        if await gone():
            return


def curves(measures: Sequence[Measure]) -> dict[str, object]:
    """Measures as parallel lists, in round order; what most people look for comes first, counts are left out."""
    by_round = {item.round_number: dict(item.values) for item in measures}  # a later attempt replaces an earlier one
    rounds = sorted(by_round)
    names = metric_names(by_round[number] for number in rounds)
    series = {name: [by_round[number].get(name) for number in rounds] for name in names}
    return {"rounds": rounds, "series": series}
