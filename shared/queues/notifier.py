"""Wake long polls in this process when an event about their subject is announced by any process."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError

from undersong.shared.queues.events import Event
from undersong.shared.queues.streams import REDIS_FAULTS, Streams, heed_cancellation

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 2.0  # while Redis is away, waiters return this often and look at SQL themselves
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_PING_EVERY_S = 10.0


class Subscription:
    """One waiter's subscription to one key."""

    def __init__(self, notifier: "Notifier") -> None:
        self._notifier = notifier
        self._signal = asyncio.Event()

    def notify(self) -> None:
        """Wake the waiter."""
        self._signal.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a notification since the last `wait`; False after `timeout_s`, or sooner while Redis is away."""
        if not self._notifier.connected:
            timeout_s = min(timeout_s, _LOOK_EVERY_S)
        try:
            async with asyncio.timeout(timeout_s):
                await self._signal.wait()
        except TimeoutError:
            return False
        self._signal.clear()
        return True


class Notifier:
    """Listens to the topics' channels; a waiter is woken by key, which is the event's subject.

    A notification is a hint: read SQL after it, and after a time-out too. To miss nothing, begin to `listen` before the
    first look.
    """

    def __init__(self, streams: Streams, topics: Sequence[str]) -> None:
        self._streams, self.topics = streams, frozenset(topics)
        self._channels = [streams.channel(topic) for topic in topics]
        self._subscriptions: dict[str, set[Subscription]] = {}
        self.connected = False

    @property
    def answering(self) -> bool:
        """Whether this process hears what others announce: it is subscribed, and Redis has not failed lately."""
        return self.connected and not self._streams.failing

    @contextmanager
    def listen(self, key: str) -> Iterator[Subscription]:
        """Be woken by every event about `key` from now on."""
        subscription = Subscription(self)
        subscriptions = self._subscriptions.setdefault(key, set())
        subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            subscriptions.discard(subscription)
            if not subscriptions and self._subscriptions.get(key) is subscriptions:
                del self._subscriptions[key]

    async def wait(self, key: str, timeout_s: float) -> bool:
        """Wait for the next notification about `key`; `listen` also hears those between a look and the wait."""
        with self.listen(key) as subscription:
            return await subscription.wait(timeout_s)

    def notify_for(self, event: Event) -> None:
        """Wake all who wait in this process for what the event is about, if its topic is one that is listened to."""
        if event.topic in self.topics:
            self.notify_local(event.subject)

    def notify_local(self, key: str) -> None:
        """Wake all who wait for `key` in this process."""
        for subscription in self._subscriptions.get(key, ()):
            subscription.notify()

    async def run(self) -> None:
        """Listen until cancelled, and connect again after every failure."""
        pause_s = _FIRST_PAUSE_S
        while True:
            heed_cancellation()
            try:
                await self._listen_once()
            except REDIS_FAULTS as error:
                self._streams.note_failure("notifier", error)
                log.warning("notifier.redis_away", error=type(error).__name__)
                pause_s = _FIRST_PAUSE_S if self.connected else min(pause_s * 2, _LONGEST_PAUSE_S)
            finally:
                self.connected = False
            await asyncio.sleep(pause_s)

    async def _listen_once(self) -> None:
        async with self._streams.redis.pubsub() as channels:
            await channels.subscribe(*self._channels)
            self.connected = True
            self._notify_everyone()  # what was announced before this process listened
            quiet = 0
            while True:
                message = await channels.get_message(timeout=_PING_EVERY_S)
                heed_cancellation()
                if message is not None:
                    quiet = 0
                    if message["type"] == "message":
                        self._hear(message["data"])
                elif quiet:
                    raise RedisConnectionError("no answer to a ping")
                else:
                    quiet += 1
                    await channels.ping()

    def _hear(self, data: str) -> None:
        try:
            subject = json.loads(data)["subject"]
        except (ValueError, KeyError, TypeError):
            log.warning("notifier.not_understood")
            return
        self.notify_local(subject)

    def _notify_everyone(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.notify()
