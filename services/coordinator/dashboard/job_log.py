"""A job's events as lines that a person reads. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from undersong.services.coordinator.domain.causes import fault_sentence, reason_sentence
from undersong.services.coordinator.repository.jobs import DISPUTED, EXCLUDED, FAULT, JobEvent

PROBLEMS: Final = frozenset(
    {
        "task.open", "task.rejected", "task.failed", "task.dead", "task.expired", "task.body-lost",
        "round.failed", "job.failed", "job.paused", "job.waiting", FAULT, EXCLUDED, DISPUTED,
    }
)  # fmt: skip
"""The events that tell why something does not get on."""
_TASKS: Final = {
    "open": "could not do its task and is asked again",
    "leased": "fetched its task",
    "trained": "has a change ready",
    "done": "answered",
    "expired": "did not answer before the round ended",
    "body-lost": "is asked again: its stored update could not be read",
    "requeued": "is asked again, by hand",
    "discarded": "is not asked again",
}
_ROUNDS: Final = {
    "planned": "is planned",
    "keyed": "has its keys",
    "collecting": "collects updates",
    "published": "is published",
    "failed": "failed",
    "cancelled": "was cancelled",
}
_SITES: Final = {
    FAULT: "broke the engine's protocol",
    EXCLUDED: "is excluded from later rounds",
    DISPUTED: "is accused by other sites, which proves nothing",
}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One event: who did something, and what; `detail` is what a site, or the platform, said about it."""

    number: int
    at: datetime
    who: str
    text: str
    detail: str
    code: str
    problem: bool
    round_id: str


def lines(events: Sequence[JobEvent], names: Mapping[str, str]) -> tuple[LogLine, ...]:
    """Return a line for each event, in their order; `names` gives sites' names by their ids."""
    return tuple(_line(event, event.data, names) for event in events)


def _line(event: JobEvent, data: Mapping[str, Any], names: Mapping[str, str]) -> LogLine:
    area, _, what = event.type.partition(".")
    site = str(data.get("site_id") or "")
    who, text = event.actor, event.type
    if area == "task":
        who, text = names.get(site, site), _TASKS.get(what, f"ended with state {what}")
        if int(data.get("attempt") or 0) > 1:
            text += f" (attempt {data['attempt']})"
    elif area == "site":
        who, text = names.get(site, site), _SITES.get(event.type, what)
    elif area == "round":
        text = f"{data.get('kind')} {data.get('number')} {_ROUNDS.get(what, what)}"
        if what in {"published", "failed"}:
            text += f", {data.get('got')} of {data.get('cohort')} updates"
    elif area == "order":
        text = "sites are asked to train at their own pace"
    elif area == "job":
        text = f"the job is {what}"
    code = str(data.get("code") or "")
    detail = fault_sentence(code, data.get("message")) if code else str(data.get("message") or "")
    if not detail and data.get("reason"):
        detail = reason_sentence(str(data["reason"]))
    return LogLine(
        event.number, event.created_at, who, text, detail, code,
        event.type in PROBLEMS, str(data.get("round_id") or ""),
    )  # fmt: skip
