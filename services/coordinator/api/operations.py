"""The dead letters: tasks that were given up, and what people decide about them."""

from fastapi import APIRouter

from undersong.services.coordinator.api.access import Id, Reader, Scientist, Use
from undersong.services.coordinator.domain.tasks import TaskNotDead
from undersong.services.coordinator.operations import RoundNotCollecting
from undersong.services.coordinator.repository import Overtaken
from undersong.services.coordinator.views.tasks import DeadTaskView
from undersong.shared.errors import Forbidden, NotFound, Unauthenticated
from undersong.shared.web.idempotency import IdempotencyMismatch, IdempotentOnce
from undersong.shared.web.paging import After, Limit, Listing
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1/dead-tasks", tags=["operations"])
_ACTING = problems(
    Unauthenticated, Forbidden, NotFound, TaskNotDead, RoundNotCollecting, Overtaken, IdempotencyMismatch
)


@router.get("", responses=problems(Unauthenticated, Forbidden))
async def list_dead_tasks(person: Reader, use: Use, limit: Limit = 100, after: After = None) -> Listing[DeadTaskView]:
    """List tasks that were given up after five attempts and not yet requeued or discarded."""
    page = await use.operations.dead(person, limit, after)
    return Listing(items=list(page.items), next=page.next)


@router.post("/{task_id}/requeue", responses=_ACTING)
async def requeue_task(task_id: Id, person: Scientist, use: Use, once: IdempotentOnce) -> DeadTaskView:
    """Let the site try again (scientist), as long as the round still collects; the job's events name the person."""
    return await use.operations.act(person, task_id, "requeue", once)


@router.post("/{task_id}/discard", responses=_ACTING)
async def discard_task(task_id: Id, person: Scientist, use: Use, once: IdempotentOnce) -> DeadTaskView:
    """Put the task away (scientist); its last error stays with the round."""
    return await use.operations.act(person, task_id, "discard", once)
