"""What the worker reads from SQL into gauges: ages, dead tasks, who is there, how thin the rounds are."""

from collections import Counter
from datetime import timedelta
from typing import Final

from undersong.services.coordinator.domain.rounds import Phase
from undersong.services.coordinator.leases import Timing
from undersong.services.coordinator.repository.rounds import RoundRepository
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.repository.tasks import TaskRepository
from undersong.shared.database import Database, Transaction
from undersong.shared.telemetry.metrics import (
    DEAD_TASKS,
    ROUND_AGE_SECONDS,
    ROUND_OVERDUE_SECONDS,
    SITES,
    SITES_ONLINE,
    TASKS_UNLEASED,
    THIN_ROUNDS,
)

RECENT: Final = timedelta(days=1)
SILENT: Final = timedelta(minutes=3)
THIN: Final = 1.2  # of the fewest sites that a round needs
_VERSIONS: Final = 8  # as many versions have a series of their own, the others share one: sites choose what they say
_LOOKED_AT: Final = 3


class Gauges:
    """Measures for the sweeper; nothing here is a repair."""

    def __init__(self, database: Database, timing: Timing) -> None:
        self._database, self._lease = database, timing.lease

    async def rounds(self) -> int:
        """Set the ages of rounds, and how many tasks are dead or wait for a lease."""

        async def work(tx: Transaction) -> None:
            rounds, now = RoundRepository(tx), await tx.now()
            oldest, deadline = await rounds.oldest(), await rounds.earliest_deadline()
            for phase in (Phase.PLANNED, Phase.COLLECTING):
                ROUND_AGE_SECONDS.labels(str(phase)).set((now - oldest.get(phase, now)).total_seconds())
            ROUND_OVERDUE_SECONDS.set(max(0.0, (now - (deadline or now)).total_seconds()))
            DEAD_TASKS.set(await TaskRepository(tx).dead())
            TASKS_UNLEASED.set(await TaskRepository(tx).unleased(now - SILENT))

        await self._database.read("gauges.rounds", work)
        return 0

    async def sites(self) -> int:
        """Return who is there, and how thin the last rounds were."""

        async def work(tx: Transaction) -> None:
            sites, now = SiteRepository(tx), await tx.now()
            recent, heard = await sites.heard(now - RECENT), await sites.heard(now - SILENT)
            SITES.labels("recent").set(recent)
            SITES.labels("silent").set(max(0, recent - heard))
            _tell_versions(Counter(await sites.versions(now - self._lease)))
            turnout = await RoundRepository(tx).turnout(_LOOKED_AT)
            THIN_ROUNDS.set(sum(got < asked and got < THIN * needed for got, needed, asked in turnout))

        await self._database.read("gauges.sites", work)
        return 0


def _tell_versions(online: Counter[str]) -> None:
    SITES_ONLINE.clear()
    named = dict(online.most_common(_VERSIONS))
    for version, count in named.items():
        SITES_ONLINE.labels(version).set(count)
    SITES_ONLINE.labels("other").set(online.total() - sum(named.values()))
