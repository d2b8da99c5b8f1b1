"""What an operator of the coordinator runs by hand; each command may be run again at any time."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from undersong.services.coordinator.accounts import Accounts
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.services.coordinator.repository.sites import SiteRepository
from undersong.services.coordinator.settings import CoordinatorSettings
from undersong.services.coordinator.wiring import open_database
from undersong.shared.database import Database, Transaction
from undersong.shared.identity.sealing import Sealer

_MOST_ROUNDS_SINCE_BACKUP: Final = 1_000_000  # of one job; no record says how many there were
T = TypeVar("T")


def bootstrap(settings: CoordinatorSettings, out: Path) -> None:
    """Create the first admin and write its token to `out`/admin-token (0600)."""
    sealer = Sealer.ensure(settings.seal_key)
    file = _with_database(settings, lambda database: Accounts(database, sealer).bootstrap(out))
    sys.stdout.write(f"{file}\n")


def bump_epoch(settings: CoordinatorSettings) -> None:
    """Raise the epoch, and every job's next round number beyond what may have been used since the backup."""

    async def work(tx: Transaction) -> int:
        await JobRepository(tx).skip_numbers(_MOST_ROUNDS_SINCE_BACKUP)
        return await SiteRepository(tx).bump_epoch()

    sys.stdout.write(f"epoch {_with_database(settings, lambda database: database.run('epoch.bump', work))}\n")


def _with_database(settings: CoordinatorSettings, action: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        database = open_database(settings)
        try:
            return await action(database)
        finally:
            await database.close()

    return asyncio.run(run())
