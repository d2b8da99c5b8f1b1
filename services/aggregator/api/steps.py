"""The HTTP face of a round's steps: for engines that need more than the upload."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from undersong.services.aggregator.api.rounds import Coordinator, RoundPath, RoundsNeeded, RoundState, round_state
from undersong.services.aggregator.domain.refusals import (
    BodyLost,
    DealerAtFault,
    NotInCohort,
    RoundClosed,
    RoundUnknown,
    SiteFellOut,
    StepClosed,
    StepDiffers,
    StepNotOpen,
    StepUnknown,
)
from undersong.services.aggregator.steps.exchange import MAX_MESSAGE, Steps
from undersong.shared.errors import Forbidden, LengthRequired, TooLarge, Unauthenticated, Unavailable
from undersong.shared.ids import SiteId
from undersong.shared.web.access import SiteParty
from undersong.shared.web.body import DigestMismatch, receive_whole
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1", tags=["steps"])

StepPath = Annotated[str, Path(pattern=r"^[a-z]{1,32}$", examples=["advertise"])]
WaitQuery = Annotated[float, Query(ge=0, le=30)]
_MEDIA_TYPE: Final = "application/octet-stream"
_BINARY: Final[dict[str, Any]] = {_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_MESSAGE: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "description": "The engine's message, at most 16 MiB.", "content": _BINARY}
}


class LostSites(BaseModel):
    """Sites whose task has failed or expired: the round no longer waits for them."""

    model_config = ConfigDict(extra="forbid")
    sites: list[SiteId] = Field(max_length=100_000)


async def _steps(request: Request) -> Steps:
    found: Steps | None = getattr(request.app.state, "steps", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


StepsNeeded = Annotated[Steps, Depends(_steps)]


@router.put(
    "/rounds/{round_id}/steps/{step}",
    status_code=202,
    response_class=Response,
    openapi_extra=_MESSAGE,
    responses={
        200: {"content": _BINARY, "description": "Taken, and the step is closed: its answer for this site."},
        202: {"description": "Taken; the step is still open."},
        **problems(
            Unauthenticated,
            Forbidden,
            NotInCohort,
            RoundUnknown,
            StepUnknown,
            StepDiffers,
            StepNotOpen,
            StepClosed,
            SiteFellOut,
            DealerAtFault,
            RoundClosed,
            LengthRequired,
            TooLarge,
            DigestMismatch,
        ),
    },
)
async def say(
    round_id: RoundPath, step: StepPath, site: SiteParty, steps: StepsNeeded, request: Request, wait_s: WaitQuery = 0
) -> Response:
    """Give a site's message to a step, once, and wait up to `wait_s` for the answer. Identical bytes at every retry."""
    message, stopping = receive_whole(request, MAX_MESSAGE), getattr(request.app.state, "stopping", None)
    found = await steps.say(round_id, site, step, message, wait_s, stopping)
    return Response(status_code=202) if found is None else Response(found, media_type=_MEDIA_TYPE)


@router.get(
    "/rounds/{round_id}/steps/{step}/answer",
    response_class=Response,
    responses={
        200: {"content": _BINARY, "description": "The engine's answer for this site."},
        204: {"description": "The step is still open: ask again."},
        **problems(
            Unauthenticated,
            Forbidden,
            NotInCohort,
            RoundUnknown,
            StepUnknown,
            SiteFellOut,
            DealerAtFault,
            RoundClosed,
            BodyLost,
        ),
    },
)
async def hear(
    round_id: RoundPath,
    step: StepPath,
    site: SiteParty,
    steps: StepsNeeded,
    request: Request,
    wait_s: WaitQuery = 0,
) -> Response:
    """Return the answer to a step, as soon as the step is closed; waits for that up to `wait_s` seconds."""
    stopping = getattr(request.app.state, "stopping", None)
    found = await steps.answer(round_id, site, step, wait_s, stopping)
    if found is None:
        return Response(status_code=204)
    return Response(found, media_type=_MEDIA_TYPE)


@router.post("/rounds/{round_id}/lost", responses=problems(Unauthenticated, Forbidden, RoundUnknown))
async def lose_sites(
    round_id: RoundPath, lost: LostSites, _: Coordinator, steps: StepsNeeded, rounds: RoundsNeeded
) -> RoundState:
    """Wait for these sites no longer. Idempotent."""
    await steps.lose(round_id, lost.sites)
    return round_state(await rounds.view(round_id))
