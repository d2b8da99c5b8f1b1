"""Tasks and leases, as told to agents, scientists and operators."""

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from undersong.services.coordinator.domain.tasks import SiteTask, TaskState
from undersong.services.coordinator.leases import Lease
from undersong.services.coordinator.views import View


class TaskView(View):
    """One site's part in a round."""

    id: str
    site_id: str
    site_name: str | None
    state: Literal["open", "leased", "trained", "done", "expired", "rejected", "dead"]
    attempt: int
    progress: float
    phase: str | None
    digest: str | None
    code: str | None
    message: str | None
    trace: list[str]
    created_at: datetime | None
    updated_at: datetime | None
    finished_at: datetime | None


class DeadTaskView(View):
    """A task that was given up after too many attempts; `requeueable` while its round still collects."""

    id: str
    job_id: str
    round_id: str
    site_id: str
    site_name: str | None
    kind: str
    state: Literal["open", "leased", "trained", "done", "expired", "rejected", "dead"]
    attempt: int
    code: str | None
    message: str | None
    finished_at: datetime | None
    requeueable: bool


class LeaseView(View):
    """A task for an agent. Times are durations, to be counted on the agent's own clock."""

    task_id: str
    round_id: str
    job_id: str
    kind: str
    lease_token: str
    lease_s: float
    heartbeat_s: float
    attempt: int
    signed_manifest: dict[str, JsonValue]
    engine_public: dict[str, JsonValue]
    traceparent: str | None = Field(description="The job's trace (W3C trace context), for the agent's own requests.")


class OrderView(View):
    """What the agent is to do with its task."""

    state: Literal["continue", "abort"]
    reason: str | None
    lease_s: float


class TaskOutcomeView(View):
    """The state of a task after a report."""

    task_id: str
    state: Literal["open", "leased", "trained", "done", "expired", "rejected", "dead"]


def task_view(task: SiteTask, site_name: str | None) -> TaskView:
    """As told: without the lease's token."""
    return TaskView(
        id=task.id,
        site_id=task.site_id,
        site_name=site_name,
        state=task.state.value,
        attempt=task.attempt,
        progress=task.progress,
        phase=task.phase,
        digest=task.digest,
        code=task.code,
        message=task.message,
        trace=list(task.trace),
        created_at=task.created_at,
        updated_at=task.updated_at,
        finished_at=task.finished_at,
    )


def dead_task_view(task: SiteTask, site_name: str | None, collecting: bool) -> DeadTaskView:
    """As told."""
    return DeadTaskView(
        id=task.id,
        job_id=task.job_id,
        round_id=task.round_id,
        site_id=task.site_id,
        site_name=site_name,
        kind=task.kind,
        state=task.state.value,
        attempt=task.attempt,
        code=task.code,
        message=task.message,
        finished_at=task.finished_at,
        requeueable=collecting and task.state is TaskState.DEAD,
    )


def lease_view(lease: Lease, lease_s: float, heartbeat_s: float) -> LeaseView:
    """As told to the agent."""
    return LeaseView(
        task_id=lease.task.id,
        round_id=lease.task.round_id,
        job_id=lease.task.job_id,
        kind=lease.task.kind,
        lease_token=lease.task.lease_token or "",
        lease_s=lease_s,
        heartbeat_s=heartbeat_s,
        attempt=lease.task.attempt,
        signed_manifest=lease.signed_manifest,
        engine_public=lease.engine_public,
        traceparent=lease.trace,
    )
