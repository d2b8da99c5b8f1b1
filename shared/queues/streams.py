"""The connection to Redis, the events announced through it, and whether it fails.

Redis holds nothing that SQL does not: wiping it costs one sweep, and while it fails `undersong.shared.queues.tail`
replaces it. A key of ours that holds another type is deleted and made anew.

keys:      <prefix>:<topic>        stream of events, read by consumer groups; entries go when they are acknowledged
channels:  <prefix>:notify:<topic>   the same events for processes listening now (long polls)
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from undersong.shared.clock import monotonic, utc_now
from undersong.shared.queues.events import Event, to_fields
from undersong.shared.telemetry.metrics import REDIS_FAILURES

log = structlog.get_logger(__name__)

SOCKET_TIMEOUT_S = 5.0
PING_WITHIN_S = 0.5
FAILING_FOR_S = 5.0  # a failure counts this long: a server that comes and goes is as good as away
BLOCK_MS = 2000  # well below the socket's time-out, so that an idle read never looks like a broken one
REDIS_FAULTS = (RedisError, OSError)
_HINT_LIFETIME_S = 600  # an unconsumed hint is worth nothing after a sweep
_GHOST_IDLE_MS = 3_600_000


def heed_cancellation() -> None:
    """Raise when this task has been cancelled; every loop over Redis calls it.

    Python 3.11's `asyncio.wait_for`, through which redis-py sends, loses a cancellation that comes as it finishes.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def connect(url: str) -> "Redis":
    """Return a client that never repeats a command by itself: a repeated XADD is a repeated event."""
    client: Redis = Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
    )
    return client


class Streams:
    """One Redis server as seen by one process; `prefix` keeps several platforms on one server apart."""

    def __init__(self, url: str, *, prefix: str = "undersong") -> None:
        self.url = url
        self.prefix = prefix
        self.redis = connect(url)
        self._rung: set[str] = set()
        self._fault: Exception | None = None
        self._failed_at = float("-inf")
        self._failure = asyncio.Event()

    def note_failure(self, operation: str, error: Exception) -> None:
        """Count a failed operation; for the next seconds `failing` holds and no operation waits for Redis."""
        REDIS_FAILURES.labels(operation).inc()
        if not self.failing:
            log.warning("redis.failing", operation=operation, error=type(error).__name__)
        self._fault, self._failed_at = error, monotonic()
        self._failure.set()

    @property
    def failing(self) -> bool:
        """Whether an operation failed within the last `FAILING_FOR_S` seconds."""
        return monotonic() - self._failed_at < FAILING_FOR_S

    async def wait_failing(self, timeout_s: float) -> None:
        """Wait until an operation fails, at most `timeout_s` seconds."""
        self._failure.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._failure.wait()

    def key(self, topic: str) -> str:
        """Return the stream of a topic."""
        return f"{self.prefix}:{topic}"

    def channel(self, topic: str) -> str:
        """Return the channel on which a topic's events are also announced."""
        return f"{self.prefix}:notify:{topic}"

    async def notify(self, event: Event) -> None:
        """Add the event to its stream and announce it; raises a Redis error when that is unknown or failed."""
        await self.notify_all([event])

    async def notify_all(self, events: Sequence[Event]) -> None:
        """Announce several events in one round trip."""
        try:
            await self._announce(events)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            for topic in {event.topic for event in events}:
                await self.replace_foreign(topic)
            await self._announce(events)

    async def _announce(self, events: Sequence[Event]) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for event in events:
            fields: dict[Any, Any] = dict(to_fields(event))
            pipeline.xadd(self.key(event.topic), fields)
            pipeline.publish(self.channel(event.topic), json.dumps(fields))
            self._rung.add(event.topic)
        await pipeline.execute()

    async def replace_foreign(self, topic: str) -> None:
        """Delete the topic's key where it is not a stream: another program wrote it."""
        key = self.key(topic)
        if await self.redis.type(key) not in ("stream", "none"):
            await self.redis.delete(key)
            log.warning("redis.key_replaced", key=key)

    async def ping(self) -> None:
        """Raise when Redis does not answer within half a second, or failed a moment ago."""
        if self.failing and self._fault is not None:
            raise type(self._fault)(*self._fault.args)
        try:
            async with asyncio.timeout(PING_WITHIN_S):
                await self.redis.ping()
        except REDIS_FAULTS as error:
            self.note_failure("ping", error)
            raise

    async def tidy(self) -> None:
        """Drop hints of topics without consumers, and names of consumers that are long gone."""
        for topic in sorted(self._rung):
            key = self.key(topic)
            try:
                groups = await self.redis.xinfo_groups(key)
            except ResponseError:  # no such stream
                continue
            if not groups:
                oldest_ms = int((utc_now().timestamp() - _HINT_LIFETIME_S) * 1000)
                await self.redis.xtrim(key, minid=str(oldest_ms), approximate=False)
            for group in groups:
                await self._forget_ghosts(key, group["name"])

    async def _forget_ghosts(self, key: str, group: str) -> None:
        for consumer in await self.redis.xinfo_consumers(key, group):
            if consumer["pending"] == 0 and consumer["idle"] > _GHOST_IDLE_MS:
                await self.redis.xgroup_delconsumer(key, group, consumer["name"])

    async def fullness(self) -> float:
        """Memory that Redis uses, over its limit, or over the machine's memory where it has none."""
        memory = await self.redis.info("memory")
        limit = int(memory.get("maxmemory") or 0) or int(memory.get("total_system_memory") or 0)
        return int(memory["used_memory"]) / limit if limit else 0.0

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()
