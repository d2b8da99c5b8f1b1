"""Who is there: sites heard by this process, written down every few seconds in one statement.

It also looks whether a waiting site has an open task, for all waiting sites at once: that makes every hint from Redis
redundant without a query for each poll.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import structlog

from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.shared.clock import monotonic
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Unavailable
from undersong.shared.ids import SiteId
from undersong.shared.queues import Notifier
from undersong.shared.telemetry.metrics import HEARTBEAT_AGE_SECONDS

PERIOD_S: Final = 3.0
LONGEST_GAP: Final = timedelta(seconds=12)
"""A longer silence of all API processes means that none could hear the sites."""
_WRITE_AGAIN_AFTER_S: Final = 5.0
_OF_A_LEASE: Final = 8
"""Where leases are short, last-seen times are written this often in one lease, so that no present site looks away."""
_MOST_MARKED: Final = 50_000

log = structlog.get_logger(__name__)


class Attendance:
    """Tracks last-seen times; a site that was not heard for a lease counts as away."""

    def __init__(self, database: Database, notifier: Notifier, lease_s: float) -> None:
        self._database, self._notifier = database, notifier
        self._period_s = min(PERIOD_S, lease_s / _OF_A_LEASE)
        self._again_s = min(_WRITE_AGAIN_AFTER_S, 2 * lease_s / _OF_A_LEASE)
        self._present: Counter[SiteId] = Counter()
        self._heard: set[SiteId] = set()
        self._written: dict[SiteId, float] = {}
        self._marked: OrderedDict[SiteId, float] = OrderedDict()
        self._wake = asyncio.Event()

    def mark(self, site_id: SiteId) -> None:
        """Note that the site spoke just now; one that was silent for a while is written down at once."""
        self._heard.add(site_id)
        self._measure(site_id)
        if site_id not in self._written:
            self._wake.set()

    def _measure(self, site_id: SiteId) -> None:
        moment, before = monotonic(), self._marked.pop(site_id, None)
        self._marked[site_id] = moment
        if before is not None:
            HEARTBEAT_AGE_SECONDS.observe(moment - before)
        if len(self._marked) > _MOST_MARKED:
            self._marked.popitem(last=False)

    @contextmanager
    def present(self, site_id: SiteId) -> Iterator[None]:
        """Keep the site, which waits here, as heard all the while."""
        self.mark(site_id)
        self._present[site_id] += 1
        try:
            yield
        finally:
            self._present[site_id] -= 1
            if self._present[site_id] <= 0:
                del self._present[site_id]
            self.mark(site_id)

    async def run(self) -> None:
        """Write down and look, until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.flush()
                await self.look()
            except Unavailable:
                log.warning("attendance.database_away")
            try:
                async with asyncio.timeout(self._period_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def release(self, stopping: asyncio.Event) -> None:
        """Wake everybody who waits here once the process is asked to end."""
        await stopping.wait()
        for site in list(self._present):
            self._notifier.notify_local(site)

    async def flush(self) -> None:
        """Write down the sites that were heard, and that a process was listening."""
        moment = monotonic()
        due = {
            site
            for site in self._heard | set(self._present)
            if moment - self._written.get(site, -self._again_s) >= self._again_s
        }
        self._heard -= due

        async def work(tx: Transaction) -> None:
            sites = SiteRepository(tx)
            now = await tx.now()
            await sites.mark_watched(now, LONGEST_GAP)
            await sites.mark_seen(due, now)

        await self._database.run("sites.attendance", work)
        self._written = {
            site: at for site, at in self._written.items() if moment - at < 2 * self._again_s
        } | dict.fromkeys(due, moment)

    async def look(self) -> None:
        """Wake the waiting sites that have an open task."""
        if not self._present:
            return
        waiting = frozenset(self._present)

        async def work(tx: Transaction) -> list[str]:
            return list(await TaskRepository(tx).waiting_sites(waiting))

        for site in await self._database.read("tasks.waiting_sites", work):
            self._notifier.notify_local(site)
