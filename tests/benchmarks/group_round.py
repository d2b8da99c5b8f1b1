"""Group `round`: rounds that train nothing, over real processes, ours and Flower's deployment engine in the same run.

Latency is the time from one published round to the next, by the coordinator's own clock; CPU is the time of every
process of the platform between the second round and the last, divided by the rounds. Two rounds warm things up.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks.figures import Figure
from tests.benchmarks.flower_peer import FlowerPeer, PeerRounds
from undersong.client.types import Round
from undersong.local import Platform

COHORTS = (2, 5, 10)
SIZES = {"d100k": 100_000, "d1m": 1_000_000}
ROUNDS = 12
WARM = 2
PEER_ROUNDS = 2
POLICY = {
    "federations": ["own"],
    "recipes": [{"name": "null"}],
    "datasets": {"rows": {"columns": "*"}},
    "engines": ["pairwise", "sealed", "twoserver"],
}
PEER_FOLDER = Path("build/bench/flower")


@dataclass(frozen=True)
class Measured:
    """One job: seconds from round to round, CPU seconds a round by process, peak megabytes by process."""

    latency_s: list[float]
    cpu_s: Mapping[str, float]
    peak_mb: Mapping[str, float]

    @property
    def total_cpu_s(self) -> float:
        """CPU seconds a round of all processes."""
        return sum(self.cpu_s.values())

    @property
    def agent_cpu_s(self) -> float:
        """CPU seconds a round of the mean agent, its recipe's process included."""
        return statistics.mean(value for name, value in self.cpu_s.items() if name.startswith("agent."))


def measure() -> list[Figure]:
    """The group's figures."""
    figures: list[Figure] = []
    for n in COHORTS:
        with (
            tempfile.TemporaryDirectory(prefix="undersong-bench-") as folder,
            Platform(log_level="WARNING") as platform,
        ):
            idle_mb = join(platform, n, Path(folder))
            for label, parameters in SIZES.items():
                measured = job(platform, n, parameters)
                figures += _figures(f"n{n}_{label}", measured, target=(n, label) == (10, "d1m"))
                if (n, label) == (10, "d1m"):
                    ours = measured
        if n == 10:
            figures.append(Figure("round.agent_idle_mb", idle_mb, "MB", 80, note="before a recipe is loaded, largest"))
    return [*figures, *_against_flower(ours)]


def job(platform: Platform, n: int, parameters: int, engine: str = "sealed") -> Measured:
    """Run one null job and measure it from outside."""
    spec = {
        "name": f"null-{n}-{parameters}",
        "federation_id": platform.federation().id,
        "model": {"name": f"null-{n}-{parameters}-{engine}"},
        "recipe": {"name": "null", "params": {"parameters": parameters}},
        "data": {"dataset": "rows", "label": "y"},
        "rounds": WARM + ROUNDS,
        "engine": engine,
        "cohort": {"min": min(3, n), "allow_small": n < 3},
        "evaluation": {"every": 0},
    }
    submitted = platform.client.submit_job(spec)
    before: Mapping[str, float] = {}
    for event in platform.client.events(submitted.id):
        published = event.type == "round.published" and event.data.get("kind") == "train"
        if published and event.data.get("number") == WARM:
            before = _cpu_s(platform)
        if event.type.startswith("job.") and platform.client.job(submitted.id).finished:
            break
    after = _cpu_s(platform)
    finished = platform.client.job(submitted.id)
    if finished.state != "succeeded":
        raise RuntimeError(f"the job ended {finished.state}: {finished.reason}")
    ends = [_end(r) for r in platform.client.rounds(submitted.id) if r.kind == "train"][WARM - 1 :]
    latency = [b - a for a, b in itertools.pairwise(ends)]
    cpu = {name: (after[name] - before[name]) / ROUNDS for name in after}
    return Measured(latency, cpu, _peak_mb(platform))


def _end(round_: Round) -> float:
    if round_.finished_at is None:
        raise RuntimeError(f"round {round_.id} never ended")
    return round_.finished_at.timestamp()


def join(platform: Platform, n: int, folder: Path) -> float:
    """Let n sites join; the resident megabytes of the largest agent before it loads a recipe."""
    (folder / "rows.csv").write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    columns = [{"name": "x", "type": "number"}, {"name": "y", "type": "number"}]
    entry = {"name": "rows", "kind": "csv", "path": str(folder / "rows.csv"), "label": "y", "columns": columns}
    for i in range(n):
        platform.add_site(f"site-{i}", datasets={"datasets": [entry]}, policy=POLICY | {"min_cohort": min(3, n)})
    platform.wait_sites_online(n, timeout_s=180)
    time.sleep(1)
    agents = [name for name in platform.processes if name.startswith("agent.")]
    return max(psutil.Process(platform.processes[name].pid).memory_info().rss for name in agents) / 1e6


def _tree(pid: int | None) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _cpu_s(platform: Platform) -> dict[str, float]:
    return {
        name: sum(p.cpu_times().user + p.cpu_times().system for p in _tree(process.pid))
        for name, process in platform.processes.items()
    }


def _peak_mb(platform: Platform) -> dict[str, float]:
    """The kernel's high-water mark of each process, in megabytes."""
    peaks = {}
    for name, process in platform.processes.items():
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peaks[name] = next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM"))
    return peaks


def _figures(label: str, measured: Measured, *, target: bool) -> list[Figure]:
    services = {name: mb for name, mb in measured.peak_mb.items() if not name.startswith(("agent.", "valkey"))}
    latency, spread = statistics.median(measured.latency_s), f"min {min(measured.latency_s):.2f}"
    return [
        Figure(f"round.latency_s.{label}", latency, "s", 0.5 if target else None, note=spread),
        Figure(f"round.cpu_s.{label}", measured.total_cpu_s, "s", note="all processes, a round"),
        Figure(f"round.agent_cpu_s.{label}", measured.agent_cpu_s, "s", 0.1 if target else None, note="a round"),
        *(
            Figure(f"round.{name.replace('.', '_')}_rss_mb.{label}", mb, "MB", note="peak")
            for name, mb in services.items()
        ),
        Figure(
            f"round.aggregator_rss_mb.{label}", services["aggregator.worker"], "MB", note="peak, the folding worker"
        ),
    ]


def _against_flower(ours: Measured) -> list[Figure]:
    with FlowerPeer(PEER_FOLDER, 10) as peer:
        theirs: PeerRounds = peer.rounds(SIZES["d1m"], PEER_ROUNDS)
    cpu, latency = statistics.median(theirs.cpu_s), statistics.median(theirs.latency_s)
    ratio = ours.total_cpu_s / cpu
    return [
        Figure("round.flower_latency_s.n10_d1m", latency, "s", note="Flower 1.41, deployment engine"),
        Figure("round.flower_cpu_s.n10_d1m", cpu, "s", note="Flower 1.41, all processes, a round"),
        Figure("round.cpu_vs_flower.n10_d1m", ratio, "x", 0.25, note="our CPU seconds over theirs, same run"),
    ]
