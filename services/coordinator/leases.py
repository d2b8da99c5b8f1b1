"""Leases: how agents come to their tasks. Sites are named by their certificates.

A round notifies all of its sites at once, and thousands of idle ones ask again every half minute: requests that arrive
together are answered together, in one transaction.
"""

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from undersong.services.coordinator.attendance import Attendance
from undersong.services.coordinator.domain.rounds import Phase
from undersong.services.coordinator.domain.tasks import SiteTask
from undersong.services.coordinator.moves import Move, move, move_all
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.repository.sites import Admission, SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.shared.clock import monotonic
from undersong.shared.database import Database, Gathering, Transaction
from undersong.shared.errors import Forbidden, Refusal
from undersong.shared.faults import point
from undersong.shared.ids import RoundId, SiteId
from undersong.shared.queues import Notifier
from undersong.shared.telemetry.traces import current_trace

_KEPT_ROUNDS: Final = 64
_SHORTEST_WAIT: Final = 0.75
"""Of the time that a site offers to wait. Sites that came together once would otherwise keep coming together."""


class SiteSuspended(Forbidden):
    """The site is suspended."""


class SiteUnknown(Forbidden):
    """The coordinator has no such site in this federation."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The platform's two short times; both are durations, because agents' clocks are not trusted."""

    heartbeat_s: float
    lease_s: float

    @property
    def lease(self) -> timedelta:
        """How long a lease lasts without a heartbeat."""
        return timedelta(seconds=self.lease_s)


@dataclass(frozen=True, slots=True)
class Lease:
    """A leased task with the documents that the agent needs."""

    task: SiteTask
    signed_manifest: dict[str, Any]
    engine_public: dict[str, Any]
    trace: str | None


@dataclass(frozen=True, slots=True)
class Asker:
    """A site that asks, and the trace of its request."""

    site_id: SiteId
    federation_id: str | None
    trace: str | None


