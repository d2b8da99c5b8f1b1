"""The other processes of a site that trains by several: each computes a part of every batch, inside the same walls.

The child is the first of them (rank 0) and alone reports. It starts the others, which inherit its confinement, keeps
them between rounds, and ends them with the first failure.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import undersong
from undersong.recipes.protocol import RecipeError
from undersong.services.agent.runner.child import Pipes, end_group, take_pipes
from undersong.services.agent.runner.confine import end_with_parent
from undersong.services.agent.runner.protocol import Frame

START: Final = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(
    "undersong", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["undersong"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from undersong.services.agent.runner.ranks import main
main()
"""
"""Imports this module where the folder around the package cannot be looked into, as in a checkout."""
ANSWER_S: Final = 60.0  # how long after the first process the others may take to end a round
FAILED_S: Final = 5.0  # how long to wait for the one that explains a failure
STUCK_S: Final = 30.0  # how long the first process may wait for one that is gone
Result = TypeVar("Result")


class RankFailed(Exception):
    """Another process failed; `frame` is what it said."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(str(frame.get("detail")))
        self.frame = frame


class Team:
    """This process and those that it starts."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.size = int(setup.get("processes", 1))
        self._setup = {**setup, "processes": 1}
        self._others: list[_Other] = []
        self._rounds = 0
        self._busy = threading.Event()

    def may_train(self) -> bool:
        """Return whether there are several, and this process may talk over loopback; else says so once."""
        if self.size > 1 and not _has_loopback():
            sys.stderr.write(
                f"processes: {self.size} needs a network namespace, which this kernel does not give: one process "
                "trains alone\n"
            )
            self.size = 1
        return self.size > 1

    def train(self, order: Mapping[str, Any], work: Callable[[], Result]) -> Result:
        """Return what `work` makes of the order here, while the others compute their parts of it."""
        from undersong.recipes.parallel import together

        self._start()
        self._rounds += 1
        store = Path.cwd() / f"ranks-{self._rounds}"
        for rank, other in enumerate(self._others, 1):
            other.send({"type": "part", "rank": rank, "size": self.size, "store": str(store), "order": dict(order)})
        self._busy.set()
        try:
            with together(0, self.size, store):
                made = work()
            self._finish()
        except BaseException as error:
            said = {} if isinstance(error, RecipeError | RankFailed) else self._failure()
            self.stop()
            if said:
                raise RankFailed(said) from error
            raise
        finally:
            self._busy.clear()
            store.unlink(missing_ok=True)
        return made

    def stop(self) -> None:
        """End the others."""
        for other in self._others:
            other.end()
        self._others = []

    def _start(self) -> None:
        if not self._others:
            self._others = [_Other(self._setup, self._lose) for _ in range(self.size - 1)]

    def _finish(self) -> None:
        """Wait until the others have ended the round too; raises `RankFailed`."""
        for other in self._others:
            if (said := other.answer(ANSWER_S))["type"] == "failure":
                raise RankFailed(said)

    def _failure(self) -> Frame:
        """Return what another process says went wrong; empty where none does."""
        for other in self._others:
            if (said := other.answer(FAILED_S))["type"] == "failure" and said.get("code") != GONE["code"]:
                return said
        return {}

    def _lose(self) -> None:
        """End the whole group where the first process still waits for one that is gone."""
        if self._busy.wait(0):
            threading.Timer(STUCK_S, self._give_up, [self._rounds]).start()

    def _give_up(self, number: int) -> None:
        if self._busy.is_set() and self._rounds == number:
            sys.stderr.write("a process of this training is gone, and the others wait for it: all are ended\n")
            end_group()


GONE: Final[Frame] = {"type": "failure", "code": "child-died", "detail": "a process of the training ended", "where": []}


class _Other:
    """One of the other processes; its answers are read by a thread."""

    def __init__(self, setup: Mapping[str, Any], lost: Callable[[], None]) -> None:
        command = [sys.executable, "-c", START, next(iter(undersong.__path__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018 (asked for)
        self._pipes = Pipes(self._process.stdout, self._process.stdin)  # type: ignore[arg-type]
        self._said: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._lost = lost
        threading.Thread(target=self._read, daemon=True, name="rank").start()
        self.send({"type": "setup", "setup": dict(setup)})

    def send(self, frame: Frame) -> None:
        """Send a frame; one that is gone is noticed by its answer."""
        try:
            self._pipes.send(frame)
        except OSError:
            self._said.put(GONE)

    def answer(self, seconds: float) -> Frame:
        """Return its next answer."""
        try:
            return self._said.get(timeout=seconds)
        except queue.Empty:
            return GONE

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        try:
            while (frame := self._pipes.receive()) is not None:
                self._said.put(frame)
                if frame["type"] == "failure":
                    self._lost()
        except (OSError, ValueError):
            pass
        self._said.put(GONE)
        self._lost()


def _has_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError:
        return False
    return True


def main() -> None:
    """Take orders until the first process goes away."""
    if sys.platform == "linux":
        end_with_parent()
    pipes = take_pipes()
    first = pipes.receive()
    if first is None or first["type"] != "setup":
        sys.exit("the first frame must be the setup")
    from undersong.services.agent.runner.work import Workshop

    workshop = Workshop(first["setup"])
    while (order := pipes.receive()) is not None:
        pipes.send(_answer(workshop, order))


def _answer(workshop: Any, order: Frame) -> Frame:
    """Compute this process's part of a round."""
    from undersong.recipes.parallel import Unneeded, together
    from undersong.services.agent.runner.work import failure_frame

    try:
        with together(order["rank"], order["size"], Path(order["store"])):
            workshop.train_part(order["order"])
    except Unneeded:
        pass
    except (Exception, SystemExit) as error:  # noqa: BLE001 (recipes are other people's code)
        return failure_frame(error)
    return {"type": "done"}
