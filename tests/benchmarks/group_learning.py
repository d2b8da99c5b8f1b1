"""Group `learning`: real data, trained by the examples' jobs as they would be deployed, against pooled rows.

Each set is simulated with the deployed recipe, quantiser and order of rounds. `federated` is held to the set's bar,
`gap` to one point below the same recipe on all rows, and the mean of clients' own models to the federated one. All are
scored on the same test rows. Data that the project does not carry are read from the folder `shared/data` beside it.
"""

import os
import time
from collections.abc import Iterator

from rich.console import Console

from tests.benchmarks import parking, survival
from tests.benchmarks.figures import Figure
from tests.benchmarks.learning_sets import SHARED, LearningSet, declared, example
from tests.benchmarks.mnist import FILE, RECIPE, mnist, mnist_job
from tests.examples.test_hospital import HOSPITAL

TWO_LAYERS = {"epochs": 1, "batch_size": 10}


def measure() -> list[Figure]:
    """The group's figures; UNDERSONG_LEARNING names some of the sets."""
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
    if FILE.exists():
        yield _mnist("mnist", 90, 0.97, 0.1, "iid")
        yield _mnist("mnist_shards", 250, 0.95, 0.1, "shards:2")
    else:
        console.print(f"  mnist: left out, there is no {FILE}")


def _mnist(name: str, rounds: int, bar: float, rate: float, partition: str) -> LearningSet:
    """McMahan et al.'s 2NN (2017), a tenth of a hundred clients in each round."""
    job = mnist_job(name, rounds, evaluation={"every": 5}, update={"clip_norm": 20})
    job["recipe"] = {"name": "two-layer", "params": {**TWO_LAYERS, "learning_rate": rate}}
    return LearningSet(
        name,
        job,
        lambda _: mnist(),
        "accuracy",
        {rounds: bar},
        conditions={"clients": 100, "partition": partition, "sample": 0.1},
        recipes=[RECIPE],
        pooled_rounds=3,
        alone_rounds=10,
        alone=5,
        comparable=None if partition != "iid" else 0.01,
        note="; 100 clients, a tenth a round",
    )
