"""Changes that take two persons, as told."""

from datetime import datetime
from typing import Any

from pydantic import Field

from undersong.services.coordinator.domain.two_persons import Action, ActionState, PendingAction
from undersong.services.coordinator.views import View


class PendingActionView(View):
    """A change that one person asked for; `subject` is the id of what it changes."""

    id: str
    action: Action
    subject: str
    name: str = Field(description="What the subject is called.")
    federation_id: str | None
    data: dict[str, Any]
    reason: str
    state: ActionState
    requester: str
    requested_at: datetime
    expires_at: datetime
    decider: str | None = Field(description="Who confirmed or withdrew it.")
    decided_at: datetime | None
    mine: bool = Field(description="Whether the caller asked for it, and so cannot confirm it.")


def action_view(found: PendingAction, now: datetime, user_id: str) -> PendingActionView:
    """As told to this user."""
    return PendingActionView(
        id=found.id,
        action=found.action,
        subject=found.subject,
        name=found.name,
        federation_id=found.federation_id,
        data=found.data,
        reason=found.reason,
        state=found.state(now),
        requester=found.requester,
        requested_at=found.requested_at,
        expires_at=found.expires_at,
        decider=found.decider,
        decided_at=found.decided_at,
        mine=found.requested_by == user_id,
    )
