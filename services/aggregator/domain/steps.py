"""Steps of a round: which one takes messages, when it ends, and what follows. Pure; the time is an argument."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from undersong.services.aggregator.domain.refusals import RoundClosed, StepClosed, StepNotOpen, StepUnknown
from undersong.services.aggregator.domain.rounds import Phase, Round
from undersong.shared.secagg.engine import UPLOAD

OPENED: Final = "opened"
"""The step after the last: the engine has all that it needs to open the sum."""


def step_due(round_: Round, now: datetime) -> bool:
    """Return whether the present step must be closed now.

    The upload's end is the phase's, so that one is due once frozen.
    """
    if round_.step in (None, OPENED) or round_.phase.over:
        return False
    if round_.step == UPLOAD:
        return round_.phase is Phase.FROZEN
    return round_.step_missing <= 0 or (round_.step_deadline is not None and now >= round_.step_deadline)


def admit_step(round_: Round, steps: Sequence[str], step: str, now: datetime, *, frozen: bool) -> None:
    """Raise StepUnknown, StepClosed, StepNotOpen or RoundClosed unless the step takes messages now."""
    if step not in steps or step == UPLOAD or not round_.tracks_steps:
        raise StepUnknown(f"this round's engine takes no messages in a step {step}")
    if round_.phase.over:
        raise RoundClosed(f"the round is {round_.phase}")
    order = [*steps, OPENED]
    present = order.index(round_.step or OPENED)
    if order.index(step) < present or (order.index(step) == present and frozen):
        raise StepClosed(f"step {step} takes no more messages")
    if order.index(step) > present:
        raise StepNotOpen(f"the round is at step {round_.step}")
    if round_.step_deadline is not None and now >= round_.step_deadline:
        raise StepClosed(f"the deadline of step {step} has passed")


def step_after(steps: Sequence[str], step: str) -> str:
    """Return the step that follows."""
    return [*steps, OPENED][list(steps).index(step) + 1]


def step_deadline(
    steps: Sequence[str], step: str, opened_at: datetime, deadline: datetime, now: datetime, patience: timedelta
) -> datetime:
    """Return when a step ends at the latest.

    Steps before the upload pass while the sites train, so they share the first half of the round's time; those after
    it need an answer at once, which `patience` is for.
    """
    upload, place = steps.index(UPLOAD), steps.index(step) if step in steps else len(steps)
    if place < upload:
        return opened_at + (deadline - opened_at) * (place + 1) / (2 * upload)
    return deadline if place == upload else now + patience


def opening(steps: Sequence[str], step: str | None) -> bool:
    """Return whether sites may have given away what opens the sum: from then on the same round is never answered again.

    Where another party opens it, that is so from the moment it is asked (`RoundView.frozen`).
    """
    return step is not None and len(steps) > 1 and step in (steps[-1], OPENED)
