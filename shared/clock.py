"""The clock as an argument: rules never read the time themselves."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""Gives the present moment, aware and in UTC."""

_ahead: Callable[[], timedelta] | None = None


def utc_now() -> datetime:
    """Now, aware and in UTC."""
    now = datetime.now(UTC)
    return now if _ahead is None else now + _ahead()


def utc_text(ms: int) -> str:
    """Return Unix milliseconds as RFC 3339 to the second, for people; a time that no calendar has as its number."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def run_ahead(ahead: Callable[[], timedelta] | None) -> None:
    """Let this process's clock be ahead by what the function gives, for tests of wrong clocks; None ends that."""
    global _ahead
    _ahead = ahead


def monotonic() -> float:
    """Seconds on a clock that never goes back; for durations only."""
    return time.monotonic()
