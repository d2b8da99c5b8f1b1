"""One child process that is started again when it dies.

A thread owns each child: it starts it, waits for it and starts it again, so nothing polls. On Linux the child also asks
the kernel for SIGTERM at our own death (``setpriv --pdeathsig``), so that killing the supervisor leaves nothing behind.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 5.0
YOUNG_DEATHS: Final = 3
STEADY_AFTER_S: Final = 5.0  # a child that lived this long starts anew without delay
CONFIGURATION_EXIT: Final = 2  # our services leave with 2 when the settings, not the world, are wrong


class Running(Protocol):
    """What a supervisor needs of a child: `subprocess.Popen`, or a process that the nursery forked."""

    @property
    def pid(self) -> int:
        """The process's id."""

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code, once it has ended; TimeoutExpired."""

    def terminate(self) -> None:
        """Ask it to end."""


class Supervised:
    """A named child process with its log file. `fork` starts it another way; where that gives None, `command` does."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        restart: bool = True,
        fork: Callable[[], Running | None] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.restarts = 0
        self.early_deaths = 0
        self.exit_code: int | None = None
        self._command = [*_leash(), *command]
        self._env = dict(env)
        self._cwd = cwd
        self._restart = restart
        self._fork = fork
        self._process: Running | None = None
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The running process's id; None between a death and the next start."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def failed(self) -> bool:
        """Whether it keeps dying young, or said that its settings are wrong."""
        return self.early_deaths >= YOUNG_DEATHS or (self.early_deaths >= 1 and self.exit_code == CONFIGURATION_EXIT)

    def start(self) -> None:
        """Start the process and its guardian; returns when the process exists."""
        self._stopping.clear()
        self._started.clear()
        self._thread = threading.Thread(target=self._guard, name=f"guard {self.name}", daemon=True)
        self._thread.start()
        self._started.wait()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to this process alone, as a crash would; the guardian starts it again."""
        if (pid := self.pid) is not None:
            with suppress(ProcessLookupError):  # it may end of itself at this very moment
                os.kill(pid, number)

    def ask_to_stop(self) -> None:
        """Send SIGTERM and keep the guardian from starting it again; does not wait."""
        self._stopping.set()
        self.kill(signal.SIGTERM)

    def stop(self, grace_s: float = 10.0) -> None:
        """End it: SIGTERM, and SIGKILL for its whole group when the grace is over."""
        self.ask_to_stop()
        process, thread = self._process, self._thread
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # it leads its own session: strays go with it
        if thread is not None:
            thread.join(grace_s)

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])

    def _guard(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            began = time.monotonic()
            process = self._spawn()
            self._process = process
            self._started.set()
            if process is None:
                return
            if self._stopping.is_set():
                process.terminate()  # asked to stop while it was being started
            self.exit_code = process.wait()
            if self._stopping.is_set() or not self._restart:
                return
            young = time.monotonic() - began < STEADY_AFTER_S
            crashed_itself = self.exit_code >= 0  # a signal came from outside and says nothing about the program
            self.early_deaths = self.early_deaths + 1 if young and crashed_itself else 0
            delay_s = min(delay_s * 2, LONGEST_DELAY_S) if young else FIRST_DELAY_S
            if self._stopping.wait(delay_s):
                return
            self.restarts += 1

    def _spawn(self) -> Running | None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self._fork is not None and (forked := self._fork()) is not None:
            return forked
        with self.log.open("ab") as log:
            try:
                return subprocess.Popen(
                    self._command,
                    env=self._env,
                    cwd=self._cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                log.write(f"cannot start {self._command}: {error}\n".encode())
                self.exit_code, self.early_deaths = CONFIGURATION_EXIT, self.early_deaths + 1
                return None


def _leash() -> list[str]:
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []
