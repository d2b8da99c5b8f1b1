"""The platform's end of the nursery: children that look like `subprocess.Popen` to a supervisor.

The children do not depend on the nursery once they run. Their end is read from the kernel (a pidfd), not only from what
the nursery tells, and their life hangs on a pipe of the platform's. So a nursery that is killed or frozen takes nothing
along: the next process that is to be forked finds it gone, or silent for too long, and starts another.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from undersong.local.layout import base_environment

GONE: Final = -signal.SIGKILL
"""The exit code of children whose own is unknown, because the nursery itself is gone or frozen."""
IMPORT_S: Final = 180.0  # until a new nursery has imported what services share, on a machine that is very busy
FORK_S: Final = 15.0  # until one that has imported it forks: milliseconds, unless it is frozen
CODE_S: Final = 10.0  # between a child's end and its exit code: milliseconds, on a machine that is very busy seconds


class Forked:
    """One forked process."""

    def __init__(self) -> None:
        self.pid = 0
        self._code: int | None = None
        self._pidfd: int | None = None
        self._born = threading.Event()
        self._told = threading.Event()

    def poll(self) -> int | None:
        """Return its exit code, None while it runs; negative for a signal."""
        if self._code is None and self._over(0.0):
            self._settle()
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code, once it has ended; TimeoutExpired."""
        if self._code is None:
            if not self._over(timeout):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self._settle()
        return GONE if self._code is None else self._code

    def terminate(self) -> None:
        """Ask it to end."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def born(self, pid: int) -> None:
        """Return it runs under this id."""
        self.pid = pid
        with suppress(ProcessLookupError):  # ended and reaped already: its code is on the way
            self._pidfd = os.pidfd_open(pid)
            weakref.finalize(self, os.close, self._pidfd)  # not earlier: several threads may wait for it
        self._born.set()

    def orphaned(self) -> None:
        """Note that the nursery is gone: no call waits any longer for a birth or a code that it will never tell."""
        self._born.set()
        self._told.set()

    def told(self, code: int) -> None:
        """Take its exit code, as the nursery tells it."""
        if self._code is None:
            self._code = code
        self._told.set()

    def await_birth(self, timeout_s: float) -> bool:
        """Wait until it runs; whether it does."""
        return self._born.wait(timeout_s)

    def _over(self, timeout_s: float | None) -> bool:
        """Return whether the kernel says that it has ended, within the time."""
        if self._pidfd is None:  # its code, or GONE
            return self._told.wait(timeout_s)
        waiting = select.poll()
        waiting.register(self._pidfd, select.POLLIN)
        return bool(waiting.poll(None if timeout_s is None else timeout_s * 1000))

    def _settle(self) -> None:
        """Return it has ended: take the code that the nursery tells, or do without."""
        self._told.wait(CODE_S)
        self.told(GONE)


class NurseryProcess:
    """One nursery process and the thread that listens to it."""

    def __init__(self, home: Path, log: Path, leash: int, imports: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._lock = threading.Lock()
        self._children: dict[int, Forked] = {}
        self._next = 0
        self._ready = threading.Event()
        self.alive = True
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "undersong.local.nursery", str(theirs.fileno()), str(leash), *imports],
                env=base_environment(),
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno(), leash],
                start_new_session=True,
            )
        theirs.close()
        self._thread = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._thread.start()

    def fork(self, order: dict[str, Any]) -> Forked | None:
        """Return the process that carries out the order, or None where the nursery does not answer in time."""
        child = Forked()
        with self._lock:
            if not self.alive:
                return None
            self._next += 1
            self._children[self._next] = child
            try:
                self._socket.sendall(json.dumps(order | {"task": self._next}).encode() + b"\n")
            except OSError:
                return None
        born = self._ready.wait(IMPORT_S) and child.await_birth(FORK_S)
        return child if born and child.pid else None

    def kill(self) -> None:
        """End it now; what it has forked lives on."""
        self.process.kill()
        self.process.wait()
        self._thread.join()
        self._socket.close()

    def close(self) -> None:
        """End it in order; the children that still run get SIGTERM."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.kill()

    def _listen(self) -> None:
        with suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                told = json.loads(line)
                if "ready" in told:
                    self._ready.set()
                elif "pid" in told:
                    self._children[told["task"]].born(told["pid"])
                else:
                    self._children.pop(told["task"]).told(told["code"])
        with self._lock:
            self.alive = False
        self._ready.set()
        for child in self._children.values():
            child.orphaned()


class Forks:
    """Forks processes, by a nursery that is started again when it is gone or frozen, which has imported `imports`.

    Without `imports`: what services and agents share.
    """

    def __init__(self, home: Path, log: Path, imports: Sequence[str] = ()) -> None:
        self._home, self._log, self._imports = home, log, imports
        self._leash, self._hold = os.pipe()  # every child reads it; it ends when the platform's process ends
        self._lock = threading.Lock()
        self._closed = False
        self._nursery = NurseryProcess(home, log, self._leash, imports)

    @property
    def pid(self) -> int:
        """The present nursery's process id."""
        return self._nursery.process.pid

    def spawn(
        self, module: str, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
    ) -> Forked | None:
        """Return a process that runs the module; None where it must be started another way this time."""
        order = {"module": module, "argv": list(arguments), "env": dict(env), "cwd": str(cwd), "log": str(log)}
        nursery = self._alive()
        if nursery is None:
            return None
        child = nursery.fork(order)
        if child is None:
            self._replace(nursery)
        return child

    def close(self) -> None:
        """End the nursery and every child that still runs. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._nursery.close()
            os.close(self._hold)
            os.close(self._leash)

    def _alive(self) -> NurseryProcess | None:
        with self._lock:
            if not self._closed and not self._nursery.alive:
                self._nursery.kill()
                self._nursery = NurseryProcess(self._home, self._log, self._leash, self._imports)
            return None if self._closed else self._nursery

    def _replace(self, failed: NurseryProcess) -> None:
        """Replace a nursery that did not answer, killing it so that it cannot act on the order late. Idempotent."""
        with self._lock:
            if self._nursery is failed and not self._closed:
                failed.kill()
                self._nursery = NurseryProcess(self._home, self._log, self._leash, self._imports)
