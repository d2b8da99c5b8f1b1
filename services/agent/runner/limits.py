"""Limits that the child puts on itself before any recipe is imported."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def apply(*, memory_bytes: int, file_bytes: int, gpu: bool) -> None:
    """Memory (data segment: private writable pages), file size, and no core dumps, which would hold data."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if file_bytes:
        _lower(resource.RLIMIT_FSIZE, file_bytes)
    if memory_bytes and not gpu and sys.platform == "linux":  # a GPU driver reserves address space beyond any limit
        _lower(resource.RLIMIT_DATA, memory_bytes)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def leave_network() -> str:
    """Move this process into an empty network namespace; "none" if the kernel allowed it, else "open".

    Must run while the process has one thread. As root the new user namespace is not needed.
    """
    if sys.platform != "linux":
        return "open"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) == 0:
        return "none"
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return "open"
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            Path(f"/proc/self/{name}").write_text(line)
        except OSError:  # without a map the process is "nobody" by name only; its rights stay
            break
    return "none"
