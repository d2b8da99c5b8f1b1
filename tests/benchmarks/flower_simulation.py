"""Flower's simulation as a peer: MNIST's 2NN by `flower_mnist.py`, in an environment of its own.

It is made on first use under build/bench/flower-simulation. Flower's pins contradict this project's, so it has its own
packages; torch and numpy are those of this environment, so that both train with the same library.
"""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks import group_simulation
from tests.benchmarks.learning_sets import EXAMPLES, example
from tests.benchmarks.mnist import FILE, mnist

VERSION = "1.42.0"
FOLDER = Path(__file__).parents[2] / "build" / "bench" / "flower-simulation"
TRAINED = 0.4
"""The accuracy of a run in which clients did train, after few rounds."""
SCRIPT = Path(__file__).with_name("flower_mnist.py")


@dataclass(frozen=True)
class PeerRun:
    """Seconds of the wall and of the CPU (all processes) for each round after the first, and the last accuracy."""

    wall_s: list[float]
    cpu_s: list[float]
    accuracy: float


def environment(folder: Path = FOLDER) -> Path:
    """Return the peer's Python, made when missing."""
    python = folder / "venv" / "bin" / "python"
    ready = folder / f"ready-{VERSION}"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / "venv")], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", f"flwr[simulation]=={VERSION}"]
        subprocess.run(pip, check=True)
        found = subprocess.run([str(python), "-c", _PLACE], check=True, capture_output=True, text=True).stdout.strip()
        Path(found, "after.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after its own packages
        ready.touch()
    return python


@dataclass(frozen=True)
class Compared:
    """Seconds of a round here and there, of the wall and of the CPU."""

    wall_s: float
    cpu_s: float
    peer_wall_s: float
    peer_cpu_s: float

    @property
    def note(self) -> str:
        """What was compared."""
        return (
            f"Flower {VERSION}, MNIST 2NN, 100 clients, C 0.1, E 1, B 10, two processors: a round {self.wall_s:.2f} s "
            f"and {self.cpu_s:.2f} s of CPU here, {self.peer_wall_s:.2f} and {self.peer_cpu_s:.2f} there"
        )


@functools.cache
def compared(processors: int = 2) -> Compared:
    """Train the same network on the same images for the same number of rounds, here and there."""
    rounds = group_simulation.ROUNDS
    job = example("vision", "mnist-2nn.yaml", rounds=rounds, evaluation={"every": 0})
    conditions = {"clients": 100, "sample": 0.1, "workers": processors, "recipes": [EXAMPLES / "vision/networks.py"]}
    ours, cpu_s = group_simulation.round_cpu_s(job, mnist(), **conditions)
    theirs = run(rounds - 1, processors)
    return Compared(
        group_simulation.round_s(ours),
        cpu_s,
        statistics.median(theirs.wall_s),
        statistics.fmean(theirs.cpu_s),
    )


_PLACE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def run(rounds: int, processors: int, folder: Path = FOLDER) -> PeerRun:
    """Run so many rounds and one before them, in which workers start. Raises RuntimeError."""
    python, home = environment(folder), folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        "HOME": str(home),
        "FLWR_HOME": str(home / ".flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else others on the machine come first, and not for this project's workers
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parent),
        "PEER_FILE": str(FILE),
        "PEER_ROUNDS": str(rounds + 1),
        "PEER_PROCESSORS": str(processors),
    }
    ends: list[tuple[float, float]] = []
    output, accuracy = [], 0.0
    command = [str(python), "-c", f"import {SCRIPT.stem}; {SCRIPT.stem}.simulate()"]
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=home
    ) as process:
        assert process.stdout is not None
        root = psutil.Process(process.pid)
        for line in process.stdout:
            output.append(line)
            if "ROUND end" in line:
                ends.append((time.monotonic(), _cpu_s(root)))
            if line.startswith("ACCURACY"):
                accuracy = float(line.split()[1])
    if len(ends) != rounds + 1 or accuracy < TRAINED:
        raise RuntimeError("the peer's run failed:\n" + "".join(output[-20:]))
    pairs = list(itertools.pairwise(ends))
    return PeerRun([b[0] - a[0] for a, b in pairs], [b[1] - a[1] for a, b in pairs], accuracy)


def _cpu_s(root: psutil.Process) -> float:
    """Return the CPU seconds so far of every process of the tree, ended ones included."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
