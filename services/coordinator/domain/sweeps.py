"""Sweeps: one job document with several changes, a job for each. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from undersong.services.coordinator.domain.comparison import leaves
from undersong.services.coordinator.domain.progress import JobState
from undersong.shared.documents import merged
from undersong.shared.errors import FieldError, Invalid
from undersong.shared.ids import FederationId, JobId, SweepId, UserId

MOST: Final = 200
"""Jobs of one sweep."""
TAG_PREFIX: Final = "sweep:"
_NAME_ROOM: Final = 190  # a job's name has 200 characters


class SweepInvalid(Invalid):
    """The sweep cannot be made: every fault of every job in it, at /changes/N and the place in the document."""


class ChildState(StrEnum):
    """The state of a place in a sweep that has no job: its turn has not come, it was refused, or will not come."""

    WAITING = "waiting"
    REFUSED = "refused"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True)
class Child:
    """One place of a sweep; `job_id` once the job was submitted, `reason` where it was refused."""

    place: int
    changes: Mapping[str, Any]
    job_id: JobId | None = None
    reason: str | None = None

    @property
    def waiting(self) -> bool:
        """Whether its turn has not come."""
        return self.job_id is None and self.reason is None


@dataclass(frozen=True, slots=True)
class Sweep:
    """A job document, and changes of it that become jobs, at most `parallel` at a time, with their maker's roles."""

    id: SweepId
    federation_id: FederationId
    name: str
    document: Mapping[str, Any]
    parallel: int
    user_id: UserId
    created_by: str
    created_at: datetime
    cancelled_at: datetime | None
    children: tuple[Child, ...]
    cost: tuple[float, float] | None = None  # epsilon and delta of all jobs together, by basic composition

    def document_of(self, child: Child) -> dict[str, Any]:
        """Return the job document of a place: changed, numbered, and tagged with the sweep's name."""
        return child_document(self.name, self.document, child.changes, child.place)

    def due(self, states: Mapping[JobId, JobState]) -> list[Child]:
        """Return the places whose turn it is, by the states of the jobs that were submitted."""
        if self.cancelled_at is not None:
            return []
        going = sum(state in (JobState.RUNNING, JobState.PAUSED) for state in states.values())
        waiting = [child for child in self.children if child.waiting]
        return waiting[: max(0, self.parallel - going)]

    def state_of(self, child: Child, states: Mapping[JobId, JobState]) -> str:
        """Return the state of a place: its job's, or why it has none."""
        if child.job_id is not None:
            return str(states[child.job_id])
        if child.reason is not None:
            return str(ChildState.REFUSED)
        return str(ChildState.WAITING if self.cancelled_at is None else ChildState.LEFT_OUT)


def child_document(name: str, document: Mapping[str, Any], changes: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Return a job document with changes, the place behind its name, and the sweep's tag."""
    made = merged(document, changes)
    tags = made.get("tags", [])
    if isinstance(made.get("name"), str):
        made["name"] = f"{made['name'][:_NAME_ROOM]} {place}"
    if isinstance(tags, Sequence) and not isinstance(tags, str):
        made["tags"] = [*tags, f"{TAG_PREFIX}{name}"]
    return made


def parameters(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the paths that a sweep varies, in the order in which they come; without those that are the same in all."""
    known = [{path: json.dumps(value, sort_keys=True) for path, value in leaves(each)} for each in changes]
    paths = dict.fromkeys(path for each in known for path in each)
    return [path for path in paths if len({each.get(path) for each in known}) > 1]


def values(changes: Mapping[str, Any], paths: Sequence[str]) -> list[Any]:
    """Return what one place has at these paths; None where it changes nothing there."""
    known = dict(leaves(changes))
    return [known.get(path) for path in paths]


def placed_errors(place: int, errors: Sequence[FieldError]) -> list[FieldError]:
    """Return the faults of one job of a sweep, at its place."""
    return [FieldError(f"/changes/{place - 1}{each.path}", each.message) for each in errors]
