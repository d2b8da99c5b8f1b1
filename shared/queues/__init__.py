"""Doorbells over Redis Streams: SQL is the truth, a message only says where to look."""

from shared.queues.consumer import Consumer
from shared.queues.events import Event
from shared.queues.notifier import Notifier, Subscription
from shared.queues.relay import Relay
from shared.queues.running import background, run_all, worker_loop
from shared.queues.streams import REDIS_FAULTS, Streams
from shared.queues.sweeper import Sweeper
from shared.queues.tail import OutboxTail

__all__ = [
    "REDIS_FAULTS",
    "Consumer",
    "Event",
    "Notifier",
    "OutboxTail",
    "Relay",
    "Streams",
    "Subscription",
    "Sweeper",
    "background",
    "run_all",
    "worker_loop",
]
