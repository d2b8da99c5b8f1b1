"""Work on a task while its heartbeats go on, and two halves of it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import structlog
from pydantic import ValidationError

from undersong.services.agent.peers.coordinator import Coordinator
from undersong.services.agent.peers.link import Away, RequestRefused
from undersong.shared.ids import TaskId

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

OVER = frozenset({404, 409, 410})  # the lease or the round is no longer ours

First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(slots=True)
class Watch:
    """How far a task is, for its heartbeats."""

    phase: str = "checking"
    progress: float = 0.0
    kept: bool = False  # its bytes are durable: from here on it is answered, whatever else happens
    aborted: bool = False  # the platform said that the round is not wanted any more

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        self.phase = phase


class Hold(Protocol):
    """A live lease, or one from before a crash."""

    @property
    def task_id(self) -> TaskId:
        """The task."""

    @property
    def lease_token(self) -> str:
        """What proves that it is this site's."""

    @property
    def heartbeat_s(self) -> float:
        """Seconds between heartbeats."""


@dataclass(frozen=True, slots=True)
class OldLease:
    """A lease as the state remembers it."""

    task_id: TaskId
    lease_token: str = field(repr=False)
    heartbeat_s: float = 5.0


async def beside_heartbeats(
    coordinator: Coordinator, lease: Hold, watch: Watch, doing: Coroutine[Any, Any, None]
) -> str | None:
    """Work while heartbeats go on; the reason if the platform took the task back."""
    work = asyncio.create_task(doing)
    beats = asyncio.create_task(_heartbeats(coordinator, lease, watch))
    try:
        await asyncio.wait({work, beats}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            reason = beats.result()
            watch.kept = True  # nothing to report: the platform itself ended the task
            return reason
        beats.cancel()
        await work
        return None
    finally:
        for task in (work, beats):
            task.cancel()
        await asyncio.gather(work, beats, return_exceptions=True)


async def _heartbeats(coordinator: Coordinator, lease: Hold, watch: Watch) -> str:
    """Extend the lease until the platform wants the task no more; returns why."""
    while True:
        await asyncio.sleep(lease.heartbeat_s)
        try:
            desired = await coordinator.heartbeat(lease.task_id, lease.lease_token, watch.progress, watch.phase)
        except (Away, ValidationError) as error:
            log.info("heartbeat.unheard", reason=str(error))
        except RequestRefused as problem:
            log.info("heartbeat.refused", reason=str(problem))
            if problem.status in OVER and not watch.kept:  # durable bytes may count without a lease
                return problem.slug
        else:
            if desired.state == "abort":
                watch.aborted = True
                return desired.reason or "abort"


async def together(first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]) -> tuple[First, Second]:
    """Both at once; the first exception cancels the other, and is raised once that one is gone."""
    one, two = asyncio.create_task(first), asyncio.create_task(second)
    try:
        done, _ = await asyncio.wait((one, two), return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        return one.result(), two.result()
    finally:
        one.cancel()
        two.cancel()
        await asyncio.gather(one, two, return_exceptions=True)
