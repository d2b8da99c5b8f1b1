"""Recurrence of breast cancer, by the hospital's example: trained as deployed; needs the folder beside the project.

Cox's model and a network (DeepSurv) at four sites, two cohorts. The pooled ones have all patients in one place and one
baseline hazard, and as many rounds. Concordance is that of held-out pairs within a cohort, the mean over both cohorts.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from tests.benchmarks.figures import Figure
from tests.benchmarks.learning_sets import SHARED, example
from tests.examples.test_survival import PREPARE, SURVIVAL
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.recipes.protocol import Dataset, Params, Tensors
from undersong.recipes.reference import pool, score, train_in_one_place
from undersong.shared.learning.tensors import load
from undersong.simulate import simulate

FILE: Final = SHARED / "breast_cancer_survival.csv.gz"
RECIPE: Final = load_recipe("tabular")
COHORTS: Final = (PREPARE.SITES[:3], PREPARE.SITES[3:])


def figures() -> list[Figure]:
    """The figures of both models."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            figure
            for name, job, gap in (("survival", "cox.yaml", 0.005), ("deepsurv", "deepsurv.yaml", 0.01))
            for figure in _figures(name, example("hospital/survival", job), gap, Path(folder))
        ]


def _figures(name: str, job: Mapping[str, object], gap: float, folder: Path) -> list[Figure]:
    sites = _sites(folder, job)
    run = simulate(job, sites, out=folder / name, workers=0)
    params, rounds = job["recipe"]["params"], int(job["rounds"])  # type: ignore[index, call-overload]
    cohorts = [pool([sites[site] for site in cohort]) for cohort in COHORTS]
    federated = _concordance(load(run.model.read_bytes()).tensors, cohorts, params)
    trained = train_in_one_place(RECIPE, pool(list(sites.values())), params, rounds=rounds)
    pooled = _concordance(trained, cohorts, params)
    alone = [
        _concordance(train_in_one_place(RECIPE, own, params, rounds=rounds), cohorts, params) for own in sites.values()
    ]
    mean, least = float(np.mean(federated)), min(f - p for f, p in zip(federated, pooled, strict=True))
    each = ", ".join(f"{value:.3f}" for value in federated)
    note = "concordance of held-out pairs within cohorts"
    return [
        Figure(f"learning.{name}.federated", mean, "", None, note=f"{note}; four sites; rotterdam, gbsg: {each}"),
        Figure(f"learning.{name}.pooled", float(np.mean(pooled)), "", note=note),
        Figure(f"learning.{name}.local_mean", float(np.mean(alone)), "", mean, "at most", note),
        Figure(f"learning.{name}.gap", -least, "", gap, "at most", "how much worse than pooled, at the worse cohort"),
    ]


def _sites(folder: Path, job: Mapping[str, object]) -> dict[str, Dataset]:
    rows = pd.read_csv(PREPARE.write(PREPARE.cohorts(FILE), folder))
    found = {}
    for site in PREPARE.SITES:
        own = folder / site
        own.mkdir(exist_ok=True)
        rows[rows.site == site].to_csv(own / PREPARE.FILE, index=False)
        (own / "datasets.yaml").write_text((SURVIVAL / "datasets.yaml").read_text())
        entry = read_datasets(own / "datasets.yaml")["recurrence"]
        found[site] = load_dataset(entry, job["data"]["features"], "time")  # type: ignore[index]
    return found


def _concordance(model: Tensors, cohorts: Sequence[Dataset], params: Params) -> list[float]:
    return [score(RECIPE, model, cohort, params)["concordance"] for cohort in cohorts]
