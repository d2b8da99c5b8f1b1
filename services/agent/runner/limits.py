"""Limits that the child puts on itself before any recipe is imported."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
OPEN_FILES = 4096
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
INTERFACE = struct.Struct("16sh14x")
SPARE_PROCESSES = 1024  # other programs of this user grow too; the exact bound is the agent's, which counts


def apply(*, memory_bytes: int, file_bytes: int, processes: int, gpu: bool) -> None:
    """Memory (data segment: private writable pages), file size, processes, open files; no core dumps (they hold data).

    The kernel does not count root's processes.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    if file_bytes:
        _lower(resource.RLIMIT_FSIZE, file_bytes)
    if processes and sys.platform == "linux":
        _lower(resource.RLIMIT_NPROC, _tasks_of(os.getuid()) + processes + SPARE_PROCESSES)
    if memory_bytes and not gpu and sys.platform == "linux":  # a GPU driver reserves address space beyond any limit
        _lower(resource.RLIMIT_DATA, memory_bytes)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _tasks_of(user: int) -> int:
    """Return how many processes and threads a user has on this machine."""
    count = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if entry.stat().st_uid == user:
                count += sum(1 for _ in (entry / "task").iterdir())
    return count


def leave_network() -> bool:
    """Move this process into an empty network namespace; False if the kernel does not allow it.

    Must run while the process has one thread. As root the new user namespace is not needed.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) == 0:
        return True
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            Path(f"/proc/self/{name}").write_text(line)
        except OSError:  # without a map the process has no user name; its rights stay
            break
    return True


def open_loopback() -> bool:
    """Switch on the loopback interface of this process's own network namespace; False if the kernel refuses."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _, flags = INTERFACE.unpack(fcntl.ioctl(control, GET_FLAGS, INTERFACE.pack(b"lo", 0)))
            fcntl.ioctl(control, SET_FLAGS, INTERFACE.pack(b"lo", flags | UP))
    except OSError:
        return False
    return True
