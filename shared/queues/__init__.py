"""Doorbells over Redis Streams: SQL is the truth, a message only says where to look."""

from undersong.shared.queues.consumer import Consumer
from undersong.shared.queues.events import Event
from undersong.shared.queues.notifier import Notifier, Subscription
from undersong.shared.queues.relay import Relay
from undersong.shared.queues.running import background, run_all, worker_loop
from undersong.shared.queues.streams import REDIS_FAULTS, Streams
from undersong.shared.queues.sweeper import Sweeper
from undersong.shared.queues.tail import OutboxTail

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
