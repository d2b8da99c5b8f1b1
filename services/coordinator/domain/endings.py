"""How a round ended: what it leaves behind, and what the aggregator says of each site's part. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from undersong.services.coordinator.domain.jobs import RoundOutcome
from undersong.services.coordinator.domain.tasks import DEALER_AT_FAULT, SiteTask
from undersong.shared.ids import SiteId


@dataclass(frozen=True, slots=True)
class Published:
    """What a published round leaves behind: the outcome for the job, and the documents to keep."""

    outcome: RoundOutcome
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SiteFault:
    """What a site did against the engine's protocol."""

    site_id: SiteId
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Whose updates the aggregator counted, whose it could not use (code, message), and who broke the protocol."""

    counted: frozenset[SiteId]
    unusable: Mapping[SiteId, tuple[str, str | None]]
    faults: Sequence[SiteFault] = ()

    def on(self, task: SiteTask, now: datetime) -> SiteTask:
        """Return the task at the end of its round."""
        for fault in self.faults:
            if fault.site_id == task.site_id and fault.code == DEALER_AT_FAULT:
                return task.at_fault(fault.code, fault.message, now)
        if task.site_id in self.unusable:
            return task.unusable(*self.unusable[task.site_id], now)
        return task.counted(now) if task.site_id in self.counted else task.expire("round-ended", now)
