"""Finds rounds in the transparency log with this site's update that its state does not know.

A snapshot of the whole machine that was put back holds an older database and an older mark, which agree. But the log
names, in the record of each round, whose updates are in its sum: the log is the mark that no site can put back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.peers.link import Call, Link
from undersong.services.agent.transparency.receipts import RECORD_BYTES
from undersong.shared.ids import RoundId, SiteId
from undersong.shared.wire.manifest import RoundKind

TOGETHER: Final = 16
MOST: Final = 64
"""Of rounds that are unknown here, so many of the newest are looked at after a start; one that was lost is enough."""


class LostRounds:
    """Looks at rounds that came into the log since this site's state last read it."""

    def __init__(self, ledger: Ledger, link: Link, site_id: SiteId) -> None:
        self._ledger, self._link, self._site_id = ledger, link, site_id

    async def check(self, leaves: Sequence[Mapping[str, Any]]) -> None:
        """Tell the ledger which of these rounds it lost. The leaves' documents are already checked against a head.

        Raises Away, RequestRefused or ValueError where records cannot be read; they are looked at again.
        """
        records = {str(leaf["round_id"]): str(leaf["record"]) for leaf in leaves}
        unknown = (await asyncio.to_thread(self._ledger.unknown, list(records)))[-MOST:]
        lost: list[RoundId] = []
        for begin in range(0, len(unknown), TOGETHER):
            lost += await self._lost(unknown[begin : begin + TOGETHER], records)
        if lost:
            await asyncio.to_thread(self._ledger.miss, lost)

    async def _lost(self, rounds: Sequence[str], records: Mapping[str, str]) -> list[RoundId]:
        from undersong.shared.transparency.documents import LoggedRecords

        asked = urlencode([*(("round_id", round_id) for round_id in rounds), ("since", "0")])
        call = Call("GET", f"/v1/log/records?{asked}", answer_bytes=RECORD_BYTES)
        found = LoggedRecords.model_validate_json((await self._link.once(call)).content)
        return [
            one.record.round_id
            for one in found.items
            if self._site_id in one.record.bodies
            and one.record.digest() == records.get(one.record.round_id)
            and one.record.manifest.manifest.kind is not RoundKind.INITIALISE
        ]
