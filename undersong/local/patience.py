"""When to give up on processes that should become ready: by what they do, not by the clock.

On a slow or loaded machine a start takes long, and the processes work all the while. One that waits for something that
never comes uses no processor time, and one that fails again and again uses much of it.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

IDLE_CORES: Final = 0.01  # below this share of a core a process does nothing but wait
BUSY_S: Final = 180.0  # processor time in which a process is ready many times over
STEP_S: Final = 5.0


class Patience:
    """Watches processes until there is no hope left. Call `progressed` for each step that was made."""

    def __init__(
        self,
        pids: Callable[[], Iterable[int]],
        *,
        idle_s: float,
        busy_s: float = BUSY_S,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[Iterable[int]], float] | None = None,
    ) -> None:
        """`idle_s`: how long they may do nothing; `busy_s`: processor seconds of each between two steps."""
        self._pids, self._clock, self._used = pids, clock, used or processor_seconds
        self._idle_s, self._busy_s = idle_s, busy_s
        self.progressed()

    def progressed(self) -> None:
        """Begin anew: something became ready."""
        self._busy = 0.0
        self._looked = self._active = self._clock()
        self._last = self._used(self._pids())

    def over(self) -> bool:
        """Return whether they have stood still, or worked in vain, for too long."""
        now = self._clock()
        if now - self._looked >= STEP_S:
            pids = list(self._pids())
            used = self._used(pids)
            gained = max(0.0, used - self._last)  # a process that ended takes its time along
            if gained >= IDLE_CORES * (now - self._looked):
                self._active = now
            self._busy += gained / max(1, len(pids))
            self._looked, self._last = now, used
        return now - self._active >= self._idle_s or self._busy >= self._busy_s


def processor_seconds(pids: Iterable[int]) -> float:
    """Return the processor time of these processes and their children so far; those that are gone count nothing."""
    import psutil

    total = 0.0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            for each in (process, *process.children(recursive=True)):
                times = each.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        except psutil.Error:
            continue
    return total
