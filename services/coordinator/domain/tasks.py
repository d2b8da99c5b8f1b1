"""A task: one site's part in one round.

``open → leased → [trained →] done | expired | rejected(code) | dead``. A lease that runs out opens the task again, at
most `MAX_ATTEMPTS` times. An expired task may come back while its round still collects, because expiry only says that
the coordinator stopped waiting: whether the site's update counts is the aggregator's to say. A task of a training order
is `trained` while the site holds a change that no round has collected yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from undersong.shared.errors import Conflict, Gone
from undersong.shared.ids import Digest, JobId, RoundId, SiteId, TaskId
from undersong.shared.wire.manifest import RoundKind

DEALER_AT_FAULT: Final = "dealer-at-fault"
"""The code of a site whose secret shares others cannot use: it takes part in no later round of the job."""
CONSENT_WAITING: Final = "consent-waiting"
"""The code of a site whose owner has not consented to the job yet: it takes part once it tells that it may."""
MAX_ATTEMPTS: Final = 5
"""A task that took its agent down this often is not the network's fault."""

BODY_LOST: Final = "body-lost"
"""The aggregator's code for an update whose stored bytes were damaged after its receipt was given."""
RETRYABLE: Final = frozenset(
    {"interrupted", "unavailable", "child-died", "upload-failed", "download-failed", "timeout", "disk-full"}
)
"""Failure codes after which the same site may simply try again; every other code is final for the round."""


class TaskState(StrEnum):
    """The state of a task."""

    OPEN = "open"
    LEASED = "leased"
    TRAINED = "trained"
    DONE = "done"
    EXPIRED = "expired"
    REJECTED = "rejected"
    DEAD = "dead"


OUTSTANDING: Final = frozenset({TaskState.OPEN, TaskState.LEASED})
"""The states in which the round still waits for this site."""


class StaleLease(Conflict):
    """The lease is no longer this task's lease."""


class DigestDiffers(Conflict):
    """The task was completed with other bytes."""


class MetricsNotAsked(Conflict):
    """The task's round asks for no metrics of single sites."""


class TaskNotDead(Conflict):
    """The task was not given up."""


class TaskOver(Gone):
    """The task is over."""


