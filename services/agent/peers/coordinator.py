"""The coordinator, as the agent speaks to it: profile, leases, heartbeats, ends of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import httpx
import structlog
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from undersong.services.agent.domain.rules import FailureReport
from undersong.services.agent.peers.link import Call, Link, RequestRefused
from undersong.shared.ids import Digest, JobId, RoundId, TaskId, digest_of
from undersong.shared.wire.manifest import SignedEnginePublic, SignedManifest
from undersong.shared.wire.profiles import SiteProfile

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

WAIT_S = 30
MOST_COMPLETED = 16  # in one request
LEASE_TIMEOUT = httpx.Timeout(WAIT_S + 20.0, connect=5.0)
METRICS_WITHIN_S = 30.0
HEARTBEAT_TIMEOUT = httpx.Timeout(8.0, connect=3.0)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer coordinator may say more


class Lease(_Answer):
    """A task that is this site's for `lease_s` seconds after the last heartbeat."""

    task_id: TaskId
    round_id: RoundId
    job_id: JobId
    kind: str
    lease_token: str = Field(repr=False)
    lease_s: float = Field(gt=0)
    heartbeat_s: float = Field(gt=0)
    signed_manifest: SignedManifest
    engine_public: Annotated[SignedEnginePublic | None, BeforeValidator(lambda told: told or None)] = None
    attempt: int = 1
    traceparent: str | None = None


class Desired(_Answer):
    """What the coordinator wants of a running task."""

    state: Literal["continue", "abort"]
    reason: str | None = None
    lease_s: float | None = None


class Exclusion(_Answer):
    """A job in whose later rounds this site has no part, and why."""

    job_id: JobId
    round_id: RoundId
    code: str
    message: str | None = None


class _Exclusions(_Answer):
    items: tuple[Exclusion, ...]


class NothingToDo(_Answer):
    """No task now; ask again after this long."""

    next_poll_s: float = 0.0


class Coordinator:
    """Calls to the coordinator. Every one may raise Away or Problem."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._done: dict[TaskId, dict[str, str]] = {}

    async def put_profile(self, profile: SiteProfile, *, within_s: float | None = None) -> None:
        """Tell what this site has; asks until heard, or for `within_s`."""
        call = Call.json("PUT", "/v1/sites/self/profile", profile.model_dump(mode="json"))
        await self.link.ask(call, within_s=within_s)

    def complete(self, task_id: TaskId, lease_token: str, digest: Digest) -> None:
        """Note that the aggregator holds the task's bytes: the next request for work says so, or `tell`."""
        self._done[task_id] = {"task_id": task_id, "lease_token": lease_token, "digest": digest}

    async def lease(self) -> Lease | NothingToDo:
        """Wait for a task; asks until heard."""
        done = list(self._done.values())[:MOST_COMPLETED]
        body = {"wait_s": WAIT_S} | ({"completed": done} if done else {})
        answer = await self.link.ask(Call.json("POST", "/v1/tasks/leases", body, timeout=LEASE_TIMEOUT))
        for told in done:
            self._done.pop(TaskId(told["task_id"]), None)
        if answer.status_code == httpx.codes.NO_CONTENT:
            return NothingToDo(next_poll_s=_seconds(answer.headers.get("next-poll-s")))
        return Lease.model_validate_json(answer.content)

    async def exclusions(self) -> tuple[Exclusion, ...]:
        """Return the running jobs that go on without this site; asked once."""
        answer = await self.link.once(Call("GET", "/v1/sites/self/exclusions"))
        return _Exclusions.model_validate_json(answer.content).items

    async def tell(self, *, within_s: float | None = None) -> None:
        """Say what is done without asking for work, where that will not be asked for soon."""
        for task_id, done in list(self._done.items()):
            body = {"lease_token": done["lease_token"], "digest": done["digest"]}
            try:
                await self._end(f"/v1/tasks/{task_id}/completions", body, within_s)
            except RequestRefused as problem:
                log.info("completion.unneeded", task_id=task_id, reason=str(problem))
            self._done.pop(task_id, None)

    async def heartbeat(self, task_id: TaskId, lease_token: str, progress: float, phase: str) -> Desired:
        """Extend the lease; sent once."""
        body = {"lease_token": lease_token, "progress": round(progress, 4), "phase": phase}
        call = Call.json("POST", f"/v1/tasks/{task_id}/heartbeats", body, timeout=HEARTBEAT_TIMEOUT)
        return Desired.model_validate_json((await self.link.once(call)).content)

    async def fail(self, task_id: TaskId, lease_token: str, report: FailureReport, *, within_s: float) -> None:
        """Say that the task failed, and as much of why as the policy lets out."""
        trace = list(report.trace)
        body = {"lease_token": lease_token, "code": report.code, "message": report.message, "trace": trace}
        await self._end(f"/v1/tasks/{task_id}/failures", body, within_s)

    async def tell_metrics(self, task_id: TaskId, lease_token: str, metrics: Mapping[str, float]) -> None:
        """Tell this site's own metrics of an evaluation. Idempotent."""
        body = {"lease_token": lease_token, "metrics": dict(metrics)}
        await self.link.ask(Call.json("PUT", f"/v1/tasks/{task_id}/metrics", body), within_s=METRICS_WITHIN_S)

    async def _end(self, path: str, body: Mapping[str, Any], within_s: float | None) -> None:
        key = digest_of(f"{path}\0{body['lease_token']}".encode())[
            :32
        ]  # the lease names the request in all its retries
        headers = {"idempotency-key": key}
        await self.link.ask(Call.json("POST", path, body, headers=headers), within_s=within_s)


def _seconds(text: str | None) -> float:
    try:
        return min(300.0, max(0.0, float(text or 0)))
    except ValueError:
        return 0.0
