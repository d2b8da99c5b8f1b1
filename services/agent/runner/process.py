"""The child as a process of this machine: own session and group, few variables of the environment, killed whole."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import signal
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

import undersong
from undersong.services.agent.runner import folders, group, processors
from undersong.services.agent.runner.pool import ChildGone
from undersong.services.agent.runner.protocol import Excess, Frame, Setup, frame_length, pack, unpack

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
KEPT = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    *LIBRARIES,
)  # fmt: skip
LOG_LIMIT = 8 * 2**20
LOG_TAIL = 4096
LAST_WORDS_S = 2.0
COMPILED = (
    "numpy",
    "torch",
    "undersong.recipes.image",
    "undersong.recipes.tabular",
    "undersong.services.agent.runner.work",
    "pyarrow",
)
COMPILE_S = 50.0  # of the minute that a child has to start
CUT = b"\n(the rest of what this process printed was left out)\n"


def _sources() -> Iterator[Path]:
    """Of some of these modules, the files; finding them imports nothing but the packages around them."""
    for name in COMPILED:
        found = importlib.util.find_spec(name.partition(".")[0])
        if found is not None and found.submodule_search_locations:
            folder = Path(next(iter(found.submodule_search_locations)))
            yield folder.joinpath(*name.split(".")[1:]).with_suffix(".py") if "." in name else folder / "__init__.py"


def _uncompiled(source: Path) -> bool:
    """Return whether a module is compiled at each start, and need not be."""
    compiled = Path(importlib.util.cache_from_source(str(source)))
    return not compiled.exists() and source.exists() and os.access(source.parent, os.W_OK)


class ProcessLauncher:
    """Starts `python -m undersong.services.agent.runner.child` with pipes."""

    name = "process"

    def __init__(self, data_dir: Path, *, command: tuple[str, ...] | None = None) -> None:
        self._folder = data_dir
        self._command = command or (sys.executable, "-m", "undersong.services.agent.runner.child")
        self._records, self._homes = data_dir / "children", data_dir / "home"
        self._log = data_dir / "recipes.log"
        self._compiled = not any(map(_uncompiled, _sources()))

    async def start(self, setup: Setup) -> ProcessChannel:
        """Start a child in a session of its own, with an empty folder as its home."""
        if not self._compiled:
            await self._compile()
        marker = secrets.token_hex(16)
        self._records.mkdir(exist_ok=True, mode=0o700)
        record, home = self._records / marker, self._homes / marker
        record.write_text(marker)  # before the child, so that no crash leaves one unknown
        await asyncio.to_thread(folders.fresh, home)
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".log.1"))
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=home,
            env=self._environment(marker, home),
            start_new_session=True,
        )
        family = group.Family.of(process.pid, marker)
        record.write_text(family.line())
        return ProcessChannel(process, family, self._log, setup, (home, *map(Path, setup.writes)), record)

    async def clean(self) -> None:
        """Kill the children, and their children, of an agent that was killed itself."""
        for record in sorted(self._records.glob("*")):
            family = group.Family.read(record.read_text())
            killed = await asyncio.to_thread(group.kill, family, ours=False)
            if killed:
                log.warning("child.leftover_killed", count=killed)
            record.unlink(missing_ok=True)
        await asyncio.to_thread(folders.erase, self._homes)

    async def _compile(self) -> None:
        """Let Python keep its compiled modules once: a confined child cannot, and would compile them at each start."""
        self._compiled = True
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            f"import {', '.join(COMPILED)}",
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment("-", self._folder),
        )
        try:
            async with asyncio.timeout(COMPILE_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _environment(self, marker: str, home: Path) -> dict[str, str]:
        """Nothing of the agent's own environment but what a program needs to run: it can hold secrets."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        root = str(Path(next(iter(undersong.__path__))).parent)
        if root not in sys.path[sys.path.index(sysconfig.get_path("stdlib")) :]:  # else Python finds it by itself
            kept["PYTHONPATH"] = root
        shared = dict.fromkeys(LIBRARIES, str(processors.threads()))
        return {**shared, **kept, "PYTHONSAFEPATH": "1", "HOME": str(home), "TMPDIR": str(home), group.MARKER: marker}


class ProcessChannel:
    """Pipes to a child process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        family: group.Family,
        log_file: Path,
        setup: Setup,
        writes: tuple[Path, ...],
        record: Path,
    ) -> None:
        self._process, self._family, self._log, self._record = process, family, log_file, record
        self._setup, self._writes = setup, writes
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 (asked for above)
        self._in, self._out = process.stdin, process.stdout
        self._printing = asyncio.create_task(self._keep_words())

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

    def excess(self) -> Excess | None:
        """Return whether the child uses more than its policy gives: processes, memory of all of them, disk."""
        setup = self._setup
        tasks, memory = group.usage(self._process.pid, setup.memory_bytes)
        if setup.pids and tasks > setup.pids:
            return Excess("too-many-processes", f"{tasks} processes and threads, the policy allows {setup.pids}")
        if setup.memory_bytes and memory > setup.memory_bytes:
            return Excess("out-of-memory", f"{memory} bytes in all, the policy allows {setup.memory_bytes}")
        return folders.excess(self._writes, setup.disk_bytes)

    def memory(self) -> int:
        """Return the bytes of memory of all its processes, without pages of files."""
        return group.usage(self._process.pid, memory_limit=1)[1]

    def freeze(self, *, stopped: bool) -> None:
        """Stop every process of its session, or let them go on."""
        group.freeze(self._process.pid, stopped=stopped)

    async def kill(self) -> str:
        """SIGKILL to the group and to whatever left it, then wait until none is alive."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        left = await asyncio.to_thread(group.kill, self._family, ours=self._process.returncode is None)
        await self._process.wait()
        self._record.unlink(missing_ok=True)
        await asyncio.to_thread(folders.erase, self._writes[0])
        self._in.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._printing, LAST_WORDS_S)
        code = self._process.returncode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        log.info("child.ended", how=how, stragglers=left)
        return f"{how}\n{_tail(self._log)}"

    async def _keep_words(self) -> None:
        """Write down what the child prints, up to a limit; beyond it is read and forgotten."""
        assert self._process.stderr is not None  # noqa: S101
        kept = 0
        with self._log.open("ab", buffering=0) as file:
            while piece := await self._process.stderr.read(65536):
                room = max(0, LOG_LIMIT - kept)
                file.write(piece[:room])
                if kept <= LOG_LIMIT < kept + len(piece):
                    file.write(CUT)
                kept += len(piece)


def _tail(path: Path) -> str:
    """Return the last lines of the recipes' log, for the site's own log only."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
