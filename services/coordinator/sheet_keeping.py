"""Has the registry keep the datasheets of what jobs made, and new ones when a version was audited."""

from collections import Counter
from datetime import timedelta
from typing import Final

import structlog

from undersong.services.coordinator.datasheets import Datasheets
from undersong.services.coordinator.peers.peer import PartyAway, PartyRefused
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import NotFound

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RECENT: Final = timedelta(days=1)
"""After a job's end: a sheet that is not kept by then is kept when a person asks for it."""
HEADS_WITHIN: Final = timedelta(minutes=15)
"""After a job's end: heads of owners' ledgers that come later are in the sheet that a person asks for."""
TOGETHER: Final = 5
"""Sheets made in one turn: each may take a second."""


class SheetKeeper:
    """Keeps, in turns, what is due; it remembers nothing that a restart must know."""

    def __init__(self, database: Database, datasheets: Datasheets, registry: Registry) -> None:
        self._database, self._datasheets, self._registry = database, datasheets, registry
        self._done: set[str] = set()
        self._failures: Counter[str] = Counter()

    async def sweep(self) -> int:
        """Keep the sheets of audited versions, and of versions that jobs ended with; return how many were looked at."""
        try:
            audited = await self._registry.stale_datasheets()
        except (PartyAway, PartyRefused, NotFound):
            return 0  # the registry is asked again in the next turn
        ended, waiting = await self._database.read("datasheets.ended", self._ended)
        wanted = dict.fromkeys([*audited, *(one for one in ended if one not in self._done)])
        due = sorted(wanted, key=lambda one: self._failures[one])[:TOGETHER]  # one that fails holds up no other
        for version_id in due:
            try:
                complete = await self._datasheets.keep(version_id)
            except (NotFound, PartyAway, PartyRefused) as refusal:
                self._failures[version_id] += 1
                log.info("datasheet.unkept", version_id=version_id, reason=refusal.detail)
                continue
            if complete or version_id not in waiting:
                self._done.add(version_id)
        self._done &= {*ended, *audited}
        return len(due)

    @staticmethod
    async def _ended(tx: Transaction) -> tuple[list[str], set[str]]:
        """Return the versions that jobs ended with lately, and those of them whose heads may still come."""
        now = await tx.now()
        jobs = await JobRepository(tx).ended_since(now - RECENT)
        made = [(str(job.version_id), job.finished_at) for job in jobs if job.version_id is not None]
        waiting = {version_id for version_id, at in made if at is not None and at > now - HEADS_WITHIN}
        return [version_id for version_id, _ in made], waiting
