"""The page of jobs that are submitted again and again."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from undersong.services.coordinator.dashboard import session
from undersong.services.coordinator.dashboard.rendering import HEADERS
from undersong.services.coordinator.dashboard.view_model import ScheduleAct
from undersong.services.coordinator.dashboard.visits import PageRoute, Visitor

router = APIRouter(route_class=PageRoute)


@router.get("/schedules")
async def schedules_page(visitor: Visitor) -> Response:
    """Return the schedules, their next times, and what came of the last."""
    return visitor.show("schedules.html", "Jobs", schedules=await visitor.view.schedules())


@router.post("/schedules/{schedule_id}/{act}")
async def steer_schedule(schedule_id: str, act: ScheduleAct, request: Request, visitor: Visitor) -> Response:
    """Pause, resume or delete a schedule, then show what is left."""
    visitor.session.check(await session.form_of(request))
    await visitor.view.steer_schedule(schedule_id, act)
    return RedirectResponse(f"{session.PATH}/schedules", 303, HEADERS)
