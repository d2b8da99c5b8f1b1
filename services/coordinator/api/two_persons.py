"""Changes that take two persons: asked for, listed, confirmed and withdrawn."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from undersong.services.coordinator.account_changes import NotOneself
from undersong.services.coordinator.api.access import Id, Use
from undersong.services.coordinator.domain.two_persons import Action, ActionOver, RuleOff, SamePerson
from undersong.services.coordinator.views.two_persons import PendingActionView
from undersong.shared.errors import Forbidden, Invalid, NotFound, Unauthenticated
from undersong.shared.web.access import Principal, Role, require
from undersong.shared.web.idempotency import IdempotencyMismatch, IdempotentOnce
from undersong.shared.web.paging import After, Limit, Listing
from undersong.shared.web.problems import problems
from undersong.shared.wire.forms import OneLine

Steward = Annotated[Principal, Depends(require(Role.ADMIN, Role.OWNER))]
router = APIRouter(prefix="/v1/pending-actions", tags=["accounts"])
_EXAMPLE: Final[dict[str, JsonValue]] = {
    "action": "site.suspend",
    "subject": "site_01k5",
    "reason": "its key was stolen",
}


class ActionRequest(BaseModel):
    """A change to be; `data` has the `roles` of `user.roles`, and is empty for the others."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})
    action: Action
    subject: str = Field(min_length=1, max_length=64, description="The id of the site, user or token")
    data: dict[str, Any] = Field(default={}, max_length=1)
    reason: OneLine = Field(default="", max_length=200, description="For the second person")


@router.post(
    "",
    status_code=201,
    responses=problems(Unauthenticated, Forbidden, NotFound, Invalid, RuleOff, NotOneself, IdempotencyMismatch),
)
async def request_action(body: ActionRequest, person: Steward, use: Use, once: IdempotentOnce) -> PendingActionView:
    """Ask for a change that another person of the role confirms; what waits for the same is returned."""
    return await use.two_persons.request(person, body.action, body.subject, body.data, body.reason, once)


@router.get("", responses=problems(Unauthenticated, Forbidden))
async def list_pending_actions(
    person: Steward, use: Use, limit: Limit = 100, after: After = None
) -> Listing[PendingActionView]:
    """Return the changes that waited or wait, newest first (admin, owner)."""
    page = await use.two_persons.list(person, limit, after)
    return Listing(items=list(page.items), next=page.next)


@router.post(
    "/{action_id}/confirmation",
    responses=problems(Unauthenticated, Forbidden, NotFound, SamePerson, ActionOver, NotOneself),
)
async def confirm_action(action_id: Id, person: Steward, use: Use) -> PendingActionView:
    """Confirm what another person asked for: the change is made in the same transaction. Idempotent."""
    return await use.two_persons.confirm(person, action_id)


@router.delete("/{action_id}", responses=problems(Unauthenticated, Forbidden, NotFound, NotOneself))
async def withdraw_action(action_id: Id, person: Steward, use: Use) -> PendingActionView:
    """Withdraw a change that waits, or refuse it. Idempotent."""
    return await use.two_persons.withdraw(person, action_id)
