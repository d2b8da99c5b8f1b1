"""What personal models are worth: persistence, car parks alone, all rows pooled, one common model, and personal ones.

Prints the table: python examples/city/compare.py. Models are trained by the recipe that agents run, those of several
car parks in a simulation of the job. Each car park is scored on its own rows of December.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from undersong.recipes.catalogue import load_recipe
from undersong.recipes.datasets import load_dataset, read_datasets, window_groups
from undersong.recipes.protocol import Dataset, Params, Tensors
from undersong.recipes.reference import pool, train_in_one_place
from undersong.shared.learning.metrics import evaluation_layout, metrics_of
from undersong.simulate import simulate

HERE: Final = Path(__file__).resolve().parent
RECIPE: Final = load_recipe("series")


def job(name: str) -> dict[str, Any]:
    """Return a job document of this folder."""
    document: dict[str, Any] = yaml.safe_load((HERE / name).read_text())
    return document


def car_parks() -> dict[str, Dataset]:
    """Return each car park's windows as the jobs name their columns."""
    entry = read_datasets(HERE / "datasets.yaml")["parking"]
    everything = load_dataset(entry, job("job.yaml")["data"]["features"])
    groups, names = window_groups(entry)
    return {name: _of(everything, np.flatnonzero(groups == place)) for place, name in enumerate(names)}


def _of(data: Dataset, rows: np.ndarray) -> Dataset:
    train, test = (np.flatnonzero(np.isin(rows, part)) for part in (data.train, data.test))
    return replace(data, features=data.features[rows], label=data.label[rows], train=train, test=test)


def federated(name: str, rounds: int) -> float:
    """Return the mean absolute error of a job of this folder, simulated with each car park as a client."""
    asked = job(name) | {"rounds": rounds, "evaluation": {"every": rounds}}
    with tempfile.TemporaryDirectory() as folder:
        run = simulate(asked, HERE / "datasets.yaml", partition="by:car_park", workers=0, out=folder)
        return run.metrics["mae"]


def error(models: Sequence[Tensors], sites: Sequence[Dataset], params: Params) -> float:
    """Return the mean absolute error over all test rows, each site with its model and what it kept."""
    sums = [RECIPE.evaluate(model, data, params, {}) for model, data in zip(models, sites, strict=True)]
    return metrics_of(evaluation_layout(RECIPE.spec, params), np.sum(sums, axis=0))["mae"]


def persistence(sites: Sequence[Dataset]) -> float:
    """Return the mean absolute error of "as full as now"."""
    last = [column.name for column in sites[0].columns].index("rate@0")
    return float(np.concatenate([np.abs(d.label[d.test] - d.features[d.test, last]) for d in sites]).mean())


def compare(rounds: int | None = None) -> dict[str, float]:
    """Return the mean absolute error of each way; every model has as many passes over its rows as there are rounds."""
    spec = job("job.yaml")
    params, rounds, sites = spec["recipe"]["params"], rounds or int(spec["rounds"]), list(car_parks().values())
    pooled = train_in_one_place(RECIPE, pool(sites), params, rounds=rounds)
    alone = [train_in_one_place(RECIPE, data, params, rounds=rounds) for data in sites]
    return {
        "as full as now": persistence(sites),
        "each car park alone": error(alone, sites, params),
        "all rows pooled": error([pooled] * len(sites), sites, params),
        "common model": federated("job.yaml", rounds),
        "personal models": federated("personalised.yaml", rounds),
    }


def main() -> None:
    """Print the table."""
    for name, value in compare().items():
        sys.stdout.write(f"{name:20} {value:.4f}\n")


if __name__ == "__main__":
    main()
