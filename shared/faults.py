"""Named points in the code at which a test kills, holds or hinders the process that reaches them.

A process can be hurt only if it was started with ``UNDERSONG_FAULTS``, the path of a folder. Without it nothing is ever
armed, and `point` is a call that compares one global with None. With it, a file ``<folder>/<process>/<point>`` holds
what is to happen at the point; the first who reaches it renames the file to ``<point>.reached`` and does that, once:

    kill        SIGKILL to itself
    hold        stand still, until the file ``<point>.reached`` is deleted
    disk-full   raise what a full disk raises
    <what>@<n>  the same, when this process passes the point for the n-th time

``<folder>/<process>/clock`` holds the seconds by which the process's clock is ahead. All points and what has to happen
after a fault at each: docs/operations/fault-matrix.md.
"""

import errno
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

from undersong.shared import clock

VARIABLE: Final = "UNDERSONG_FAULTS"
REACHED: Final = ".reached"
_LOOK_EVERY_S: Final = 0.01

_reach: Callable[[str], None] | None = None


def point(name: str) -> None:
    """Mark that this step is done and the next one not begun. Nothing happens unless the process was armed."""
    if _reach is not None:
        _reach(name)


def arm(process: str) -> None:
    """Obey the folder that the environment names, as this process; without one, do nothing."""
    folder = os.environ.get(VARIABLE)
    if folder:
        armed = Armed(Path(folder) / process)
        watch(armed.reach)
        clock.run_ahead(armed.ahead)


def watch(reach: Callable[[str], None] | None) -> None:
    """Have each point call `reach` with its name; None ends that."""
    global _reach
    _reach = reach


class Armed:
    """What the files of one process's folder say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._passed: dict[str, int] = {}

    def reach(self, name: str) -> None:
        """Do what is to happen here, if anything is."""
        order = self._folder / name
        try:
            action, _, count = order.read_text("ascii").strip().partition("@")
        except FileNotFoundError:
            return
        self._passed[name] = self._passed.get(name, 0) + 1
        if self._passed[name] < int(count or 1):
            return
        reached = order.with_name(name + REACHED)
        try:
            order.rename(reached)
        except FileNotFoundError:  # another process was first
            return
        self._passed[name] = 0
        _ACTIONS[action](reached)

    def ahead(self) -> timedelta:
        """By how much the clock is ahead."""
        try:
            return timedelta(seconds=float((self._folder / "clock").read_text("ascii")))
        except (FileNotFoundError, ValueError):  # none, or half written
            return timedelta()


def _kill(_reached: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hold(reached: Path) -> None:
    while reached.exists():
        time.sleep(_LOOK_EVERY_S)


def _disk_full(_reached: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


_ACTIONS: Final = {"kill": _kill, "hold": _hold, "disk-full": _disk_full}
