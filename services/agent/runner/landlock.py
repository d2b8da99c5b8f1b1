"""Landlock: the kernel permanently denies this process every file, TCP port and signal that it was not given.

The numbers are those of the kernel's header `linux/landlock.h` and of its documentation (userspace-api/landlock).
Only the calling thread and what it starts later is restricted, so this comes before any other thread.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
VERSION_FLAG: Final = 1
PATH_BENEATH: Final = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
REFER, TRUNCATE, IOCTL_DEV, RESOLVE_UNIX = 1 << 13, 1 << 14, 1 << 15, 1 << 16
FIRST: Final = (1 << 13) - 1  # everything that the first version knows
SINCE: Final = {2: REFER, 3: TRUNCATE, 5: IOCTL_DEV, 9: RESOLVE_UNIX}
NET_SINCE, SCOPES_SINCE = 4, 6
BIND_AND_CONNECT: Final = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS: Final = 0b11

READ: Final = EXECUTE | READ_FILE | READ_DIR
WRITE: Final = READ_FILE | READ_DIR | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE
DEVICE: Final = READ_FILE | READ_DIR | WRITE_FILE | IOCTL_DEV
OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


def version() -> int:
    """Return the kernel's version of Landlock; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)))


def restrict(rules: Iterable[tuple[Path, int]], *, network: bool) -> int:
    """Give these paths with these rights and nothing else; the version in force, 0 if the kernel refused.

    Without `network` no TCP port can be bound or connected to (version 4). From version 6 on, signals and abstract
    sockets reach only what was started from here. `no_new_privs` must be set.
    """
    found = version()
    if not found:
        return 0
    handled = FIRST | sum(right for since, right in SINCE.items() if found >= since)
    wanted = _Ruleset(
        files=handled,
        net=BIND_AND_CONNECT if found >= NET_SINCE and not network else 0,
        scoped=ABSTRACT_SOCKETS_AND_SIGNALS if found >= SCOPES_SINCE else 0,
    )
    libc = _libc()
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(ctypes.sizeof(wanted)), 0)
    if ruleset < 0:
        return 0
    try:
        for path, rights in rules:
            _allow(libc, ruleset, path, rights & handled)
        return found if libc.syscall(RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    """Add one rule; a path that is not there needs none."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _Beneath(allowed=rights if path.is_dir() else rights & OF_FILES, fd=fd)
        libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(fd)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
