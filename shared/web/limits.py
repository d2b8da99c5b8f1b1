"""How much one caller may ask, and how much a process takes on: 429 and 503 with Retry-After instead of dying.

A token bucket for each site (by its certificate's name), for each person's token, and for each address of callers
that show neither; services are not limited. Each process counts for itself and in memory, so limits hold when Redis
is away and cost no round trip; a service of n API processes allows up to n times as much. The theory of the bucket:
one time stamp a key, the theoretical arrival time of the generic cell rate algorithm (ITU-T I.371), as Boulder keeps
it.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from undersong.shared.clock import monotonic
from undersong.shared.errors import TooMany, Unavailable

_KEPT: Final = 20_000  # callers remembered; one that was forgotten begins with a full bucket


class RateLimited(TooMany):
    """Too many requests in a short time: wait as long as Retry-After says."""


class Overloaded(Unavailable):
    """The service has as much in hand as it can: wait as long as Retry-After says."""


@dataclass(frozen=True)
class Limits:
    """What one API process allows. A rate of 0 switches a limit off."""

    rate_per_s: float = 100.0  # an agent at work asks about once a second; a poll of its lease lasts 30 s
    burst: int = 2000  # all that a round's steps can ask at once, retries included
    anonymous_rate_per_s: float = 200.0  # of one address, which many agents may share
    anonymous_burst: int = 4000
    failures_per_s: float = 20.0  # refused credentials of one address
    failure_burst: int = 1000
    held_bytes: int = 256 << 20  # bodies that are in memory at one time
    requests_at_once: int = 10_000  # waiting long polls included


class Buckets:
    """Token buckets by key: `rate_per_s` tokens a second, at most `burst`."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate, self._burst = rate_per_s, burst
        self._arrival: OrderedDict[str, float] = OrderedDict()  # when the bucket would be full again

    def take(self, key: str) -> None:
        """Take one token; raises RateLimited when there is none."""
        wait_s = self.wait_s(key)
        if wait_s > 0:
            raise RateLimited(
                f"more than {self._rate:g} requests a second, or {self._burst} at once", retry_after_s=wait_s
            )
        self.spend(key)

    def spend(self, key: str) -> None:
        """Take one token, whether there is one or not; a caller is never more than a burst in debt."""
        if self._rate <= 0:
            return
        now = monotonic()
        full = max(now, self._arrival.pop(key, now)) + 1 / self._rate
        self._arrival[key] = min(full, now + 2 * self._burst / self._rate)
        if len(self._arrival) > _KEPT:
            self._arrival.popitem(last=False)

    def wait_s(self, key: str) -> float:
        """Seconds until there is a token; 0 when there is one."""
        if self._rate <= 0:
            return 0.0
        full = self._arrival.get(key)
        if full is None:
            return 0.0
        return max(0.0, full - monotonic() - (self._burst - 1) / self._rate)


class Limiter:
    """The limits of one process at work."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._known = Buckets(limits.rate_per_s, limits.burst)
        self._unknown = Buckets(limits.anonymous_rate_per_s, limits.anonymous_burst)
        self._failures = Buckets(limits.failures_per_s, limits.failure_burst)
        self._good: OrderedDict[str, None] = OrderedDict()
        self._held = self._active = 0

    def known(self, caller: str) -> None:
        """Count a request of a site or of a person's token; raises RateLimited."""
        self._known.take(caller)

    def unknown(self, address: str) -> None:
        """Count a request without a credential; raises RateLimited."""
        self._unknown.take(address)

    def may_try(self, address: str, credential: str) -> None:
        """Before a credential is looked at: raises RateLimited where too many of this address were refused.

        One that was valid lately is checked in any case, so that no caller shuts out others behind its address.
        """
        wait_s = self._failures.wait_s(address)
        if wait_s > 0 and credential not in self._good:
            raise RateLimited("too many refused credentials from this address", retry_after_s=wait_s)

    def judged(self, address: str, credential: str, *, good: bool) -> None:
        """Note what came of it."""
        if not good:
            self._good.pop(credential, None)
            self._failures.spend(address)
            return
        self._good[credential] = None
        self._good.move_to_end(credential)
        if len(self._good) > _KEPT:
            self._good.popitem(last=False)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While a request lasts; raises Overloaded."""
        if self._active >= self.limits.requests_at_once:
            raise Overloaded("as many requests are in hand as this process takes", retry_after_s=2)
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """While so many bytes of a body are in memory; raises Overloaded. One body alone is always taken."""
        if self._held and self._held + size > self.limits.held_bytes:
            raise Overloaded("as many bodies are in memory as this process takes", retry_after_s=2)
        self._held += size
        try:
            yield
        finally:
            self._held -= size
