"""Group `simulation`: what a simulated client costs beside its training, against a bare loop, and at a million clients.

Times are of the wall, medians over rounds without the first, in which the workers start; CPU is that of all processes,
of a long run less a short one. The bare loop trains the same network on the same rows in one thread, with nothing but
torch.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.figures import Figure
from tests.benchmarks.mnist import FILE, RECIPE, mnist, mnist_job
from undersong.recipes.protocol import Dataset
from undersong.services.coordinator.domain.cohort import CohortRule
from undersong.services.coordinator.domain.progress import Step
from undersong.shared.wire.manifest import RoundKind
from undersong.simulate import Run, simulate
from undersong.simulate.conditions import SampleRule
from undersong.simulate.sampling import Population, cohort_of

LENGTH, ASKED, MANY = 100_000, 1000, 1_000_000
ROUNDS = 8
LOCAL = {"learning_rate": 0.1, "epochs": 1, "batch_size": 10}


def measure() -> list[Figure]:
    """The group's figures; those of MNIST only where it is."""
    return [*_null(), *_million(), *(_mnist() if FILE.exists() else [])]


def _null() -> Iterator[Figure]:
    """A recipe that changes nothing: unpack, subtract, clip, round, weigh and add."""
    for engine, target in (("quantised", 300.0), ("plain", None)):
        conditions = {"clients": ASKED, "workers": 2, "engine": engine}
        run, cpu = round_cpu_s(null_job(LENGTH), nothing(), **conditions)
        name = "sim.null_us_per_client.d100k" + ("" if target else "_plain")
        note = f"wall; {ASKED} clients a round, two workers, engine {engine}; CPU {cpu / ASKED * 1e6:.0f} us a client"
        yield Figure(name, round_s(run) / ASKED * 1e6, "us", target, "at most", note)


def _million() -> Iterator[Figure]:
    """A million clients, of which a thousand are asked, in a process of its own so that its memory can be told."""
    code = "from tests.benchmarks.group_simulation import print_memory; print_memory()"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    note = f"most of the coordinating process ({found['own']:.0f}) and of two workers ({found['worker']:.0f} each)"
    yield Figure("sim.rss_mb.c1e6", found["own"] + 2 * found["worker"], "MB", 600, "at most", note)
    yield Figure("sim.sample_ms.c1e6", found["sample_ms"], "ms", 50, "at most", f"{ASKED} clients of {MANY}")


def print_memory() -> None:
    """Simulate, and print the most memory of this process and of a worker, and what a cohort takes."""
    simulated(null_job(1000, cohort={"fraction": ASKED / MANY}), nothing(), clients=MANY, workers=2)
    own, worker = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    clients, rule = Population(MANY), CohortRule(3, None, ASKED / MANY)
    took = []
    for number in range(9):
        began = time.perf_counter()
        cohort_of(SampleRule(), rule, clients, Step(RoundKind.TRAIN, number, 1))
        cohort_of(SampleRule(ASKED / MANY, tossed=True), rule, clients, Step(RoundKind.TRAIN, number, 1))
        took.append(time.perf_counter() - began)
    print(json.dumps({"own": own, "worker": worker, "sample_ms": statistics.median(took) * 1000}))


def _mnist() -> Iterator[Figure]:
    data, job = mnist(), mnist_job("2nn", ROUNDS, cohort={"fraction": 0.1})
    job["recipe"] = {"name": "two-layer", "params": LOCAL}
    took = round_s(simulated(job, data, clients=100, workers=1, recipes=[RECIPE]))
    sites = np.array_split(np.random.default_rng(0).permutation(60_000), 100)[:10]
    bare = statistics.median(bare_round_s(data, sites) for _ in range(ROUNDS))
    note = f"2NN, 100 clients, C 0.1, E 1, B 10; a round takes {took:.2f} s with one worker, the bare loop {bare:.2f}"
    yield Figure("sim.over_bare_torch", took / bare, "", 1.3, "at most", note)
    from tests.benchmarks.flower_simulation import compared  # it needs this module

    peer = compared()
    yield Figure("sim.vs_flower", peer.peer_wall_s / peer.wall_s, "x", 5, "at least", f"wall; {peer.note}")


def bare_round_s(data: Dataset, sites: Sequence[Any]) -> float:
    """Return the time of a round of FedAvg that a person writes in torch."""
    import torch

    from tests.benchmarks.two_layer import build

    with one_thread():
        shape: Any = type("Shape", (), {"outputs": 10})
        network, loss = build(shape), torch.nn.CrossEntropyLoss()
        start = {name: value.clone() for name, value in network.state_dict().items()}
        x, y = torch.from_numpy(data.features), torch.from_numpy(data.label.astype(np.int64))
        began, total = time.perf_counter(), {name: torch.zeros_like(value) for name, value in start.items()}
        for rows in sites:
            network.load_state_dict(start)
            optimiser = torch.optim.SGD(network.parameters(), LOCAL["learning_rate"])
            mine, labels = x[rows], y[rows]
            for batch in torch.randperm(len(rows)).split(int(LOCAL["batch_size"])):
                optimiser.zero_grad()
                loss(network(mine[batch]), labels[batch]).backward()
                optimiser.step()
            for name, value in network.state_dict().items():
                total[name] += value / len(sites)
        return time.perf_counter() - began


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch has one thread in here."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def nothing() -> Dataset:
    """A data set without rows."""
    none = np.zeros(0, np.int64)
    return Dataset("nothing", (), np.zeros((0, 0)), np.zeros(0), none, none)


def null_job(parameters: int, **changes: Any) -> dict[str, Any]:
    """A job of the recipe that changes nothing."""
    return {
        "name": "null",
        "model": {"name": "null"},
        "recipe": {"name": "null", "params": {"parameters": parameters}},
        "data": {"dataset": "nothing"},
        "rounds": ROUNDS,
        "evaluation": {"every": 0},
    } | changes


def simulated(job: dict[str, Any], data: Dataset, **conditions: Any) -> Run:
    """Run a simulation whose files are not kept."""
    with tempfile.TemporaryDirectory() as folder:
        return simulate(job, data, out=Path(folder) / "run", **conditions)


def round_cpu_s(job: dict[str, Any], data: Dataset, **conditions: Any) -> tuple[Run, float]:
    """Return a run, and the CPU time that all processes take for one of its rounds."""
    began = cpu_s()
    simulated({**job, "rounds": 1}, data, **conditions)
    short = cpu_s()
    run = simulated(job, data, **conditions)
    return run, (cpu_s() - short - (short - began)) / (ROUNDS - 1)


def cpu_s() -> float:
    """Return the CPU time of this process and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def round_s(run: Run) -> float:
    """Return the time of a round of training: the median without the first."""
    trained = [round_ for round_ in run.rounds if round_.kind == "train"][1:]
    took = [(r.finished_at - r.created_at).total_seconds() for r in trained if r.finished_at and r.created_at]
    return statistics.median(took)
