"""How many threads a recipe's libraries may start: the processors that this agent may use, shared with other agents.

Numerical libraries start a thread for each processor of the machine, however few a container may use and whatever
else runs there. Each running agent of this user holds a lock on a file, which the kernel takes back when the agent
ends; the number of locked files is the number of agents.
"""

from __future__ import annotations

import fcntl
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
V1_QUOTA, V1_PERIOD = CGROUP / "cpu/cpu.cfs_quota_us", CGROUP / "cpu/cpu.cfs_period_us"


@contextmanager
def counted(folder: Path | None = None) -> Iterator[None]:
    """Count as one of this user's agents in this block; where no file can be written, the agent is not counted."""
    fd = None
    with suppress(OSError):
        folder = folder or _folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        fd, _ = tempfile.mkstemp(dir=folder)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


def threads(folder: Path | None = None) -> int:
    """Return how many threads a recipe's process should compute with here and now; at least 1."""
    return max(1, usable() // max(1, agents(folder or _folder())))


def usable() -> int:
    """Return how many processors this process may use: by its affinity, and by its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


def agents(folder: Path) -> int:
    """Return how many agents hold a lock in the folder; files of agents that have ended are removed."""
    count = 0
    for entry in folder.glob("*"):
        with suppress(OSError):
            fd = os.open(entry, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                entry.unlink()
            except BlockingIOError:
                count += 1
            finally:
                os.close(fd)
    return count


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"undersong-agents-{os.getuid()}"


def _quota() -> float:
    """Return the control group's processors; infinite without a quota. Versions 2 and 1."""
    with suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota_us = int(V1_QUOTA.read_text())
        return quota_us / int(V1_PERIOD.read_text()) if quota_us > 0 else math.inf
    return math.inf