@dataclass(frozen=True, slots=True)
class SiteTask:
    """One site's part in one round; `lease_token` fences holders of older leases."""

    id: TaskId
    round_id: RoundId
    job_id: JobId
    site_id: SiteId
    kind: str
    state: TaskState = TaskState.OPEN
    version: int = 1
    attempt: int = 0
    lease_token: str | None = None
    lease_expires_at: datetime | None = None
    progress: float = 0.0
    phase: str | None = None
    digest: Digest | None = None
    code: str | None = None
    message: str | None = None
    trace: tuple[str, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    finished_at: datetime | None = None
    metrics: Mapping[str, float] | None = None  # the site's own, told in the clear

    @property
    def outstanding(self) -> bool:
        """Whether the round still waits for it."""
        return self.state in OUTSTANDING

    @property
    def failed(self) -> bool:
        """Whether its site could not do it: no token opens it again."""
        return self.state in (TaskState.REJECTED, TaskState.DEAD)

    def live(self, now: datetime) -> bool:
        """Return whether an unexpired lease is held."""
        return self.state is TaskState.LEASED and self.lease_expires_at is not None and now < self.lease_expires_at

    @property
    def leasable(self) -> bool:
        """Whether it can be handed to its site."""
        return self.state in (TaskState.OPEN, TaskState.EXPIRED) and self.attempt < MAX_ATTEMPTS

    def lease(self, token: str, now: datetime, lease_for: timedelta) -> "SiteTask":
        """Hand the task to its site; an expired one comes back this way."""
        if not self.leasable:
            raise TaskOver(f"Task {self.id} is {self.state}.")
        return replace(
            self,
            state=TaskState.LEASED,
            attempt=self.attempt + 1,
            lease_token=token,
            lease_expires_at=now + lease_for,
            progress=0.0,
            phase=None,
            code=None,
            message=None,
            finished_at=None,
        )

    def heartbeat(self, token: str, progress: float, phase: str | None, expires_at: datetime) -> "SiteTask":
        """Extend the lease; refuses a token that is not the present one."""
        if self.state is not TaskState.LEASED or self.lease_token != token:
            raise StaleLease(f"Task {self.id} is {self.state}, and not under this lease.")
        return replace(self, progress=progress, phase=phase, lease_expires_at=expires_at)

    def revive(self, expires_at: datetime) -> "SiteTask":
        """Return the task of a site that was given up for lost, and still works under its old lease."""
        if self.state is not TaskState.EXPIRED or self.lease_token is None:
            raise TaskOver(f"Task {self.id} is {self.state}.")
        return replace(self, state=TaskState.LEASED, lease_expires_at=expires_at, code=None, finished_at=None)

    def complete(self, token: str, digest: Digest, now: datetime) -> "SiteTask":
        """Record that the site's update is at the aggregator; the same digest again changes nothing.

        A task that expired under this very lease may still be completed: its bytes were accepted elsewhere already.
        """
        if self.ordered:
            return self._trained(token, now)
        # One task is completed with one digest: a second one would mean two updates for one place in the sum.
        if self.state is TaskState.DONE and self.digest is not None:
            if self.digest != digest:
                raise DigestDiffers(f"Task {self.id} was completed with {self.digest}.")
            return self
        if self.lease_token != token or self.state not in (TaskState.LEASED, TaskState.EXPIRED, TaskState.DONE):
            raise StaleLease(f"Task {self.id} is {self.state}, and not under this lease.")
        return replace(
            self, state=TaskState.DONE, digest=digest, progress=1.0, code=None, message=None, finished_at=now
        )

    @property
    def ordered(self) -> bool:
        """Whether it is a task of a training order: what it makes stays at the site until a round collects it."""
        return self.kind == RoundKind.PREPARE

    def _trained(self, token: str, now: datetime) -> "SiteTask":
        if self.lease_token == token and self.state in (TaskState.TRAINED, TaskState.DONE):
            return self
        if self.lease_token != token or self.state not in (TaskState.LEASED, TaskState.EXPIRED):
            raise StaleLease(f"Task {self.id} is {self.state}, and not under this lease.")
        return replace(self, state=TaskState.TRAINED, progress=1.0, code=None, message=None, finished_at=now)

    def collected(self) -> "SiteTask":
        """Return the task of an order whose change was given, or may have been: it is given to no other round."""
        return replace(self, state=TaskState.DONE) if self.state is TaskState.TRAINED else self

    def dropped(self, code: str) -> "SiteTask":
        """Return the task of an order whose change no round will collect."""
        return replace(self, state=TaskState.EXPIRED, code=code) if self.state is TaskState.TRAINED else self

    def fail(
        self, token: str, code: str, message: str, trace: Sequence[str], now: datetime, *, again: bool = False
    ) -> "SiteTask":
        """Record a failure that the agent reports: open again when it may help, else rejected (dead after too many)."""
        if self.state is not TaskState.LEASED or self.lease_token != token:
            # The same report again, after its answer was lost.
            if self.state in (TaskState.REJECTED, TaskState.DEAD) and self.lease_token == token:
                return self
            raise StaleLease(f"Task {self.id} is {self.state}, and not under this lease.")
        told = replace(self, code=code, message=message, trace=tuple(trace))
        if not (again or code in RETRYABLE):
            return replace(told, state=TaskState.REJECTED, finished_at=now)
        return told.reopened(now)

    def lapse(self, now: datetime, *, site_seen: bool) -> "SiteTask":
        """Return the task whose lease ran out: open again if the site still shows itself, else expired.

        After too many attempts it is dead.
        """
        if self.state is not TaskState.LEASED:
            return self
        if not site_seen:
            return self.expire("site-lost", now)
        return replace(self, code="lease-expired", message="The agent stopped sending heartbeats.").reopened(now)

    def expire(self, code: str, now: datetime) -> "SiteTask":
        """Wait for this task no longer. Its token stays, so that a late report of success is still understood."""
        if not self.outstanding:
            return self
        return replace(self, state=TaskState.EXPIRED, code=code, finished_at=now)

    def reject(self, code: str, message: str, now: datetime) -> "SiteTask":
        """Take the task away from its site for good; no token opens it again."""
        if not self.outstanding:
            return self
        return replace(self, state=TaskState.REJECTED, code=code, message=message, lease_token=None, finished_at=now)

    def counted(self, now: datetime) -> "SiteTask":
        """Return the aggregator counted this site's update, whatever was heard here."""
        if self.state not in (TaskState.OPEN, TaskState.LEASED, TaskState.EXPIRED):
            return self
        return replace(self, state=TaskState.DONE, progress=1.0, code=None, message=None, finished_at=now)

    def unusable(self, code: str, message: str | None, now: datetime) -> "SiteTask":
        """Return the task whose update the aggregator took and could not use."""
        if self.state is TaskState.REJECTED:
            return self
        return replace(self, state=TaskState.REJECTED, code=code, message=message, finished_at=now)

    def at_fault(self, code: str, message: str, now: datetime) -> "SiteTask":
        """Return the site broke the engine's protocol, whatever else became of its task; it is told so."""
        at = self.finished_at or now
        return replace(self, state=TaskState.REJECTED, code=code, message=message, lease_token=None, finished_at=at)

    def asked_again(self, now: datetime) -> "SiteTask":
        """Return the task open again for the same bytes, which the aggregator lost after it was done, at most as
        often as any task.
        """
        if self.state is not TaskState.DONE:
            return self
        told = replace(self, code=BODY_LOST, message="The stored update was damaged.", finished_at=None, digest=None)
        return told.reopened(now)

    def requeue(self) -> "SiteTask":
        """Return a person wants the site to try again, with all its attempts; only of a task that was given up."""
        self._must_be_dead()
        return replace(
            self,
            state=TaskState.OPEN,
            attempt=0,
            lease_token=None,
            lease_expires_at=None,
            progress=0.0,
            phase=None,
            finished_at=None,
        )

    def discard(self, now: datetime) -> "SiteTask":
        """Return the task, of which a person has seen that it was given up; its last error stays."""
        self._must_be_dead()
        return replace(self, state=TaskState.REJECTED, lease_token=None, finished_at=now)

    def _must_be_dead(self) -> None:
        if self.state is not TaskState.DEAD:
            raise TaskNotDead(f"Task {self.id} is {self.state}.")

    def reopened(self, now: datetime) -> "SiteTask":
        """Give it back to its site, or give it up after too many attempts."""
        # Attempts count leases, so a site whose agent dies on the task is not asked without end.
        if self.attempt >= MAX_ATTEMPTS:
            return replace(self, state=TaskState.DEAD, finished_at=now)
        return replace(self, state=TaskState.OPEN, lease_token=None, lease_expires_at=None, progress=0.0, phase=None)
