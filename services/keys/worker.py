"""The keys service's background work: announce events, delete what has expired."""

from typing import Final

from undersong.services.keys.enrolments import Enrolments
from undersong.services.keys.settings import KeysSettings
from undersong.shared.database import Database
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.queues import Relay, Streams, Sweeper, run_all
from undersong.shared.web.idempotency import prune_idempotency
from undersong.shared.web.vitals import vitals

_SWEEP_S: Final = 30.0  # nothing waits for these jobs: expired rows are refused by their time already


async def work(settings: KeysSettings, database: Database, streams: Streams, enrolments: Enrolments) -> None:
    """Run until told to stop."""
    jobs = {
        "challenges": enrolments.prune_challenges,
        "nonces": SqlNonces(database).prune,
        "idempotency": lambda: prune_idempotency(database),
    }
    await run_all(
        Relay(database, streams).run(),
        Sweeper(_SWEEP_S, jobs, housekeeping=True).run(),
        vitals("keys", settings, database),
    )
