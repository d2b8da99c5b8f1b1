"""The custodian's mark, and what a restore means to it: which sums it gave is forgotten, so no round goes on."""

from undersong.services.keys.custodian.repository.rounds import CustodianRepository
from undersong.services.keys.openings import Openings
from undersong.shared.database import Transaction
from undersong.shared.identity.highwater import Mark


class CustodianMarks:
    """Rounds that were begun before a restore lose their secrets; what was opened since the copy is known again."""

    def __init__(self, openings: Openings) -> None:
        self._openings = openings

    async def in_turn(self, tx: Transaction) -> None:
        """Lock the one row."""
        await CustodianRepository(tx).in_turn()

    async def mark(self, tx: Transaction) -> Mark:
        """Return how far the database has come."""
        return Mark(*await CustodianRepository(tx).mark())

    async def put(self, tx: Transaction, epoch: int, counter: int) -> None:
        """Store epoch and counter."""
        await CustodianRepository(tx).put_mark(epoch, counter)

    async def restored(self, tx: Transaction, epoch: int) -> None:  # noqa: ARG002  (rounds have no epoch here: their keys go)
        """Erase the secrets of every round, and learn what was opened."""
        rows = CustodianRepository(tx)
        await rows.void()
        for opening in self._openings.read():
            await rows.opened(opening)
