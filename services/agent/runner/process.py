"""The child as a process of this machine: own session and group, few variables of the environment, killed whole."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import structlog

import services
from services.agent.runner.protocol import Frame, frame_length, pack, unpack
from services.agent.runner.warm import ChildGone

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MARKER = "UNDERSONG_CHILD"
KEPT = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
)  # fmt: skip
LOG_LIMIT = 8 * 2**20
LOG_TAIL = 4096
GONE_S = 5.0


class ProcessLauncher:
    """Starts `python -m services.agent.runner.child` with pipes."""

    name = "process"

    def __init__(self, data_dir: Path, *, command: tuple[str, ...] | None = None) -> None:
        self._folder = data_dir
        self._command = command or (sys.executable, "-m", "services.agent.runner.child")
        self._record = data_dir / "child.marker"
        self._log = data_dir / "recipes.log"

    async def start(self) -> ProcessChannel:
        """Start a child in a session of its own."""
        marker = secrets.token_hex(16)
        self._record.write_text(marker)  # before the child, so that no crash leaves one unknown
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=home,
                env=self._environment(marker, home),
                start_new_session=True,
            )
        return ProcessChannel(process, marker, self._log)

    async def clean(self) -> None:
        """Kill the child, and its children, of an agent that was killed itself."""
        if not self._record.exists():
            return
        killed = await asyncio.to_thread(_kill_marked, self._record.read_text().strip(), None)
        if killed:
            log.warning("child.leftover_killed", count=killed)
        self._record.unlink(missing_ok=True)

    def _environment(self, marker: str, home: Path) -> dict[str, str]:
        """Nothing of the agent's own environment but what a program needs to run: it can hold secrets."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        root = Path(next(iter(services.__path__))).parent
        if root.name != "site-packages":
            kept["PYTHONPATH"] = str(root)
        return {**kept, "PYTHONSAFEPATH": "1", "HOME": str(home), "TMPDIR": str(home), MARKER: marker}


class ProcessChannel:
    """Pipes to a child process."""

    def __init__(self, process: asyncio.subprocess.Process, marker: str, log_file: Path) -> None:
        self._process, self._marker, self._log = process, marker, log_file
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 (asked for above)
        self._in, self._out = process.stdin, process.stdout

    @property
    def pid(self) -> int:
        """The child's process id, which is its group's too."""
        return self._process.pid

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Write a frame."""
        try:
            self._in.write(pack(frame))
            await self._in.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChildGone("its pipe is closed") from error

    async def receive(self) -> Frame:
        """Read a frame."""
        try:
            prefix = await self._out.readexactly(4)
            return unpack(await self._out.readexactly(frame_length(prefix)))
        except asyncio.IncompleteReadError as error:
            raise ChildGone("its pipe ended") from error

    async def kill(self) -> str:
        """SIGKILL to the group and to whatever left it, then wait until none is alive."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._in.close()
        left = await asyncio.to_thread(_kill_marked, self._marker, self._process.pid)
        code = self._process.returncode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        log.info("child.ended", how=how, stragglers=left)
        return f"{how}\n{_tail(self._log)}"


def _kill_marked(marker: str, group: int | None) -> int:
    """Kill every process that carries the marker or is in the group; wait until they are gone. Returns how many."""
    seen: set[int] = set()
    until = time.monotonic() + GONE_S
    while found := [process for process in psutil.process_iter() if _belongs(process, marker, group)]:
        for process in found:
            seen.add(process.pid)
            with suppress(psutil.Error):
                process.kill()
        if time.monotonic() > until:
            log.error("child.unkillable", pids=[process.pid for process in found])
            break
        time.sleep(0.01)
    return len(seen)


def _belongs(process: psutil.Process, marker: str, group: int | None) -> bool:
    """Whether a live process came from the child: by its group, or by the variable that all descendants inherit."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if group is not None and os.getpgid(process.pid) == group:
            return True
        return process.environ().get(MARKER) == marker
    except (psutil.Error, OSError):
        return False


def _tail(path: Path) -> str:
    """The last lines of the recipes' log, for the site's own log only."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
