"""The consumer: at least once, one event at a time, and none left with a dead process."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from redis.exceptions import ResponseError

from undersong.shared.clock import monotonic
from undersong.shared.faults import point
from undersong.shared.queues.events import Event, from_fields
from undersong.shared.queues.streams import BLOCK_MS, REDIS_FAULTS, Streams, heed_cancellation
from undersong.shared.telemetry.metrics import STREAM_IDLE_SECONDS, STREAM_PENDING
from undersong.shared.telemetry.traces import continue_trace

log = structlog.get_logger(__name__)

Handle = Callable[[Event], Awaitable[None]]
_LONGEST_PAUSE_S = 2.0
_FIRST_PAUSE_S = 0.05


class Consumer:
    """Hands every event of a topic to `handle`, once per group at best and several times at worst.

    `handle` looks at SQL, acts in one transaction, and returns; only then is the event acknowledged and deleted. When
    it raises, or its process dies, the event comes back after `claim_after_s`, at most `max_deliveries` times: after
    that the hint is dropped: the state it is about is in SQL, where the sweeper finds it.
    """

    def __init__(
        self,
        streams: Streams,
        topic: str,
        group: str,
        handle: Handle,
        *,
        claim_after_s: float = 30.0,
        max_deliveries: int = 5,
    ) -> None:
        self._streams = streams
        self._redis = streams.redis
        self.topic = topic
        self._key = streams.key(topic)
        self._group = group
        self._handle = handle
        self._claim_after_ms = int(claim_after_s * 1000)
        self._max_deliveries = max_deliveries
        self._name = secrets.token_hex(8)  # a new name per start: what an old name holds is claimed, never shared

    async def run(self) -> None:
        """Consume until cancelled; survives Redis going away, being wiped and coming back."""
        pause_s = _FIRST_PAUSE_S
        while True:
            heed_cancellation()
            try:
                await self._streams.replace_foreign(self.topic)
                await self._make_group()
                pause_s = _FIRST_PAUSE_S
                await self._consume()
            except ResponseError as error:
                if not str(error).startswith(("NOGROUP", "UNBLOCKED", "WRONGTYPE")):
                    log.exception("consumer.refused", topic=self.topic)
                    await asyncio.sleep(_LONGEST_PAUSE_S)
            except REDIS_FAULTS as error:
                self._streams.note_failure("consume", error)
                log.warning("consumer.redis_away", topic=self.topic, error=type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _make_group(self) -> None:
        try:  # from 0, not $: events that came before the group count too
            await self._redis.xgroup_create(self._key, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _consume(self) -> None:
        claim_at = monotonic()
        while True:
            heed_cancellation()
            if monotonic() >= claim_at:
                await self._take_over()
                claim_at = monotonic() + self._claim_after_ms / 3000
            block_ms = max(1, min(BLOCK_MS, int((claim_at - monotonic()) * 1000)))
            answer = await self._redis.xreadgroup(self._group, self._name, {self._key: ">"}, count=1, block=block_ms)
            for entry_id, fields in _entries(answer):
                await self._deliver(entry_id, fields)

    async def _take_over(self) -> None:
        """Handle what others, or this consumer's own failures, left pending for too long."""
        cursor = "0-0"
        while True:
            heed_cancellation()
            cursor, entries, *_ = await self._redis.xautoclaim(
                self._key, self._group, self._name, min_idle_time=self._claim_after_ms, start_id=cursor, count=1
            )
            for entry_id, fields in entries:
                if not fields:  # deleted meanwhile
                    await self._redis.xack(self._key, self._group, entry_id)
                elif await self._deliveries(entry_id) > self._max_deliveries:
                    log.error("consumer.gave_up", topic=self.topic, subject=fields.get("subject"))
                    await self._acknowledge(entry_id)
                else:
                    await self._deliver(entry_id, fields)
            if cursor == "0-0":
                return await self._measure()

    async def _deliveries(self, entry_id: str) -> int:
        pending = await self._redis.xpending_range(self._key, self._group, min=entry_id, max=entry_id, count=1)
        return int(pending[0]["times_delivered"]) if pending else 0

    async def _deliver(self, entry_id: str, fields: Mapping[str, str]) -> None:
        try:
            event = from_fields(fields)
        except ValueError:
            log.warning("consumer.not_understood", topic=self.topic)
            await self._acknowledge(entry_id)
            return
        holding = asyncio.create_task(self._hold(entry_id))  # no other consumer claims the event meanwhile
        try:
            handled = await self.take(event)
        finally:
            holding.cancel()
            await asyncio.wait([holding])
        if handled:
            await self._acknowledge(entry_id)

    async def take(self, event: Event) -> bool:
        """Hand one event to the handler, from wherever it was read; return whether it was handled."""
        bound = structlog.contextvars.bound_contextvars(event_id=event.id)
        with bound, continue_trace(event.trace, f"{self.topic} {event.type}", {"subject": event.subject}):
            try:
                point("consumer.heard")
                await self._handle(event)
                point("consumer.handled")
            except Exception:
                log.exception("consumer.handler_failed", topic=self.topic, type=event.type, subject=event.subject)
                return False
        return True

    async def _hold(self, entry_id: str) -> None:
        while True:
            heed_cancellation()
            await asyncio.sleep(self._claim_after_ms / 3000)
            try:
                await self._redis.xclaim(
                    self._key, self._group, self._name, min_idle_time=0, message_ids=[entry_id], justid=True
                )
            except REDIS_FAULTS:
                log.warning("consumer.redis_away", topic=self.topic)

    async def _acknowledge(self, entry_id: str) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xack(self._key, self._group, entry_id)
        pipeline.xdel(self._key, entry_id)
        await pipeline.execute()

    async def _measure(self) -> None:
        labels = (self.topic, self._group)
        summary = await self._redis.xpending(self._key, self._group)
        STREAM_PENDING.labels(*labels).set(summary["pending"])
        oldest = await self._redis.xpending_range(self._key, self._group, min="-", max="+", count=1)
        STREAM_IDLE_SECONDS.labels(*labels).set(int(oldest[0]["time_since_delivered"]) / 1000 if oldest else 0)


def _entries(answer: Any) -> list[tuple[str, dict[str, str]]]:
    if not answer:
        return []
    streams = answer.values() if isinstance(answer, dict) else (entries for _, entries in answer)
    found: list[tuple[str, dict[str, str]]] = []
    for entries in streams:
        for entry in entries:
            if isinstance(entry, list) and entry and isinstance(entry[0], (list, tuple)):
                found.extend(tuple(each) for each in entry)  # RESP3 nests the entries once more
            else:
                found.append(tuple(entry))
    return found
