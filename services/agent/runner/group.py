"""A child's processes, as the kernel lists them: how many there are, what memory they hold, and their end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    import psutil

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MARKER = "UNDERSONG_CHILD"
GONE_S = 5.0
PAGE = os.sysconf("SC_PAGE_SIZE")
STAT_BYTES = 4096  # a line of /proc/<pid>/stat has some 400
GROUP, SESSION, THREADS, RESIDENT = 2, 3, 17, 21  # places in /proc/<pid>/stat after the name


@dataclass(frozen=True, slots=True)
class Family:
    """The child's group: the pid of its first process, and a word that its descendants inherit in the environment."""

    leader: int
    marker: str
    boot: str

    @classmethod
    def of(cls, leader: int, marker: str) -> Family:
        """Return a family of this boot of the machine."""
        return cls(leader, marker, _boot())

    def line(self) -> str:
        """As one line of a file, for the next agent."""
        return f"{self.marker} {self.leader} {self.boot}\n"

    @classmethod
    def read(cls, line: str) -> Family:
        """From that line; an earlier agent may have written the marker alone."""
        marker, leader, boot = [*line.split(), "", "", ""][:3]
        return cls(int(leader) if leader.isdigit() else -1, marker or "-", boot)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def usage(group: int, memory_limit: int) -> tuple[int, int]:
    """Return how many processes and threads a group has, and its memory in bytes.

    Memory is what is resident; beyond the limit it is counted again exactly, without pages of files and with pages
    that several processes share counted once.
    """
    tasks = resident = 0
    members = []
    for pid, fields in _processes():
        if int(fields[GROUP]) == group:
            members.append(Path("/proc", str(pid)))
            tasks += int(fields[THREADS])
            resident += int(fields[RESIDENT]) * PAGE
    if memory_limit and resident > memory_limit:
        resident = sum(map(_own_memory, members))
    return tasks, resident


def freeze(session: int, *, stopped: bool) -> None:
    """Stop every process of a session, or let all go on, until no new one is found: a fork may be under way."""
    number, seen = signal.SIGSTOP if stopped else signal.SIGCONT, set[int]()
    while found := set(_members(session)) - seen:
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        seen |= found


def _members(session: int) -> Iterator[int]:
    return (pid for pid, fields in _processes() if int(fields[SESSION]) == session)


def _processes() -> Iterator[tuple[int, list[bytes]]]:
    """Every process of the machine with its fields after the name; some end meanwhile.

    Without pathlib: this is done several times a second, on machines with many processes.
    """
    with os.scandir("/proc") as entries:
        names = [entry.name for entry in entries if entry.name.isdigit()]
    for name in names:
        try:
            file = os.open(f"/proc/{name}/stat", os.O_RDONLY)
        except OSError:
            continue
        try:
            yield int(name), os.read(file, STAT_BYTES).rpartition(b")")[2].split()
        except OSError:
            continue
        finally:
            os.close(file)


def _own_memory(process: Path) -> int:
    total = 0
    with suppress(OSError, ValueError, IndexError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * 1024
    return total


def kill(family: Family, *, ours: bool) -> int:
    """Kill every process of the family; wait until they are gone. Returns how many there were besides the first.

    `ours`: this very agent started it, so its group's number cannot belong to another process by now.
    """
    import psutil  # a client's command line loads this module, too, and does without

    seen: set[int] = set()
    until = time.monotonic() + GONE_S
    while found := [process for process in psutil.process_iter() if _belongs(process, family, ours=ours)]:
        for process in found:
            seen.add(process.pid)
            with suppress(psutil.Error):
                process.kill()
        if time.monotonic() > until:
            log.error("child.unkillable", pids=[process.pid for process in found])
            break
        time.sleep(0.01)
    return len(seen - {family.leader})


def _belongs(process: psutil.Process, family: Family, *, ours: bool) -> bool:
    """Return whether a live process came from the child: by the session that it cannot leave, or by the inherited word.

    A recipe can overwrite its own environment. It cannot join another session, nor take back `no_new_privs`, which
    keeps an innocent program apart that got the same number later.
    """
    import psutil

    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        related = family.leader in (os.getpgid(process.pid), os.getsid(process.pid))
        if related and (ours or (family.boot == _boot() and _confined(process.pid))):
            return True
        return process.environ().get(MARKER) == family.marker
    except (psutil.Error, OSError):
        return False


def _confined(pid: int) -> bool:
    return "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
