"""The child shuts itself in before any recipe is imported: what it may read, write, reach, start and use up.

Every layer that the kernel offers is used, without root, and none is required: what is missing is named in the hello
message and so in the agent's log. All of it holds for this process and all that it starts, and cannot be undone.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import undersong
from undersong import recipes, services, shared
from undersong.services.agent.runner import landlock, limits, seccomp

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 38, 24
CAPABILITIES_V3 = 0x20080522
CAP_DAC_READ_SEARCH = 2  # an agent of root reads data sets of other users; which ones, Landlock says
LAST_CAPABILITY = 63

SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/opt/cuda", "/opt/rocm",
    "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/timezone", "/etc/os-release", "/etc/mime.types",
    "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/OpenCL",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/uptime", "/proc/loadavg", "/proc/version",
    "/proc/filesystems", "/proc/devices", "/proc/modules", "/proc/sys/kernel", "/proc/sys/vm", "/proc/driver",
    "/sys/devices", "/sys/fs/cgroup", "/sys/bus/pci", "/sys/class/drm", "/sys/class/kfd", "/sys/module/nvidia",
    "/sys/kernel/mm",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GPUS = ("nvidia*", "dri", "kfd")
INSTALLED = ("site-packages", "dist-packages")
OPEN, CLOSED = "open", "closed"


def confine(setup: Mapping[str, Any]) -> dict[str, str]:
    """Shut this process in; says what of it is closed: `files`, `network`, `calls`, `private`.

    Must run while the process has one thread. Where several processes train together, they may talk over the loopback
    interface of a network namespace that has no other; without such a namespace they may not, and one trains alone.
    """
    isolated = bool(setup["isolate_network"])
    gpu = setup["device"] in ("cuda", "mps")
    alone = isolated and limits.leave_network()
    loopback = alone and setup.get("processes", 1) > 1 and limits.open_loopback()
    limits.apply(memory_bytes=setup["memory_bytes"], file_bytes=setup["file_bytes"], processes=setup["pids"], gpu=gpu)
    if not setup["confine"]:  # a container does the rest
        return {}
    if sys.platform == "linux":
        _give_up_privileges()
        end_with_parent()
    version = landlock.restrict(_rules(setup), network=loopback or not isolated)
    calls = seccomp.refuse(network=not isolated, gpu=gpu or _has_gpu(setup["device"]), loopback=loopback)
    return {
        "files": f"closed (Landlock {version})" if version else OPEN,
        "network": CLOSED if isolated and (alone or calls) else OPEN,
        "calls": CLOSED if calls else OPEN,
        "private": OPEN if any(map(_reachable, setup["private"])) else CLOSED,
    }


def _rules(setup: Mapping[str, Any]) -> Iterator[tuple[Path, int]]:
    """Everything that this child may touch, and how."""
    for path in (*map(Path, SYSTEM), *_interpreter()):
        yield path, landlock.READ
    beside = [Path(name).with_suffix("") for name in setup["recipes"] if name.endswith(".py")]  # pretrained files
    for name in (setup["datasets"], *setup["recipes"], *beside, *setup["reads"], *setup["data"]):
        yield Path(name), landlock.READ & ~landlock.EXECUTE
    for path in (Path.cwd(), *map(Path, setup["writes"])):
        yield path, landlock.WRITE
    for path in map(Path, DEVICES):
        yield path, landlock.DEVICE
    if setup["device"] != "cpu":
        for path in _gpus():
            yield path, landlock.DEVICE


def _interpreter() -> Iterator[Path]:
    """Python, its libraries and this program: single folders, because the agent's own may lie beside them."""
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}:
        yield from (Path(prefix) / name for name in ("bin", "lib", "lib64", "share", "pyvenv.cfg"))
    for package in (undersong, recipes, services, shared):  # in a checkout three of them are links to folders beside it
        yield from map(Path, package.__path__)
    code = Path(next(iter(undersong.__path__))).resolve().parent
    for entry in map(Path, filter(None, sys.path)):
        if entry.is_absolute() and (entry.resolve() != code or entry.name in INSTALLED):
            yield entry
    yield from map(Path, filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")))


def _gpus() -> list[Path]:
    return [path for pattern in GPUS for path in Path("/dev").glob(pattern)]


def _has_gpu(device: str) -> bool:
    return device != "cpu" and bool(_gpus())


def _reachable(name: str) -> bool:
    """Return whether this process can still look into a place that is not for it: tried, not inferred."""
    try:
        os.close(os.open(name, os.O_RDONLY))
    except OSError:
        return False
    return True


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _give_up_privileges() -> None:
    """Nothing that is started gains a right, and root keeps no capability but that of reading."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in range(LAST_CAPABILITY + 1):
        if number != CAP_DAC_READ_SEARCH:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    header, sets = _Header(CAPABILITIES_V3, 0), (_Sets * 2)()
    libc.capget(ctypes.byref(header), sets)
    kept = sets[0].permitted & (1 << CAP_DAC_READ_SEARCH)
    sets[0], sets[1] = _Sets(kept, kept, 0), _Sets(0, 0, 0)
    libc.capset(ctypes.byref(header), sets)


def end_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends, whatever ended it.

    A child that works sees the end of its input; one that was stopped while another works sees nothing.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    """Say what this machine can close to recipes, by closing it to this process."""
    setup = {
        "isolate_network": True, "device": "cpu", "confine": True, "datasets": os.devnull,
        **dict.fromkeys(("memory_bytes", "file_bytes", "pids"), 0),
        **dict.fromkeys(("recipes", "reads", "writes", "data", "private"), ()),
    }  # fmt: skip
    os.chdir("/usr")
    found = confine(setup)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
