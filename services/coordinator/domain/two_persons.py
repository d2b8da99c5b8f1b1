"""The two-person rule: what one person asks for and another confirms, never the same."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from undersong.shared.errors import Conflict, Forbidden, Gone

Action = Literal["site.suspend", "user.revoke", "user.roles", "token.revoke"]
ActionState = Literal["waiting", "confirmed", "withdrawn", "expired"]
DEFAULT_WITHIN: Final = timedelta(days=1)


class SecondPersonNeeded(Conflict):
    """The two-person rule is on: one person asks for this, and another confirms it."""


class RuleOff(Conflict):
    """The two-person rule is off here: one person does this alone."""


class SamePerson(Forbidden):
    """Who asked for a change cannot confirm it."""


class OwnTokensOnly(Forbidden):
    """With the two-person rule, people who may confirm changes make their tokens themselves."""


class ActionOver(Gone):
    """The change waits no longer: it was withdrawn, or not confirmed in time."""


@dataclass(frozen=True, slots=True)
class TwoPersonRule:
    """Whether the rule is on, and how long a change waits for the second person."""

    on: bool = False
    within: timedelta = DEFAULT_WITHIN

    def check(self, action: Action, subject: str) -> None:
        """Raise SecondPersonNeeded where one person may not do this alone."""
        if self.on:
            raise SecondPersonNeeded(
                f"This takes two persons: ask for it with `undersong pending request {action} {subject}`, and another "
                "person of the role confirms it."
            )


ONE_PERSON: Final = TwoPersonRule()
"""The rule is off."""


@dataclass(frozen=True, slots=True)
class PendingAction:
    """A change that one person asked for."""

    id: str
    action: Action
    subject: str
    name: str
    federation_id: str | None
    data: dict[str, object]
    reason: str
    stored: str
    requested_by: str
    requester: str
    requested_at: datetime
    expires_at: datetime
    decider: str | None = None
    decided_at: datetime | None = None

    def state(self, now: datetime) -> ActionState:
        """Return its state at this time."""
        if self.stored == "waiting":
            return "expired" if now >= self.expires_at else "waiting"
        return "confirmed" if self.stored == "confirmed" else "withdrawn"

    def check_confirmable(self, user_id: str, now: datetime) -> None:
        """Raise ActionOver or SamePerson."""
        state = self.state(now)
        if state != "waiting":
            raise ActionOver(f"It is {state}. Ask for it again.")
        if user_id == self.requested_by:
            raise SamePerson("Another person must confirm what you asked for.")
