"""The platform's end of the nursery: children that look like `subprocess.Popen` to a supervisor."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from undersong.local.layout import base_environment

GONE: Final = -signal.SIGKILL
"""The exit code of children whose end nobody could tell, because the nursery itself is gone."""


class Forked:
    """One forked process."""

    def __init__(self) -> None:
        self.pid = 0
        self._code: int | None = None
        self._born = threading.Event()
        self._ended = threading.Event()

    def poll(self) -> int | None:
        """Its exit code, None while it runs; negative for a signal."""
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended; TimeoutExpired."""
        if not self._ended.wait(timeout) or self._code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self._code

    def terminate(self) -> None:
        """Ask it to end."""
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def born(self, pid: int) -> None:
        """It runs under this id."""
        self.pid = pid
        self._born.set()

    def ended(self, code: int) -> None:
        """It has ended."""
        self._code = code
        self._born.set()
        self._ended.set()

    def await_birth(self) -> None:
        """Block until it runs, or never will."""
        self._born.wait()


class Forks:
    """Starts the nursery and talks to it; one thread listens."""

    def __init__(self, home: Path, log: Path) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._lock = threading.Lock()
        self._children: dict[int, Forked] = {}
        self._next = 0
        self.alive = True
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "undersong.local.nursery", str(theirs.fileno())],
                env=base_environment(),
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        theirs.close()
        self._thread = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._thread.start()

    def spawn(
        self, module: str, arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
    ) -> Forked | None:
        """A process that runs the module; None when the nursery is gone."""
        child = Forked()
        order: dict[str, Any] = {"module": module, "argv": list(arguments), "env": dict(env), "cwd": str(cwd)}
        with self._lock:
            if not self.alive:
                return None
            self._next += 1
            self._children[self._next] = child
            order |= {"task": self._next, "log": str(log)}
            try:
                self._socket.sendall(json.dumps(order).encode() + b"\n")
            except OSError:
                return None
        child.await_birth()
        return child if child.pid else None

    def close(self) -> None:
        """End the nursery; the children that still run get SIGTERM."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        with suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                told = json.loads(line)
                child = self._children[told["task"]]
                if "pid" in told:
                    child.born(told["pid"])
                else:
                    del self._children[told["task"]]
                    child.ended(told["code"])
        with self._lock:
            self.alive = False
            for child in self._children.values():
                child.ended(GONE)
