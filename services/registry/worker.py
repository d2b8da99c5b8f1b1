"""The registry's background work: clear away what no version needs, forget what has expired."""

from datetime import timedelta
from typing import Final

from services.registry.contents import Contents
from shared.database import Database
from shared.identity.nonces import SqlNonces
from shared.queues import Sweeper, run_all
from shared.web.idempotency import prune_idempotency

_SWEEP_S: Final = 60.0  # nothing waits for these jobs


async def work(database: Database, contents: Contents, keep_unused: timedelta) -> None:
    """Run until told to stop."""

    async def collect() -> int:
        await contents.collect(keep_unused)
        return 0  # housekeeping is no repair

    jobs = {
        "contents": collect,
        "nonces": SqlNonces(database).prune,
        "idempotency": lambda: prune_idempotency(database),
    }
    await run_all(Sweeper(_SWEEP_S, jobs).run())
