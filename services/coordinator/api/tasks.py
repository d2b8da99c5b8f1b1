"""The agents' side: leases, heartbeats, completions and failures. Every request is signed by the site."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from undersong.services.coordinator.api.access import Id, Use
from undersong.services.coordinator.domain.tasks import DigestDiffers, MetricsNotAsked, StaleLease
from undersong.services.coordinator.leases import Lease, SiteSuspended, SiteUnknown
from undersong.services.coordinator.repository import Overtaken
from undersong.services.coordinator.tasks import Failure
from undersong.services.coordinator.views.tasks import LeaseView, OrderView, TaskOutcomeView, lease_view
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated
from undersong.shared.ids import Digest, SiteId, TaskId
from undersong.shared.web.access import SiteParty
from undersong.shared.web.problems import problems
from undersong.shared.wire.forms import DigestText

router = APIRouter(prefix="/v1/tasks", tags=["agents"])
LONGEST_WAIT_S: Final = 30.0
_METRICS = problems(Unauthenticated, Forbidden, NotFound, StaleLease, MetricsNotAsked)
_REPORTS = problems(Unauthenticated, Forbidden, NotFound, StaleLease, DigestDiffers, Overtaken)
Token = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Ended(_Body):
    """A task whose update is at the aggregator; `digest` is that of the body in its receipt."""

    task_id: Id
    lease_token: Token
    digest: DigestText


class LeaseRequest(_Body):
    """How long to wait for a task, and which tasks the site is done with."""

    wait_s: float = Field(default=0.0, ge=0, le=LONGEST_WAIT_S, strict=True)
    completed: list[Ended] = Field(
        default=[], max_length=16, description="A task that is no longer awaited is passed over."
    )


class Heartbeat(_Body):
    """That the agent is at work, and how far."""

    lease_token: Token
    progress: float = Field(default=0.0, ge=0, le=1, strict=True)
    phase: str | None = Field(default=None, max_length=100, examples=["train"])


class CompletionBody(_Body):
    """That the update is at the aggregator; `digest` is that of the body in its receipt."""

    lease_token: Token
    digest: DigestText


class MetricsBody(_Body):
    """A site's own metrics by their names, in the clear."""

    lease_token: Token
    metrics: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")], Annotated[float, Field(strict=True)]
    ] = Field(max_length=40, examples=[{"examples": 412.0, "auc": 0.871}])


class FailureReport(_Body):
    """Why the site could not do the task; `trace` holds the traceback's last lines, without data."""

    lease_token: Token
    code: str = Field(pattern=r"^[a-z][a-z0-9-]{0,63}$", examples=["policy-refused"])
    message: str = Field(max_length=2000)
    trace: list[Annotated[str, StringConstraints(max_length=2000)]] = Field(default=[], max_length=40)
    retryable: bool = Field(
        default=False, strict=True, description="Whether the same site may succeed if it tries again."
    )


@router.post(
    "/leases",
    response_model=LeaseView,
    responses=problems(Unauthenticated, Forbidden, SiteSuspended, SiteUnknown, Overtaken)
    | {
        204: {
            "description": "No task now.",
            "headers": {"Next-Poll-S": {"description": "Seconds until the next poll.", "schema": {"type": "number"}}},
        }
    },
)
async def lease_task(body: LeaseRequest, request: Request, site: SiteParty, use: Use) -> Response:
    """Return the site's next task, waiting for one up to `wait_s`. A site that holds a live lease gets the same one
    again.

    First the tasks in `completed` are completed, as each would be by a request of its own.
    """
    site_id = SiteId(site.name)
    for ended in body.completed:
        with suppress(NotFound, StaleLease, DigestDiffers):
            await use.tasks.complete(site_id, TaskId(ended.task_id), ended.lease_token, Digest(ended.digest))
    lease = await _unless_gone(request, use.leases.lease(site_id, site.federation_id, body.wait_s))
    if lease is None:
        # After an empty long poll the next one follows at once; a short poll is asked to leave some time.
        pause = "1" if body.wait_s >= 1 and request.app.state.stopping.is_set() else "0" if body.wait_s >= 1 else "5"
        return Response(status_code=204, headers={"next-poll-s": pause})
    view = lease_view(lease, use.timing.lease_s, use.timing.heartbeat_s)
    return Response(view.model_dump_json(), media_type="application/json")


@router.post("/{task_id}/heartbeats", responses=_REPORTS)
async def heartbeat(task_id: Id, body: Heartbeat, site: SiteParty, use: Use) -> OrderView:
    """Extend the lease; the answer says whether to go on with the task or to abort it."""
    order = await use.tasks.heartbeat(SiteId(site.name), TaskId(task_id), body.lease_token, body.progress, body.phase)
    return OrderView(state="continue" if order.go_on else "abort", reason=order.reason, lease_s=use.timing.lease_s)


@router.post("/{task_id}/completions", responses=_REPORTS)
async def complete_task(task_id: Id, body: CompletionBody, site: SiteParty, use: Use) -> TaskOutcomeView:
    """Take note that the update is at the aggregator. The same digest again gets the same answer."""
    task = await use.tasks.complete(SiteId(site.name), TaskId(task_id), body.lease_token, Digest(body.digest))
    return TaskOutcomeView(task_id=task.id, state=task.state.value)


@router.put("/{task_id}/metrics", responses=_METRICS, status_code=204)
async def tell_metrics(task_id: Id, body: MetricsBody, site: SiteParty, use: Use) -> None:
    """Keep a site's own metrics of an evaluation that asks for them; the site's policy lets it tell them."""
    await use.tasks.take_metrics(SiteId(site.name), TaskId(task_id), body.lease_token, body.metrics)


@router.post("/{task_id}/failures", responses=_REPORTS)
async def fail_task(task_id: Id, body: FailureReport, site: SiteParty, use: Use) -> TaskOutcomeView:
    """Take note that the site could not do it. Where it may help, the task opens again, at most five times."""
    failure = Failure(body.code, body.message, tuple(body.trace), body.retryable)
    task = await use.tasks.fail(SiteId(site.name), TaskId(task_id), body.lease_token, failure)
    return TaskOutcomeView(task_id=task.id, state=task.state.value)


async def _unless_gone(request: Request, leasing: Coroutine[Any, Any, Lease | None]) -> Lease | None:
    """Wait for the lease, unless the client hangs up: a task must not be leased to a closed connection."""
    waiting = asyncio.create_task(leasing)
    hanging_up = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({waiting, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        hanging_up.cancel()


async def _hung_up(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
