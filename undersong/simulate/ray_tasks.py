"""Chunks as tasks of Ray: for a simulation that has outgrown one machine, or beside other work on a cluster.

Ray copies rows and models to its nodes, starts tasks again whose node failed, and ends with the simulation where that
started it. The nodes have the same packages as this machine, and recipes of one's own at the same paths. What clients
keep between rounds travels with their chunk and is stored here. Ray moves values as pickles, between the processes of
one cluster and its owner: a cluster runs any code of those who can reach it, as Ray's own documentation says.
"""

import importlib
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from undersong.errors import UndersongError
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.protocol import Tensors
from undersong.shared.wire.manifest import RoundManifest
from undersong.simulate.clients import Chunk, ChunkSum, ClientWork, Keeper
from undersong.simulate.executors import THREADS, failed, fault_of
from undersong.simulate.kept import LEFT_OUT, LOCAL
from undersong.simulate.rows import ClientRows

_AHEAD: Final = 2
"""Chunks for each core that are under way, and so in memory."""
_PACKAGE: Final = "ray"
_ANSWER_S: Final = 10.0
Held = dict[tuple[str, int], Tensors]
"""What clients keep, by what it is and the client."""


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """What each task is told: the simulation's name, by which a process knows that it has it, and its recipe."""

    recipe: str
    own: tuple[str, ...]
    engine: str
    seed: int
    name: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True, slots=True)
class StartedRound:
    """A round's number, its manifest as JSON, and the model that it starts from."""

    number: int
    manifest: bytes
    model: bytes | None


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """A chunk's sum, or why there is none, and what its clients leave for the next round."""

    made: ChunkSum | None
    fault: str
    left: Held


class RayTasks:
    """Does chunks as tasks, answers in the order of the chunks."""

    def __init__(self, rows: ClientRows, setup: TaskSetup, kept: Keeper, address: str) -> None:
        """Connect to the cluster at an address, or for none start Ray on this machine; raises `UndersongError`."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        environment = {"env_vars": dict.fromkeys(THREADS, "1")}
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        local: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            _reach(address)
            self._ray: Any = importlib.import_module(_PACKAGE)
            self._ray.init(address=address or "local", runtime_env=environment, **quiet, **local)
        except ModuleNotFoundError:
            raise UndersongError("Ray is not installed", remedy="pip install 'undersong[ray]'") from None
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            said = f"Ray at {address or 'this machine'} did not answer: {error}".splitlines()[0]
            raise UndersongError(said, remedy="start it (`ray start --head`), or give --workers ray") from None
        self._kept, self._rounds, self._number, self._started = kept, 0, 0, None
        self._setup = self._ray.put(setup)
        self._rows = self._ray.put(rows.parts())
        self._most = _AHEAD * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._task = self._ray.remote(do_chunk)

    def prepare(self, manifest: RoundManifest, model: bytes | None) -> None:
        """Begin a round."""
        self._rounds += 1
        self._number = manifest.number
        self._started = self._ray.put(StartedRound(self._rounds, manifest.model_dump_json().encode(), model))

    def run(self, chunks: Sequence[Chunk]) -> Iterator[ChunkSum]:
        """Do chunks of the round on the cluster."""
        waiting: deque[Any] = deque()
        try:
            for chunk in chunks:
                if len(waiting) >= self._most:
                    yield self._answer(waiting.popleft())
                every = [(what, client) for what in (LOCAL, LEFT_OUT) for client in chunk.clients]
                held = {(what, client): self._kept.before(client, self._number, what) for what, client in every}
                held = {place: tensors for place, tensors in held.items() if tensors}
                waiting.append(self._task.remote(self._setup, self._rows, self._started, chunk, held))
            while waiting:
                yield self._answer(waiting.popleft())
        finally:
            for each in waiting:
                self._ray.cancel(each)

    def _answer(self, task: Any) -> ChunkSum:
        try:
            answer: ChunkAnswer = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            said = f"Ray lost a task: {str(error).splitlines()[0]}"
            raise UndersongError(said, remedy="run the same command again: it goes on from the last round") from None
        if answer.made is None:
            raise failed(answer.fault)
        for (what, client), tensors in answer.left.items():
            self._kept.keep(client, self._number, tensors, what)
        total = answer.made.total
        return answer.made if total is None else replace(answer.made, total=total.copy())  # Ray's own is read-only

    def close(self) -> None:
        """Let the cluster go, and end it where it was started here."""
        self._ray.shutdown()


def _reach(address: str) -> None:
    """Raise an OSError where nothing listens at HOST:PORT, which Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()


class _Carried:
    """What a chunk's clients keep, as it came with the task."""

    def __init__(self) -> None:
        self.held: Held = {}
        self.left: Held = {}

    def before(self, client: int, number: int, what: str = LOCAL) -> Tensors:  # noqa: ARG002 (the sender chose by it)
        """Return what a client has."""
        return self.held.get((what, client), {})

    def keep(self, client: int, number: int, tensors: Tensors, what: str = LOCAL) -> None:  # noqa: ARG002
        """Hold what a client leaves."""
        self.left[what, client] = tensors


@dataclass
class _Process:
    """What a process of the cluster holds from one task to the next: one simulation's work, and its round."""

    name: str = ""
    work: ClientWork | None = None
    round: int = 0
    kept: _Carried = field(default_factory=_Carried)


_PROCESS = _Process()


def do_chunk(setup: TaskSetup, rows: Any, started: StartedRound, chunk: Chunk, held: Held) -> ChunkAnswer:
    """Do one chunk in a process of the cluster."""
    here = _PROCESS
    try:
        if here.work is None or here.name != setup.name:
            recipe = load_recipe(setup.recipe, [Path(path) for path in setup.own])
            here.work = ClientWork(ClientRows.of_parts(*rows), recipe, setup.engine, setup.seed, here.kept)
            here.name, here.round = setup.name, 0
        here.kept.held, here.kept.left = held, {}
        if here.round != started.number:
            here.work.prepare(RoundManifest.model_validate_json(started.manifest), started.model)
            here.round = started.number
        return ChunkAnswer(here.work.run(chunk), "", here.kept.left)
    except Exception as error:  # noqa: BLE001 (a recipe may raise anything; the sender tells it)
        return ChunkAnswer(None, fault_of(error), {})
