"""Where chunks are done: in this process, or in worker processes of this machine. One seam, `Executor`, which
`undersong.simulate.ray_tasks` has, too.

A worker is a process of its own (`python -m undersong.simulate.worker`), not a fork: it maps the rows, keeps one model,
has one thread, and is told each chunk in a line of JSON. Vectors travel as files that are deleted once read, never as
pickles.
Answers come back in the order of the chunks, so that sums do not depend on which worker is faster.
"""

import json
import os
import queue
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from undersong.errors import UndersongError
from undersong.recipes.protocol import Recipe
from undersong.shared.errors import Refusal
from undersong.shared.wire.manifest import RoundManifest
from undersong.simulate.clients import Chunk, ChunkSum, ClientFault, ClientWork, Keeper
from undersong.simulate.rows import ClientRows

ROWS: Final = "rows"
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_END_S: Final = 5.0


class Executor(Protocol):
    """Does the chunks of a simulation's rounds."""

    def prepare(self, manifest: RoundManifest, model: bytes | None) -> None:
        """Begin a round."""

    def run(self, chunks: Sequence[Chunk]) -> Iterator[ChunkSum]:
        """Do chunks of the round, and yield the answers in the same order; raises `UndersongError`."""

    def close(self) -> None:
        """End whatever was started."""


class Inline:
    """Does chunks in this process."""

    def __init__(self, rows: ClientRows, recipe: Recipe, engine: str, seed: int, kept: Keeper) -> None:
        self._work = ClientWork(rows, recipe, engine, seed, kept)

    def prepare(self, manifest: RoundManifest, model: bytes | None) -> None:
        """Begin a round."""
        self._work.prepare(manifest, model)

    def run(self, chunks: Sequence[Chunk]) -> Iterator[ChunkSum]:
        """Do chunks of the round, one after the other."""
        for chunk in chunks:
            try:
                answer = self._work.run(chunk)
            except Exception as error:
                raise failed(fault_of(error)) from error
            yield answer

    def close(self) -> None:
        """Nothing was started."""


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker is told at its start: the folder of rows and vectors, which recipe it runs, what clients keep."""

    scratch: str
    kept: str
    recipe: str
    own: tuple[str, ...]
    engine: str
    seed: int


class Pool:
    """Does chunks in worker processes; at most two chunks for each worker are under way, and so in memory.

    `setup.scratch` is a folder of its own, deleted at the beginning and at the end.
    """

    def __init__(self, rows: ClientRows, setup: WorkerSetup, workers: int) -> None:
        self._scratch, self._round, self._chunks = Path(setup.scratch), 0, 0
        shutil.rmtree(self._scratch, ignore_errors=True)  # what a killed simulation left
        rows.save(self._scratch / ROWS)
        self._workers = [_Worker(setup) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers)

    def prepare(self, manifest: RoundManifest, model: bytes | None) -> None:
        """Begin a round: each worker reads it with its first chunk."""
        for old in self._scratch.glob(f"{self._round}.*"):
            old.unlink()
        self._round += 1
        (self._scratch / f"{self._round}.json").write_text(manifest.model_dump_json())
        if model is not None:
            (self._scratch / f"{self._round}.safetensors").write_bytes(model)

    def run(self, chunks: Sequence[Chunk]) -> Iterator[ChunkSum]:
        """Do chunks of the round on whichever worker is idle."""
        waiting: deque[Future[ChunkSum]] = deque()
        try:
            for chunk in chunks:
                if len(waiting) >= 2 * len(self._workers):
                    yield waiting.popleft().result()
                self._chunks += 1
                waiting.append(self._threads.submit(self._do, chunk, self._round, self._chunks))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()

    def _do(self, chunk: Chunk, round_number: int, number: int) -> ChunkSum:
        worker = self._idle.get()
        try:
            return worker.ask({"round": round_number, "number": number, **asdict(chunk)})
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the workers and delete the scratch files."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(cancel_futures=True)
        shutil.rmtree(self._scratch, ignore_errors=True)


class _Worker:
    """One worker process, asked one chunk at a time."""

    def __init__(self, setup: WorkerSetup) -> None:
        environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
        command = [sys.executable, "-m", "undersong.simulate.worker", json.dumps(asdict(setup))]
        self._scratch = Path(setup.scratch)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def ask(self, chunk: dict[str, Any]) -> ChunkSum:
        """Return the answer to a chunk; UndersongError where the process ended or the recipe failed."""
        source, sink = self._process.stdin, self._process.stdout
        if source is None or sink is None:
            raise ValueError("the worker has no pipes")
        try:
            source.write(json.dumps(chunk).encode() + b"\n")
            source.flush()
            line = sink.readline()
        except OSError:
            line = b""
        if not line:
            code = self._process.wait()
            raise UndersongError(
                f"a worker process ended (exit code {code}); -9 often means that memory ran out",
                remedy="give fewer --workers and run the same command again: it goes on from the last round",
            )
        return self._answer(json.loads(line), self._scratch / f"{chunk['number']}.bin")

    def _answer(self, facts: dict[str, Any], path: Path) -> ChunkSum:
        if "error" in facts:
            raise failed(facts["error"])
        total = None
        if facts["dtype"] is not None:
            total = np.fromfile(path, facts["dtype"])
            path.unlink()
        faults = tuple(ClientFault(**fault) for fault in facts["faults"])
        return ChunkSum(total, facts["count"], faults, facts["weight"], facts["loss"], facts["clipped"])

    def close(self) -> None:
        """End the process: its chunks are files of ours and nothing of it stays."""
        self._process.kill()
        self._process.wait(_END_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # a chunk that was not read
                    pipe.close()


def fault_of(error: Exception) -> str:
    """Return what a recipe's exception says."""
    if isinstance(error, UndersongError):
        return error.message
    return error.detail if isinstance(error, Refusal) else f"the recipe failed: {type(error).__name__}: {error}"


def failed(fault: str) -> UndersongError:
    """Return the error of a simulation that a fault ends."""
    return UndersongError(fault, remedy="correct the recipe or the job, and run it again")
