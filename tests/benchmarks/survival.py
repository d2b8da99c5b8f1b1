"""Recurrence of breast cancer in two cohorts, by the statistics job's Cox model; needs the folder beside the project.

A fifth of each cohort's patients is held out. The federated model is stratified by cohort, as a job fits it; the pooled
one has all patients in one place and one baseline. Concordance is that of held-out pairs within a cohort, the mean over
both cohorts.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from tests.benchmarks.figures import Figure
from tests.benchmarks.learning_sets import SHARED
from tests.shared.statistics.hospitals import federate, rows_of

FILE: Final = SHARED / "breast_cancer_survival.csv.gz"
SIZES: Final = ("nodes", "pgr", "er")
FEATURES: Final = ("age", "meno", "size", "grade", *SIZES, "hormon")
QUERY: Final = {"query": "cox_regression", "time": "time", "event": "event", "features": [*FEATURES], "ridge": 0.01}


def figures() -> list[Figure]:
    """The set's figures."""
    records = pd.read_csv(FILE)
    records[list(SIZES)] = np.log1p(records[list(SIZES)])
    held = np.random.default_rng(0).random(len(records)) < 0.2
    cohorts = [records[records.site == site] for site in ("rotterdam", "gbsg")]
    parts = [part[~held[part.index]].drop(columns="site") for part in cohorts]
    tests = [part[held[part.index]] for part in cohorts]
    federated = _concordance(_fitted(parts), tests)
    pooled = _concordance(_fitted([pd.concat(parts)]), tests)
    alone = float(np.mean([_concordance(_fitted([part]), tests) for part in parts]))
    note = "concordance of held-out pairs within cohorts"
    return [
        Figure("learning.survival.federated", federated, "", pooled - 0.005, "at least", f"{note}; two cohorts"),
        Figure("learning.survival.pooled", pooled, "", note=note),
        Figure("learning.survival.local_mean", alone, "", note=note),
        Figure("learning.survival.gap", pooled - federated, "", 0.005, "at most", "how much worse than pooled"),
    ]


def _fitted(parts: Sequence[pd.DataFrame]) -> np.ndarray:
    found: Any = federate([rows_of(part) for part in parts], QUERY, min_sites=1)[0]
    if found.status != "ok":
        raise RuntimeError(f"the Cox model has no answer: {found.note}")
    values = {term.term: term.value for term in found.terms}
    return np.array([values[name] for name in FEATURES])


def _concordance(coefficients: np.ndarray, tests: Sequence[pd.DataFrame]) -> float:
    found = []
    for rows in tests:
        eta, time = rows[list(FEATURES)].to_numpy(float) @ coefficients, rows.time.to_numpy(float)
        event = rows.event.to_numpy() > 0
        later = event[:, None] & ((time[None] > time[:, None]) | ((time[None] == time[:, None]) & ~event[None]))
        found.append(float((later & (eta[:, None] > eta[None])).sum() / later.sum()))
    return float(np.mean(found))
