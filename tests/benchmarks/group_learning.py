"""Group `learning`: real data, trained by the examples' jobs as they would be deployed, against pooled rows.

Each set is simulated with the deployed recipe, quantiser and order of rounds. `federated` is held to the set's bar,
`gap` to one point below the same recipe on all rows, and the mean of clients' own models to the federated one. All are
scored on the same test rows. Data that the project does not carry are read from the folder `shared/data` beside it.
"""

import os
import time
from collections.abc import Iterator

from rich.console import Console

from tests.benchmarks import open_series, parking, plays, survival
from tests.benchmarks.figures import Figure
from tests.benchmarks.flower_simulation import compared
from tests.benchmarks.learning_sets import EXAMPLES, SHARED, LearningSet, declared, example
from tests.benchmarks.mnist import CIFAR, FILE, cifar10, mnist
from tests.examples.test_hospital import HOSPITAL

NETWORKS = EXAMPLES / "vision" / "networks.py"


def measure() -> list[Figure]:
    """The group's figures; UNDERSONG_LEARNING names some of the sets, `flower` the comparison with its simulation."""
    console, found = Console(stderr=True), []
    wanted = [name for name in os.environ.get("UNDERSONG_LEARNING", "").split(",") if name]
    for each in _sets(console):
        if wanted and each.name not in wanted:
            continue
        began = time.monotonic()
        figures = each.figures()
        found += figures
        told = ", ".join(f"{figure.id.split('.', 2)[2]} {figure.value:.4g}" for figure in figures)
        console.print(f"  {each.name}: {told} ({time.monotonic() - began:.0f} s)", highlight=False)
    if not wanted or "survival" in wanted:
        if survival.FILE.exists():
            found += survival.figures()
        else:
            console.print(f"  survival: left out, there is no {survival.FILE}")
    if (not wanted or "flower" in wanted) and FILE.exists():
        found += _against_flower()
    return found


def _sets(console: Console) -> Iterator[LearningSet]:
    yield LearningSet(
        "heart", HOSPITAL.job(), lambda _: HOSPITAL.site_data(), "auc", {20: 0.85}, note="; four hospitals"
    )
    yield LearningSet(
        "adult",
        example("bank", "adult.yaml"),
        declared("bank", "adult-data.yaml"),
        "auc",
        {60: 0.895},
        conditions={"partition": "by:occupation"},
        pooled_rounds=10,
        alone_rounds=20,
    )
    yield LearningSet(
        "german",
        example("bank", "german.yaml"),
        declared("bank", "german-data.yaml"),
        "auc",
        {30: None},
        conditions={"clients": 5},
    )
    if (file := SHARED / "lending_club.csv.gz").exists():
        yield LearningSet(
            "lending",
            example("bank", "lending.yaml"),
            declared("bank", "lending-data.yaml", file),
            "auc",
            {60: 0.730},
            conditions={"partition": "by:addr_state"},
            pooled_rounds=20,
        )
    else:
        console.print(f"  lending: left out, there is no {file}")
    if parking.FILE.exists():
        yield parking.parking()
    else:
        console.print(f"  parking: left out, there is no {parking.FILE}")
    yield from open_series.sets(console)
    if FILE.exists():
        yield _mnist("mnist", "mnist-2nn.yaml", 90, 0.97, "iid")
        yield _mnist("mnist_shards", "mnist-shards.yaml", 250, 0.95, "shards:2")
    else:
        console.print(f"  mnist: left out, there is no {FILE}")
    if CIFAR.exists():
        yield _cifar()
    else:
        console.print(f"  cifar: left out, there is no {CIFAR}")
    if plays.FILE.exists():
        yield plays.plays()
    else:
        console.print(f"  shakespeare: left out, there is no {plays.FILE}")


def _mnist(name: str, job: str, rounds: int, bar: float, partition: str) -> LearningSet:
    """McMahan et al.'s 2NN (2017), a tenth of a hundred clients in each round."""
    return LearningSet(
        name,
        example("vision", job),
        lambda _: mnist(),
        "accuracy",
        {rounds: bar},
        conditions={"clients": 100, "partition": partition, "sample": 0.1},
        recipes=[NETWORKS],
        pooled_rounds=5,
        alone_rounds=10,
        alone=5,
        comparable=None if partition != "iid" else 0.01,
        note="; 100 clients, a tenth a round",
        rounds_to=True,
    )


def _cifar() -> LearningSet:
    """A small network for colour images, ten clients in each round."""
    return LearningSet(
        "cifar",
        example("vision", "cifar10.yaml"),
        lambda _: cifar10(),
        "accuracy",
        {8: 0.52},
        conditions={"clients": 10},
        recipes=[NETWORKS],
        pooled_rounds=2,
        alone_rounds=8,
        alone=1,
        comparable=None,
        note="; ten clients, batches of 10, images packed by JPEG",
        rounds_to=True,
    )


def _against_flower() -> list[Figure]:
    """Return what a round of MNIST's 2NN costs over Flower's simulation."""
    peer = compared()
    return [
        Figure("learning.mnist.wall_vs_flower", peer.wall_s / peer.peer_wall_s, "x", note=peer.note),
        Figure("learning.mnist.cpu_vs_flower", peer.cpu_s / peer.peer_cpu_s, "x", 0.5, "at most", peer.note),
    ]
