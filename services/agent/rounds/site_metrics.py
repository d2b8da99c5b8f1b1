"""A site's own metrics, told in the clear where its policy allows it and the round asks for them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.services.agent.domain.rules import SiteMetricsRule
from undersong.services.agent.runner.protocol import RunOutcome
from undersong.shared.learning.metrics import COUNTS, SHARES, least_class, metrics_of, of_all
from undersong.shared.wire.manifest import RoundManifest

LEAST_OF_CLASS: Final = 10
"""Rows that a metric is of at least: of fewer of a class, recall and precision would tell of single rows."""


def own_metrics(rule: SiteMetricsRule | None, manifest: RoundManifest, outcome: RunOutcome) -> Mapping[str, float]:
    """Return what the coordinator may be told of an evaluation here; nothing unless both sides want it.

    Counts of classes and bounds of errors are left out. The noise comes from the system's generator.
    """
    if rule is None or not manifest.site_metrics or outcome.sums is None or outcome.metrics_layout is None:
        return {}
    layout, sums = outcome.metrics_layout, np.fromfile(outcome.sums, "<f8")
    found = metrics_of(layout, sums)
    rows = found["examples"]
    positives = found.get("positives", rows / 2)
    if rows < rule.min_rows or (of_all(layout)[0] == "binary" and min(positives, rows - positives) < LEAST_OF_CLASS):
        return {}
    if found.get("events", LEAST_OF_CLASS) < LEAST_OF_CLASS:
        return {}
    hidden = COUNTS | _of_few(of_all(layout)[0], sums, found)
    told = {name: value for name, value in found.items() if name not in hidden and not name.endswith("_error")}
    return {"examples": rows} | {name: _blurred(name, value, rule.noise) for name, value in told.items()}


def _of_few(layout: str, sums: npt.NDArray[np.float64], found: Mapping[str, float]) -> frozenset[str]:
    """Return the metrics that rest on too few rows although the site has enough: by class of several, or by size."""
    if layout.startswith("multiclass"):
        return frozenset({"balanced_accuracy"} if 0 < least_class(layout, sums) < LEAST_OF_CLASS else ())
    return frozenset({"mape"} if found.get("mape_rows", LEAST_OF_CLASS) < LEAST_OF_CLASS else ())


def _blurred(name: str, value: float, noise: float) -> float:
    if not noise:
        return value
    drawn = secrets.SystemRandom().gauss(0.0, noise)
    return min(1.0, max(0.0, value + drawn)) if name in SHARES else value * (1 + drawn)
