"""The bell: wakes long polls in this process when an event about their subject is rung anywhere."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.queues.events import Event
from shared.queues.streams import REDIS_FAULTS, Streams, heed_cancellation

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 2.0  # while Redis is away, waiters return this often and look at SQL themselves
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_PING_EVERY_S = 10.0


class Ring:
    """One waiter's ear for one key."""

    def __init__(self, bell: "Bell") -> None:
        self._bell = bell
        self._signal = asyncio.Event()

    def strike(self) -> None:
        """Wake the waiter."""
        self._signal.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a ring since the last `wait`; False after `timeout_s`, or sooner while Redis is away."""
        if not self._bell.connected:
            timeout_s = min(timeout_s, _LOOK_EVERY_S)
        try:
            async with asyncio.timeout(timeout_s):
                await self._signal.wait()
        except TimeoutError:
            return False
        self._signal.clear()
        return True


class Bell:
    """Listens to the topics' channels; a waiter is woken by key, which is the event's subject.

    A ring is a hint: look at SQL after it, and after a time-out too. To miss nothing, begin to `listen` before the
    first look.
    """

    def __init__(self, streams: Streams, topics: Sequence[str]) -> None:
        self._streams, self.topics = streams, frozenset(topics)
        self._channels = [streams.channel(topic) for topic in topics]
        self._rings: dict[str, set[Ring]] = {}
        self.connected = False

    @property
    def answering(self) -> bool:
        """Whether this process hears what others announce: it is subscribed, and Redis has not failed lately."""
        return self.connected and not self._streams.failing

    @contextmanager
    def listen(self, key: str) -> Iterator[Ring]:
        """Be woken by every event about `key` from now on."""
        ring = Ring(self)
        rings = self._rings.setdefault(key, set())
        rings.add(ring)
        try:
            yield ring
        finally:
            rings.discard(ring)
            if not rings and self._rings.get(key) is rings:
                del self._rings[key]

    async def wait(self, key: str, timeout_s: float) -> bool:
        """Wait for the next ring about `key`; use `listen` where a ring between look and wait must not be missed."""
        with self.listen(key) as ring:
            return await ring.wait(timeout_s)

    def ring_for(self, event: Event) -> None:
        """Wake all who wait in this process for what the event is about, if its topic is one that is listened to."""
        if event.topic in self.topics:
            self.ring_local(event.subject)

    def ring_local(self, key: str) -> None:
        """Wake all who wait for `key` in this process."""
        for ring in self._rings.get(key, ()):
            ring.strike()

    async def run(self) -> None:
        """Listen until cancelled; connects again for ever."""
        pause_s = _FIRST_PAUSE_S
        while True:
            heed_cancellation()
            try:
                await self._listen_once()
            except REDIS_FAULTS as error:
                self._streams.note_failure("bell", error)
                log.warning("bell.redis_away", error=type(error).__name__)
                pause_s = _FIRST_PAUSE_S if self.connected else min(pause_s * 2, _LONGEST_PAUSE_S)
            finally:
                self.connected = False
            await asyncio.sleep(pause_s)

    async def _listen_once(self) -> None:
        async with self._streams.redis.pubsub() as channels:
            await channels.subscribe(*self._channels)
            self.connected = True
            self._ring_everyone()  # what rang while nobody listened
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
            log.warning("bell.not_understood")
            return
        self.ring_local(subject)

    def _ring_everyone(self) -> None:
        for rings in self._rings.values():
            for ring in rings:
                ring.strike()
