"""The helper's mark, and what a restore means to it: what it may have signed is forgotten, so no round goes on."""

from undersong.services.keys.helper.repository.rounds import HelperRepository
from undersong.services.keys.openings import Openings
from undersong.shared.database import Transaction
from undersong.shared.identity.highwater import Mark


class HelperMarks:
    """Rounds that were begun before a restore lose their secrets; what was opened since the copy is known again."""

    def __init__(self, openings: Openings) -> None:
        self._openings = openings

    async def in_turn(self, tx: Transaction) -> None:
        """Lock the one row."""
        await HelperRepository(tx).in_turn()

    async def mark(self, tx: Transaction) -> Mark:
        """Return how far the database has come."""
        return Mark(*await HelperRepository(tx).mark())

    async def put(self, tx: Transaction, epoch: int, counter: int) -> None:
        """Store epoch and counter."""
        await HelperRepository(tx).put_mark(epoch, counter)

    async def restored(self, tx: Transaction, epoch: int) -> None:  # noqa: ARG002  (rounds have no epoch here: their keys go)
        """Erase the secrets of every round, and learn what was opened."""
        rows = HelperRepository(tx)
        await rows.void()
        for opening in self._openings.read():
            await rows.opened(opening)
