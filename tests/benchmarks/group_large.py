"""Group `large`: the largest resident memory of each process while three sites train 100 million parameters.

The recipe gives the model back as it came, so that what is measured is the platform's own: models and updates of
400 MB each. Each process is looked at twice a second, those of recipes too; the kernel keeps their high-water marks.
"""

import tempfile
import threading
from pathlib import Path

import psutil

from tests.benchmarks.figures import Figure
from tests.benchmarks.group_round import join
from undersong.local import Platform

SITES = 3
PARAMETERS = 100_000_000
ROUNDS = 2
LIMIT_MB = 1_500
LOOK_S = 0.5
RECIPE = "recipe"


def measure() -> list[Figure]:
    """The group's figures."""
    with tempfile.TemporaryDirectory(prefix="undersong-bench-") as folder, Platform(log_level="WARNING") as platform:
        join(platform, SITES, Path(folder))
        with Watch(platform) as watch:
            train(platform, PARAMETERS)
    return [
        Figure(f"large.{name}_mb.n{SITES}_d100m", mb, "MB", LIMIT_MB, "at most", "largest resident memory of a process")
        for name, mb in sorted(watch.peaks.items())
    ]


def train(platform: Platform, parameters: int) -> None:
    """Run a job of engine pairwise that trains nothing."""
    spec = {
        "name": "large",
        "federation_id": platform.federation().id,
        "model": {"name": "large"},
        "recipe": {"name": "null", "params": {"parameters": parameters}},
        "data": {"dataset": "rows", "label": "y"},
        "rounds": ROUNDS,
        "engine": "pairwise",
        "cohort": {"min": SITES},
        "evaluation": {"every": 0},
        "deadlines": {"round_s": 1800},
    }
    done = platform.client.wait(platform.client.submit_job(spec).id, timeout_s=3600)
    if done.state != "succeeded":
        raise RuntimeError(f"the job ended {done.state}: {done.reason}")


class Watch:
    """The high-water mark of each service's processes, of the largest agent and of the largest recipe, in megabytes."""

    def __init__(self, platform: Platform) -> None:
        self.peaks: dict[str, float] = {}
        self._platform, self._over = platform, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            for name, process in dict(self._platform.processes).items():
                self._note("agent" if name.startswith("agent.") else name.replace(".", "_"), process.pid)
                if name.startswith("agent."):
                    for child in _children(process.pid):
                        self._note(RECIPE, child)

    def _note(self, name: str, pid: int | None) -> None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            peak = next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))
        except (OSError, StopIteration):
            return
        self.peaks[name] = max(self.peaks.get(name, 0.0), peak)


def _children(pid: int | None) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []
