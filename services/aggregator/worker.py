"""The aggregator's background work: drive rounds, announce events, repair what a crash or a lost hint left."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final

from undersong.services.aggregator.contributions.part_worker import PartWorker
from undersong.services.aggregator.driver.driver import RoundDriver
from undersong.services.aggregator.driver.maintenance import RoundMaintenance
from undersong.services.aggregator.repository.rounds import WORK_TOPIC
from undersong.shared.database import Database
from undersong.shared.queues import Consumer, Notifier, OutboxTail, Relay, Streams, Sweeper, run_all

GROUP: Final = "aggregator.workers"
_PRUNE_EVERY_S: Final = 60.0


async def work(
    database: Database,
    streams: Streams,
    maintenance: RoundMaintenance,
    driver: RoundDriver,
    part_worker: PartWorker,
    notifier: Notifier,
    *,
    prune: Mapping[str, Callable[[], Awaitable[int]]],
    sweep_s: float,
    keep: timedelta,
) -> None:
    """Run until told to stop; rounds held are released at the end."""
    jobs = {
        "rounds_overdue": maintenance.enforce,
        "rounds_unattended": maintenance.attend,
        "rounds_unscrubbed": maintenance.scrub,
        "records_waiting": maintenance.records.sweep,
        "ages": maintenance.measure,
    }
    chores = {
        **prune,
        "blobs_unused": lambda: maintenance.tidy(keep),
        "receipts": maintenance.audit,
        "parts_stale": maintenance.parts.collect,
    }
    consumer = Consumer(streams, WORK_TOPIC, GROUP, maintenance.hear)
    try:
        await run_all(
            Relay(database, streams, notifier=notifier).run(),
            OutboxTail(database, streams, notifier=notifier, consumers=[consumer]).run(),
            notifier.run(),
            consumer.run(),
            part_worker.run(),
            Sweeper(sweep_s, jobs).run(),
            Sweeper(_PRUNE_EVERY_S, chores, housekeeping=True).run(),
        )
    finally:
        await driver.stop()
