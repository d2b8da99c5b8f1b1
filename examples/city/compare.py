"""What personal models are worth: persistence, car parks alone, all rows pooled, one common model, and personal ones.

Prints the table: python examples/city/compare.py. Models are trained by the recipe that agents run, and averaged here
as floats, weighed by rows: no platform, no quantiser, no engine. Each car park is scored on its own rows of December.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from undersong.recipes.catalogue import load_recipe
from undersong.recipes.datasets import load_dataset, read_datasets, window_groups
from undersong.recipes.protocol import TRAINING_ROUND, Dataset, Params, Tensors
from undersong.recipes.reference import pool, train_in_one_place
from undersong.shared.learning.metrics import evaluation_layout, metrics_of

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


def federate(sites: Sequence[Dataset], params: Params, rounds: int) -> tuple[Tensors, list[Tensors]]:
    """Return the common model after so many rounds over all sites, and what each site kept."""
    statistics = np.sum([RECIPE.statistics(data, params, 0) for data in sites], axis=0)
    context = {"statistics": list(statistics)}
    model = RECIPE.initial(sites[0].shape, params, context, 0).tensors
    kept: list[Tensors] = [{} for _ in sites]
    for number in range(rounds):
        here = {**context, TRAINING_ROUND: [float(number), float(rounds)]}
        given = [replace(data, local=own) for data, own in zip(sites, kept, strict=True)]
        made = [RECIPE.train(model, data, params, here, number, lambda _: None) for data in given]
        weights = np.array([one.examples for one in made], float)
        model = {
            name: np.average([one.tensors[name] for one in made], axis=0, weights=weights).astype(value.dtype)
            for name, value in model.items()
        }
        kept = [dict(one.local) for one in made]
    return model, kept


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
    spec, personal = job("job.yaml"), job("personalised.yaml")
    params, rounds, sites = spec["recipe"]["params"], rounds or int(spec["rounds"]), list(car_parks().values())
    same = len(sites)
    pooled = train_in_one_place(RECIPE, pool(sites), params, rounds=rounds)
    alone = [train_in_one_place(RECIPE, data, params, rounds=rounds) for data in sites]
    common, _ = federate(sites, params, rounds)
    held, kept = federate(sites, personal["recipe"]["params"], rounds)
    own = [replace(data, local=mine) for data, mine in zip(sites, kept, strict=True)]
    return {
        "as full as now": persistence(sites),
        "each car park alone": error(alone, sites, params),
        "all rows pooled": error([pooled] * same, sites, params),
        "common model": error([common] * same, sites, params),
        "personal models": error([held] * same, own, personal["recipe"]["params"]),
    }


def main() -> None:
    """Print the table."""
    for name, value in compare().items():
        sys.stdout.write(f"{name:20} {value:.4f}\n")


if __name__ == "__main__":
    main()
