"""Heads of sites' ledgers: put into the log as the sites signed them, and shown to their federation."""

from datetime import timedelta
from typing import Final

from undersong.services.keys.appending import append
from undersong.services.keys.domain import HeadOfAnother, HeadsTooMany
from undersong.services.keys.repository.certificates import CertificateRepository
from undersong.services.keys.repository.ledger_heads import LedgerHeadRepository
from undersong.services.keys.restores import PendingMark, RestoreWatch
from undersong.shared.database import Database, Transaction
from undersong.shared.identity.verify import Party
from undersong.shared.transparency.documents import LEDGER_HEAD
from undersong.shared.transparency.ledger_heads import LedgerHead, LoggedLedgerHead, is_of

MOST_AN_HOUR: Final = 240
"""Heads of one site: the log never drops one, and every site reads it."""
_HOUR: Final = timedelta(hours=1)


class LedgerHeads:
    """The use cases."""

    def __init__(self, database: Database, watch: RestoreWatch) -> None:
        self._database, self._watch = database, watch

    async def add(self, head: LedgerHead, party: Party) -> tuple[LoggedLedgerHead, bool]:
        """Log the head of the party's own ledger; the logged head, and whether it is new. Idempotent.

        A head that goes back is logged as well: that it did is what the log is there to show. Raises HeadOfAnother,
        LedgerHeadInvalid or HeadsTooMany.
        """

        async def work(tx: Transaction, pending: PendingMark) -> tuple[int, bool]:  # noqa: ARG001
            await CertificateRepository(tx).check_in_force(party.keyid)
            repository = LedgerHeadRepository(tx)
            known = await repository.index_of(head)
            if known is not None:
                return known, False
            now = await tx.now()
            if await repository.count_since(head, now - _HOUR) >= MOST_AN_HOUR:
                raise HeadsTooMany(f"the log takes {MOST_AN_HOUR} heads of a ledger an hour", retry_after_s=60)
            index = await append(tx, LEDGER_HEAD, head.subject(), head.leaf_document())
            await repository.add(head, index, now)
            return index, True

        if not is_of(head, party.subject) or head.keyid != party.keyid:
            raise HeadOfAnother(f"{party.name} commits to its own ledger only, with the certificate that it asks with")
        head.check(party)
        index, new = await self._watch.run("ledger_head.add", work)
        return LoggedLedgerHead(head=head, index=index), new

    async def of_site(self, federation_id: str, site_id: str, start: int, limit: int) -> list[LoggedLedgerHead]:
        """Return the heads of a site's ledger in the log's order, from the entry `start` on."""
        return await self._database.read(
            "ledger_head.of_site", lambda tx: LedgerHeadRepository(tx).of_site(federation_id, site_id, start, limit)
        )
