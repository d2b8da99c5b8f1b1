"""Commits the ledger's head to the transparency log, and compares the heads there with the ledger.

A snapshot of the whole machine takes database and mark back together; the heads in the log stay. Beside the work and
never in its way: a keys service that is away is asked again later, and no round waits.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.peers.keys import Signatures
from undersong.services.agent.peers.link import Away, Call, Link, RequestRefused
from undersong.shared.identity.authority import Identity

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

GATHER_S: Final = 3.0
"""From a change of the ledger to its commitment, so that lines that follow each other soon go together."""
LOOK_S: Final = 600.0
"""Between two looks whether something is due, where nothing wakes them."""


class HeadCommitter:
    """Tells the log how far the ledger has come, after changes and at most once in `every_s`."""

    def __init__(self, ledger: Ledger, link: Link, identity: Callable[[], Identity], every_s: float) -> None:
        self._ledger, self._link, self._identity, self._every_s = ledger, link, identity, every_s
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            self.wake.clear()
            try:
                sent = await self.commit()
            except (Away, RequestRefused, TaskFailure, ValueError, LookupError, OSError, sqlite3.Error) as error:
                log.info("ledger_head.unsent", reason=str(error))
                await asyncio.sleep(self._every_s)
                continue
            if sent:
                await asyncio.sleep(self._every_s)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self.wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(min(GATHER_S, self._every_s))

    async def commit(self) -> bool:
        """Commit the head if the log was not told of it, and return whether it was due. Idempotent.

        Raises Away or RequestRefused; it is tried again.
        """
        from undersong.shared.transparency.ledger_heads import signed_head

        due = await asyncio.to_thread(self._ledger.uncommitted)
        if due is None:
            return False
        lines, committed = due
        head = signed_head(self._identity(), lines, committed)
        await self._link.once(Call.json("POST", "/v1/log/ledger-heads", head.model_dump(mode="json")))
        await asyncio.to_thread(self._ledger.committed, lines)
        log.info("ledger_head.committed", lines=lines)
        return True


class LoggedHeads:
    """Compares heads of this site's ledger, as the log shows them, with the ledger."""

    def __init__(self, ledger: Ledger, signatures: Signatures) -> None:
        self._ledger, self._signatures = ledger, signatures

    async def check(self, leaves: Sequence[Mapping[str, Any]]) -> None:
        """Tell the ledger which of these heads it does not keep. The leaves are already checked against a head.

        A leaf that no certificate of this site signed is not this site's: it is logged, and nothing follows.
        """
        from undersong.shared.transparency.ledger_heads import LedgerHead, LedgerHeadInvalid

        found: list[LedgerHead] = []
        for leaf in leaves:
            try:
                head = LedgerHead.model_validate({name: leaf.get(name) for name in LedgerHead.model_fields})
                head.check(await self._signatures.holder(head.keyid))
            except (LedgerHeadInvalid, TaskFailure, ValueError) as error:
                log.warning("ledger_head.refused", reason=str(error))
            else:
                found.append(head)
        await asyncio.to_thread(self._ledger.compare, found)
