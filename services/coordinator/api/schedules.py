"""Schedules: job documents that are submitted again and again."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from undersong.services.coordinator.api.access import Id, Reader, Scientist, Use
from undersong.services.coordinator.domain.findings import JobInvalid
from undersong.services.coordinator.domain.parts import NewName
from undersong.services.coordinator.domain.schedules import ScheduleInvalid, Timetable
from undersong.services.coordinator.peers.peer import PartyAway
from undersong.services.coordinator.schedules import TooManySchedules
from undersong.services.coordinator.views.schedules import ScheduleView
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated
from undersong.shared.web.idempotency import IdempotencyMismatch, IdempotentOnce
from undersong.shared.web.paging import After, ByTimeOrName, Limit, Listing, NamePart
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1", tags=["schedules"])
_PEOPLE = problems(Unauthenticated, Forbidden, NotFound)
_ACTING = problems(Unauthenticated, Forbidden, NotFound, IdempotencyMismatch)
_MAKING = problems(
    Unauthenticated, Forbidden, NotFound, JobInvalid, ScheduleInvalid, TooManySchedules, PartyAway, IdempotencyMismatch
)


class NewSchedule(BaseModel):
    """A schedule to be."""

    model_config = ConfigDict(extra="forbid")

    document: dict[str, Any] = Field(description="The job document, as for `POST /v1/jobs`.")
    cron: str = Field(
        max_length=200, description="Minute, hour, day of month, month, day of week.", examples=["30 2 * * mon"]
    )
    timezone: str = Field("UTC", max_length=100, examples=["Europe/Berlin"])
    name: NewName | None = Field(None, description="By default that of the job document.")
    overlap: StrictBool = Field(False, description="Submit a job also while the one of the time before still runs.")


@router.post("/schedules", status_code=201, responses=_MAKING)
async def create_schedule(body: NewSchedule, person: Scientist, use: Use, once: IdempotentOnce) -> ScheduleView:
    """Submit a job at the times of a cron expression (scientist); the document is judged now, and again each time."""
    timetable = Timetable.parse(body.cron, body.timezone)
    return await use.schedules.create(person, body.document, timetable, once, name=body.name, overlap=body.overlap)


@router.get("/federations/{federation_id}/schedules", responses=_PEOPLE)
async def list_schedules(
    federation_id: Id,
    person: Reader,
    use: Use,
    name: NamePart = None,
    sort: ByTimeOrName = "created",
    limit: Limit = 100,
    after: After = None,
) -> Listing[ScheduleView]:
    """Return a federation's schedules."""
    page = await use.schedules.list(person, federation_id, limit, after, name=name, sort=sort)
    return Listing(items=list(page.items), next=page.next)


@router.get("/schedules/{schedule_id}", responses=_PEOPLE)
async def get_schedule(schedule_id: Id, person: Reader, use: Use) -> ScheduleView:
    """Return a schedule, its next times, and what came of the last."""
    return await use.schedules.get(person, schedule_id)


@router.post("/schedules/{schedule_id}/pause", responses=_ACTING)
async def pause_schedule(schedule_id: Id, person: Scientist, use: Use, once: IdempotentOnce) -> ScheduleView:
    """Submit no further job (scientist); one that runs goes on. Idempotent."""
    return await use.schedules.pause(person, schedule_id, once)


@router.post("/schedules/{schedule_id}/resume", responses=_ACTING)
async def resume_schedule(schedule_id: Id, person: Scientist, use: Use, once: IdempotentOnce) -> ScheduleView:
    """Submit jobs again from the next time on (scientist). Idempotent."""
    return await use.schedules.resume(person, schedule_id, once)


@router.delete("/schedules/{schedule_id}", status_code=204, responses=_PEOPLE)
async def delete_schedule(schedule_id: Id, person: Scientist, use: Use) -> Response:
    """Delete a schedule (scientist); its jobs stay. Idempotent."""
    await use.schedules.delete(person, schedule_id)
    return Response(status_code=204)
