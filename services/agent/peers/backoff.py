"""When to ask again: full jitter, the server's Retry-After, and one circuit per service. Pure but for its arguments."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

BASE_S = 0.2
CAP_S = 30.0  # an agent is back at most this long after its services are
RETRY_AFTER_CAP_S = 300.0  # no server may silence an agent for longer
OPEN_AFTER = 3  # failures in a row


def full_jitter(failures: int, *, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds to wait after that many failures in a row (1 = the first)."""
    return uniform(0.0, min(CAP_S, BASE_S * 2.0 ** min(failures - 1, 16)))


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header; dates are not used by the platform and are ignored."""
    if value is None or not value.strip().isdigit():
        return None
    return min(float(value), RETRY_AFTER_CAP_S)


@dataclass(slots=True)
class CircuitBreaker:
    """Remembers that a service is away, so that not every caller finds out for itself."""

    clock: Callable[[], float]  # monotonic seconds
    uniform: Callable[[float, float], float] = random.uniform
    failures: int = 0
    _open_until: float = field(default=0.0)

    def succeeded(self) -> None:
        """Note that the service answered."""
        self.failures = 0
        self._open_until = 0.0

    def failed(self, retry_after_s: float | None = None) -> float:
        """Note that the service did not answer; return the seconds to wait before the next try."""
        self.failures += 1
        pause = full_jitter(self.failures, uniform=self.uniform)
        if retry_after_s is not None:
            pause = retry_after_s * self.uniform(1.0, 1.2)
        if self.failures >= OPEN_AFTER:
            self._open_until = max(self._open_until, self.clock() + pause)
        return pause

    def remaining_s(self) -> float:
        """Seconds until the next try is due; 0 while the circuit is closed."""
        return max(0.0, self._open_until - self.clock())
