"""The worker's loops: hints from the streams, and the sweeper that needs none of them."""

from typing import Final

from undersong.services.coordinator.conductor import Conductor
from undersong.services.coordinator.gauges import Gauges
from undersong.services.coordinator.moves import ROUNDS_TOPIC
from undersong.services.coordinator.rounds import JOBS_TOPIC
from undersong.services.coordinator.schedules import Scheduler
from undersong.services.coordinator.sheet_keeping import SheetKeeper
from undersong.services.coordinator.signins import SignIns
from undersong.services.coordinator.sweeps import SweepRunner
from undersong.services.coordinator.tasks import TaskSweeper
from undersong.services.coordinator.webhook_sending import WebhookSender
from undersong.shared.database import Database
from undersong.shared.queues import Consumer, OutboxTail, Relay, Streams, Sweeper, run_all
from undersong.shared.web.idempotency import prune_idempotency

AGGREGATOR_TOPIC: Final = "aggregator.rounds"
GROUP: Final = "coordinator"
SWEEP_EVERY_S: Final = 2.0
TIDY_EVERY_S: Final = 600.0
LOOK_EVERY_S: Final = 10.0
SEND_EVERY_S: Final = 1.0
ANSWERED_EVERY_S: Final = 0.25
_CONSUMERS: Final = 2
"""For each topic, so that one slow neighbour does not hold up every round."""


async def work(
    database: Database,
    streams: Streams,
    conductor: Conductor,
    tasks: TaskSweeper,
    gauges: Gauges,
    sheets: SheetKeeper,
    webhooks: WebhookSender,
    scheduler: Scheduler,
    sweeps: SweepRunner,
) -> None:
    """Run until the process is told to stop."""
    sweeper = Sweeper(
        SWEEP_EVERY_S,
        {
            "tasks": tasks.sweep,
            "rounds": conductor.sweep_rounds,
            "jobs": conductor.sweep_jobs,
            "reports": conductor.sweep_reports,
            "ages": gauges.rounds,
        },
    )
    tidying = Sweeper(
        TIDY_EVERY_S,
        {
            "idempotency": lambda: prune_idempotency(database),
            "sign_ins": SignIns(database).prune,
            "webhooks": webhooks.tidy,
        },
        housekeeping=True,
    )
    looking = Sweeper(LOOK_EVERY_S, {"sites": gauges.sites})
    keeping = Sweeper(LOOK_EVERY_S, {"datasheets": sheets.sweep}, housekeeping=True)
    sending = Sweeper(SEND_EVERY_S, {"webhooks": webhooks.sweep}, housekeeping=True)
    submitting = Sweeper(SEND_EVERY_S, {"schedules": scheduler.sweep, "sweeps": sweeps.sweep}, housekeeping=True)
    answered = Sweeper(ANSWERED_EVERY_S, {"answered": conductor.sweep_answered}, when=lambda: streams.failing)
    handlers = {
        JOBS_TOPIC: conductor.on_job,
        ROUNDS_TOPIC: conductor.on_round,
        AGGREGATOR_TOPIC: conductor.on_aggregator,
    }
    consumers = [
        Consumer(streams, topic, GROUP, handle, claim_after_s=10)
        for topic, handle in handlers.items()
        for _ in range(_CONSUMERS)
    ]
    await run_all(
        Relay(database, streams).run(),
        OutboxTail(database, streams, consumers=consumers).run(),
        answered.run(),
        *(sweep.run() for sweep in (sweeper, tidying, looking, keeping, sending, submitting)),
        *(consumer.run() for consumer in consumers),
    )
