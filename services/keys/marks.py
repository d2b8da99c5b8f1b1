"""The mark of the keys service: epoch and counter of its witness, and the size of its log."""

from undersong.services.keys.appending import log_restored
from undersong.services.keys.repository.authority import AuthorityRepository
from undersong.services.keys.repository.log import LogRepository
from undersong.services.keys.repository.witness import WitnessRepository
from undersong.shared.database import Transaction
from undersong.shared.identity.highwater import Mark


class KeysMarks:
    """Rounds of earlier epochs are void by their number; the log says that there was a restore."""

    async def in_turn(self, tx: Transaction) -> None:
        """Wait for the turn in which certificates are issued, too."""
        await AuthorityRepository(tx).in_turn()

    async def mark(self, tx: Transaction) -> Mark:
        """Return how far the database has come."""
        epoch, counter = await WitnessRepository(tx).state()
        return Mark(epoch, counter, await LogRepository(tx).size())

    async def put(self, tx: Transaction, epoch: int, counter: int) -> None:
        """Store epoch and counter."""
        await WitnessRepository(tx).put_state(epoch, counter)

    async def restored(self, tx: Transaction, epoch: int) -> None:
        """Say it in the log."""
        await log_restored(tx, epoch)
