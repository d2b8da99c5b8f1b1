"""Keeps the transparency log's head at hand, so that every manifest says which log the coordinator saw."""

from typing import Final

import structlog

from undersong.services.coordinator.peers.keys import Keys
from undersong.services.coordinator.rounds import Rounds
from undersong.shared.errors import Refusal
from undersong.shared.queues import Sweeper

EVERY_S: Final = 5.0
log = structlog.get_logger(__name__)


class LogHeads:
    """Asks the keys service now and then, beside the rounds: one that is away or slow holds none of them up."""

    def __init__(self, keys: Keys, rounds: Rounds) -> None:
        self._keys, self._rounds = keys, rounds

    async def run(self) -> None:
        """Ask until cancelled."""
        await Sweeper(EVERY_S, {"log_head": self.look}, housekeeping=True).run()

    async def look(self) -> int:
        """Fetch the head for the manifests to come; while the keys service is away, they carry the last one seen."""
        try:
            self._rounds.log_head = await self._keys.head()
        except Refusal as refusal:
            log.info("log_head.unread", reason=refusal.detail)
        return 0