class Leases:
    """Gives out tasks."""

    def __init__(
        self, database: Database, notifier: Notifier, attendance: Attendance, timing: Timing, stopping: asyncio.Event
    ) -> None:
        self._database, self._notifier, self._attendance, self._timing = database, notifier, attendance, timing
        self._stopping = stopping
        self._peeks, self._takes = Gathering(self._peek), Gathering(self._take)
        self._documents: dict[RoundId, tuple[dict[str, Any], dict[str, Any], str | None]] = {}

    async def lease(self, site_id: SiteId, federation_id: str | None, wait_s: float) -> Lease | None:
        """Return the site's next task, waiting for one up to `wait_s`; its live lease again when it has one."""
        asker = Asker(site_id, federation_id, current_trace())
        until = monotonic() + wait_s * random.uniform(_SHORTEST_WAIT, 1.0)  # noqa: S311  (no secret)
        with self._notifier.listen(site_id) as subscription, self._attendance.present(site_id):
            # First without any lock: most looks find nothing.
            lease = await self._lease_now(asker) if await self._peeks.ask(asker) else None
            while lease is None and not self._stopping.is_set() and (left_s := until - monotonic()) > 0:
                if await subscription.wait(left_s):
                    lease = await self._lease_now(asker)
        return lease

    async def _lease_now(self, asker: Asker) -> Lease | None:
        lease = await self._takes.ask(asker)
        point("coordinator.task.leased")
        return lease

    async def _peek(self, askers: Sequence[Asker]) -> list[bool | Exception]:
        """For whom there may be a task."""
        sites = sorted({asker.site_id for asker in askers})

        async def look(tx: Transaction) -> tuple[Mapping[SiteId, Admission], set[SiteId]]:
            tasks = TaskRepository(tx)
            busy = {*await tasks.leased_by(sites), *await tasks.next_for(sites)}
            return await SiteRepository(tx).admissions(sites), busy

        admissions, busy = await self._database.read("task.peek", look)
        return [refusal(asker, admissions.get(asker.site_id)) or asker.site_id in busy for asker in askers]

    async def _take(self, askers: Sequence[Asker]) -> list[Lease | Exception | None]:
        """Return each one's lease. The sites' locks make leases of one site follow each other."""

        async def work(tx: Transaction) -> list[Lease | Exception | None]:
            admissions = await SiteRepository(tx).admissions(sorted({asker.site_id for asker in askers}), lock=True)
            refusals = [refusal(asker, admissions.get(asker.site_id)) for asker in askers]
            traces = {a.site_id: a.trace for a, refused in zip(askers, refusals, strict=True) if refused is None}
            await self._lock_rounds(tx, sorted(traces))
            leases = await self._kept(tx, sorted(traces))
            leases |= await self._new(tx, {site: trace for site, trace in traces.items() if site not in leases})
            return [refused or leases.get(a.site_id) for a, refused in zip(askers, refusals, strict=True)]

        return await self._database.run("task.lease", work)

    @staticmethod
    async def _lock_rounds(tx: Transaction, sites: Sequence[SiteId]) -> None:
        """Lock all at once and in one order: rounds of leases that are held and of new ones must not cross."""
        tasks = TaskRepository(tx)
        found = [*(await tasks.leased_by(sites)).values(), *(await tasks.next_for(sites)).values()]
        await RoundRepository(tx).lock_all({task.round_id for task in found})

    async def _kept(self, tx: Transaction, sites: Sequence[SiteId]) -> dict[SiteId, Lease]:
        """Extend and return the leases that sites hold already; reclaim one that expired or outlived its round."""
        tasks, now = TaskRepository(tx), await tx.now()
        held = await tasks.leased_by(sites)
        rounds = await RoundRepository(tx).lock_all({task.round_id for task in held.values()})
        kept: dict[SiteId, Lease] = {}
        for task in (await tasks.get_all(sorted(task.id for task in held.values()))).values():
            site, round_ = task.site_id, rounds[task.round_id]
            collecting = round_.phase is Phase.COLLECTING
            # An agent that lost the answer gets the same token again: one live lease a site, however often it asks.
            if collecting and task.live(now):
                expires_at = now + self._timing.lease
                await tasks.extend(task.id, site, task.lease_token or "", task.progress, task.phase, expires_at)
                kept[site] = await self._with_documents(tx, task)
                continue
            after = task.lapse(now, site_seen=True) if collecting else task.expire("round-ended", now)
            await move(tx, task, after, round_, "coordinator")
        return kept

    async def _new(self, tx: Transaction, traces: Mapping[SiteId, str | None]) -> dict[SiteId, Lease]:
        """Leases of the oldest tasks that these sites could do."""
        tasks, now = TaskRepository(tx), await tx.now()
        found = await tasks.next_for(sorted(traces))
        moves: dict[RoundId, list[Move]] = {}
        rounds = await RoundRepository(tx).lock_all({task.round_id for task in found.values()})
        # Read again under the locks: one task that was moved meanwhile must not fail the lease of all others.
        for task in (await tasks.get_all(sorted(task.id for task in found.values()))).values():
            round_ = rounds[task.round_id]
            if task.leasable and round_.phase is Phase.COLLECTING and not round_.closing:
                leased = task.lease(secrets.token_hex(16), now, self._timing.lease)
                moves.setdefault(round_.id, []).append(Move(task, leased, task.site_id, traces[task.site_id]))
        for round_id, some in moves.items():
            await move_all(tx, rounds[round_id], some)
        given = [each.after for some in moves.values() for each in some]
        return {task.site_id: await self._with_documents(tx, task) for task in given}

    async def _with_documents(self, tx: Transaction, task: SiteTask) -> Lease:
        """Return the documents of an open round never change, so each process reads them once."""
        known = self._documents.get(task.round_id)
        if known is None:
            record = await RoundRepository(tx).record(task.round_id)
            trace = await JobRepository(tx).trace(task.job_id)
            known = record.manifest.model_dump(mode="json"), dict(record.engine_public or {}), trace
            self._documents[task.round_id] = known
            if len(self._documents) > _KEPT_ROUNDS:
                self._documents.pop(next(iter(self._documents)))
        return Lease(task, *known)


def refusal(asker: Asker, admission: Admission | None) -> Refusal | None:
    """Why the site is given no task at all."""
    if admission is None:
        return SiteUnknown(f"There is no site {asker.site_id}.")
    if admission.federation_id != asker.federation_id:
        return SiteUnknown(f"Site {asker.site_id} does not belong to federation {asker.federation_id}.")
    if admission.suspended:
        return SiteSuspended(f"Site {admission.name} is suspended.")
    return None
