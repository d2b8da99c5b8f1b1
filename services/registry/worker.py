"""The registry's background work: clear away what no version needs, forget what has expired."""

from typing import Final

from undersong.services.registry.contents import Contents
from undersong.services.registry.settings import RegistrySettings
from undersong.shared.database import Database
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.queues import Sweeper, run_all
from undersong.shared.web.idempotency import prune_idempotency
from undersong.shared.web.vitals import vitals

_SWEEP_S: Final = 60.0  # nothing waits for these jobs


async def work(settings: RegistrySettings, database: Database, contents: Contents) -> None:
    """Run until told to stop."""

    jobs = {
        "contents": lambda: contents.collect(settings.keep_unused),
        "nonces": SqlNonces(database).prune,
        "idempotency": lambda: prune_idempotency(database),
    }
    await run_all(Sweeper(_SWEEP_S, jobs, housekeeping=True).run(), vitals("registry", settings, database))
