"""Events of this process that are committed and not yet announced."""

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EmittedEvent:
    """One outbox row: ids only. Consumers read the state from SQL."""

    id: str
    topic: str
    type: str
    subject: str
    trace: str | None


class FreshEvents:
    """Wakes the relay of the same process and hands it the events, so that announcing them needs no query.

    Bounded: where no relay runs, or it lags, the oldest are forgotten here and found in the outbox instead.
    """

    LIMIT = 1000

    def __init__(self) -> None:
        self._events: deque[EmittedEvent] = deque(maxlen=self.LIMIT)
        self._signal = asyncio.Event()

    def put(self, events: list[EmittedEvent]) -> None:
        """Add committed events and wake the relay."""
        self._events.extend(events)
        self._signal.set()

    def take(self) -> list[EmittedEvent]:
        """Return all events since the last call, oldest first."""
        events = list(self._events)
        self._events.clear()
        self._signal.clear()
        return events

    def is_set(self) -> bool:
        """Return whether there are events to take."""
        return self._signal.is_set()

    async def wait(self) -> None:
        """Wait until there are events to take."""
        await self._signal.wait()
