"""Sweeps: one job document with several changes, a job for each."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from undersong.services.coordinator.api.access import Id, Reader, Scientist, Use
from undersong.services.coordinator.domain.parts import NewName
from undersong.services.coordinator.domain.spec import TAG
from undersong.services.coordinator.domain.sweeps import MOST, SweepInvalid
from undersong.services.coordinator.peers.peer import PartyAway
from undersong.services.coordinator.sweeps import SweepNameTaken, TooManySweeps
from undersong.services.coordinator.views.sweeps import SweepItemView, SweepPlanView, SweepView
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated
from undersong.shared.web.idempotency import IdempotencyMismatch, IdempotentOnce
from undersong.shared.web.paging import After, ByTimeOrName, Limit, Listing, NamePart
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1", tags=["sweeps"])
_PEOPLE = problems(Unauthenticated, Forbidden, NotFound)
_JUDGING = problems(Unauthenticated, Forbidden, NotFound, SweepInvalid, PartyAway)
_MAKING = problems(
    Unauthenticated, Forbidden, NotFound, SweepInvalid, SweepNameTaken, TooManySweeps, PartyAway, IdempotencyMismatch
)


class SweepDraft(BaseModel):
    """A sweep to be judged."""

    model_config = ConfigDict(extra="forbid")

    name: NewName = Field(pattern=TAG, max_length=44, description="Its jobs get the tag `sweep:` and this name.")
    document: dict[str, Any] = Field(description="The job document, as for `POST /v1/jobs`.")
    changes: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MOST,
        description="For each job a JSON merge patch (RFC 7396) of the document.",
        examples=[[{"recipe": {"params": {"lr": 0.1}}}, {"recipe": {"params": {"lr": 0.3}}}]],
    )


class NewSweep(SweepDraft):
    """A sweep to be."""

    parallel: StrictInt = Field(2, ge=1, le=MOST, description="How many of its jobs run at a time.")


@router.post("/sweeps/validations", responses=_JUDGING)
async def validate_sweep(body: SweepDraft, person: Scientist, use: Use) -> SweepPlanView:
    """Judge a sweep without making it (scientist): every fault of every job, and what all cost in privacy."""
    return await use.sweeps.plan(person, body.name, body.document, body.changes)


@router.post("/sweeps", status_code=201, responses=_MAKING)
async def create_sweep(body: NewSweep, person: Scientist, use: Use, once: IdempotentOnce) -> SweepView:
    """Make a sweep (scientist); its jobs are submitted one after another, so many at a time as `parallel` says."""
    return await use.sweeps.create(person, body.name, body.document, body.changes, body.parallel, once)


@router.get("/federations/{federation_id}/sweeps", responses=_PEOPLE)
async def list_sweeps(
    federation_id: Id,
    person: Reader,
    use: Use,
    name: NamePart = None,
    sort: ByTimeOrName = "-created",
    limit: Limit = 100,
    after: After = None,
) -> Listing[SweepItemView]:
    """Return a federation's sweeps, newest first, or as asked for."""
    page = await use.sweeps.list(person, federation_id, limit, after, name=name, sort=sort)
    return Listing(items=list(page.items), next=page.next)


@router.get("/sweeps/{sweep_id}", responses=_PEOPLE)
async def get_sweep(sweep_id: Id, person: Reader, use: Use) -> SweepView:
    """Return a sweep with its jobs, what each varies, and its newest metrics."""
    return await use.sweeps.get(person, sweep_id)


@router.post("/sweeps/{sweep_id}/cancel", responses=problems(Unauthenticated, Forbidden, NotFound, IdempotencyMismatch))
async def cancel_sweep(sweep_id: Id, person: Scientist, use: Use, once: IdempotentOnce) -> SweepView:
    """Submit no further job of a sweep, and cancel those that have not ended (scientist). Idempotent."""
    return await use.sweeps.cancel(person, sweep_id, once)
