"""A seccomp filter: the kernel refuses system calls that a recipe does not need, to it and to all it starts.

A list of refusals, not of permissions: libraries for numbers must go on working. It closes what Landlock does not
(sockets of every kind, other processes' memory, modes and owners of files by path) and keeps every descendant in the
child's own session and group, so that one signal ends them all. The numbers are those of the kernel's tables
(`unistd.h`), the filter's layout that of `linux/seccomp.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT, THIRD_ARGUMENT_AT = 0, 4, 16, 32
ALLOW: Final = 0x7FFF0000
REFUSE: Final = 0x00050000
X32: Final = 0x40000000  # x86-64's second table of numbers
NAMESPACES: Final = 0x7E020080  # CLONE_NEW…: time, mount, cgroup, uts, ipc, user, pid, net

ARCHITECTURES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
NETWORK: Final = {"socket": (41, 198)}
SHARED_MEMORY: Final = {"memfd_create": (319, 279)}  # counted nowhere; drivers of GPUs need it
REFUSED: Final = {
    # sockets, files and processes by another way
    "io_uring_setup": (425, 425), "open_by_handle_at": (304, 265),
    # leaving the session and the group
    "setsid": (112, 157), "setpgid": (109, 154),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "perf_event_open": (298, 241), "bpf": (321, 280), "userfaultfd": (323, 282),
    # modes, owners and attributes by path, which Landlock does not see
    "chmod": (90, None), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None),
    "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "setxattrat": (463, 463), "removexattrat": (466, 466),
    # memory and queues that are shared with other programs and outlive a process; keys
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "memfd_secret": (447, 447),
    # the machine
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "mount_setattr": (442, 442), "init_module": (175, 105), "finit_module": (313, 273),
    "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224), "acct": (163, 89),
}  # fmt: skip
CLONE, CLONE3, PRLIMIT, SOCKET = (56, 220), (435, 435), (302, 261), (41, 198)
INTERNET, NETLINK, ROUTE = 2, 16, 0  # AF_INET, AF_NETLINK, NETLINK_ROUTE


def refuse(*, network: bool, gpu: bool, loopback: bool = False) -> bool:
    """Put the filter in force; False where the kernel or the architecture does not allow it. Needs `no_new_privs`.

    loopback: sockets of IPv4, and those that list interfaces, for a process whose network namespace has no other one.
    """
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        return False
    closed = {} if network or loopback else NETWORK
    program = _program(machine, {**REFUSED, **closed, **({} if gpu else SHARED_MEMORY)}, loopback=loopback)
    code = ctypes.create_string_buffer(b"".join(program), len(program) * 8)

    class FilterProgram(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    whole = FilterProgram(len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(whole), 0, 0) == 0)


def _program(machine: str, refused: dict[str, tuple[int | None, int | None]], *, loopback: bool = False) -> list[bytes]:
    """Return the filter's instructions."""
    architecture, column = ARCHITECTURES[machine]
    numbers = [found for row in refused.values() if (found := row[column]) is not None]
    no, absent = _step(RETURN, REFUSE | errno.EPERM), _step(RETURN, REFUSE | errno.ENOSYS)
    program = [
        _step(LOAD, ARCHITECTURE_AT), _step(EQUAL, architecture, yes=1), no,
        _step(LOAD, NUMBER_AT), _step(AT_LEAST, X32, no=1), no,
        _step(EQUAL, CLONE3[column], no=1), absent,  # its flags lie in memory; the C library falls back to clone
        _step(EQUAL, CLONE[column], no=4), _step(LOAD, FIRST_ARGUMENT_AT), _step(ANY_BIT, NAMESPACES, no=1), no,
        _step(RETURN, ALLOW),
        _step(EQUAL, PRLIMIT[column], no=4), _step(LOAD, FIRST_ARGUMENT_AT), _step(EQUAL, 0, yes=1), no,
        _step(RETURN, ALLOW),
    ]  # fmt: skip
    if loopback:
        program += [
            _step(EQUAL, SOCKET[column], no=7), _step(LOAD, FIRST_ARGUMENT_AT), _step(EQUAL, INTERNET, yes=4),
            _step(EQUAL, NETLINK, no=2), _step(LOAD, THIRD_ARGUMENT_AT), _step(EQUAL, ROUTE, yes=1), no,
            _step(RETURN, ALLOW),
        ]  # fmt: skip
    for place, number in enumerate(numbers):
        program.append(_step(EQUAL, number, yes=len(numbers) - place))
    return [*program, _step(RETURN, ALLOW), no]


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """Return one instruction; `yes` and `no` are how many to leap over."""
    return struct.pack("=HBBI", code, yes, no, value)
