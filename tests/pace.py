"""Waiting in tests: by the pace that the machine has, because another load beside the tests makes all of them slow."""

import time

_PROBE_S = 0.005
_LOOK_S = 0.25


class Deadline:
    """Is over after so many seconds of an idle machine; on a loaded one they last longer, as everything does."""

    def __init__(self, seconds: float) -> None:
        self._left, self._last = seconds, time.monotonic()

    def over(self) -> bool:
        """Count the time since the last call by the share of a processor that a busy thread gets now."""
        began, used = time.monotonic(), time.thread_time()
        if began - self._last < _LOOK_S:
            return False
        while time.thread_time() - used < _PROBE_S:
            pass
        now = time.monotonic()
        share = min(1.0, _PROBE_S / max(now - began, _PROBE_S))
        self._left -= (now - self._last) * share
        self._last = now
        return self._left <= 0
