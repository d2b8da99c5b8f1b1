"""The label of task survival, Cox's partial likelihood as a loss, and what sites add up to evaluate a model.

A row's label is a time, and in a column beside it whether the event came then (1) or the time was cut short (0). A
model gives each row the logarithm of its hazard, up to a constant. Linear models are Cox's; with hidden layers the
model is DeepSurv. Risk sets are those of the rows that a step takes at one site, so that the likelihood of all sites is
stratified by site: each has a baseline hazard of its own.

Sources: Cox, Regression Models and Life-Tables (JRSS B 1972), with ties as in Efron, The Efficiency of Cox's Likelihood
Function (JASA 1977), eq. 6; Katzman et al., DeepSurv (BMC Medical Research Methodology 2018), eq. 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import Array, Column, Dataset, DataShape, RecipeError
from undersong.shared.learning.metrics import Unmeasurable
from undersong.shared.names import hint
from undersong.shared.statistics import likelihood

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]


def without_event(shape: DataShape, event: str) -> DataShape:
    """Return the shape without the column of events; raises `RecipeError` where it has none."""
    place = _place(shape.columns, event)
    return replace(shape, columns=(*shape.columns[:place], *shape.columns[place + 1 :]))


def with_events(data: Dataset, event: str) -> Dataset:
    """Return the data set with labels float64[n, 2], time and event, and without that column among the features.

    Rows that do not say whether the event came are in no part. Raises `RecipeError` for a column of other values.
    """
    place = _place(data.columns, event)
    events = np.asarray(data.features[:, place], np.float64)
    known = np.isfinite(events)
    if not np.isin(events[known], (0, 1)).all():
        raise RecipeError(
            f"{event} says whether the event came, 1, or the time was cut short, 0, and holds other values: map them "
            "under values in datasets.yaml"
        )
    return replace(
        data,
        columns=(*data.columns[:place], *data.columns[place + 1 :]),
        features=np.delete(data.features, place, axis=1),
        label=np.stack([data.label, events], axis=1),
        train=data.train[known[data.train]],
        validation=data.validation[known[data.validation]],
        test=data.test[known[data.test]],
    )


def ranked(labels: Array) -> npt.NDArray[np.float32]:
    """Return labels [n, 2] with ranks in the place of times, which float32 would round: equal times stay equal."""
    ranks = np.unique(labels[:, 0], return_inverse=True)[1]
    return np.stack([ranks.ravel(), labels[:, 1]], axis=1).astype(np.float32)


def cox_loss(said: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the negative partial log-likelihood of log hazards [n, 1] and labels [n, 2], over the number of rows.

    Divided by rows, not by events, so that sites' losses weighed by their rows add up to the likelihood of all. Of d
    events at one time the l-th (from 0) has the risk set's sum less l/d of that of the d rows themselves.
    """
    import torch

    if not truth[:, 1].any():
        return said.sum() * 0
    if said.device.type == "mps":  # has no float64
        return cox_loss(said.cpu(), truth.cpu()).to(said.device)
    order = torch.argsort(truth[:, 0], descending=True, stable=True)
    time, event, eta = truth[order, 0], truth[order, 1].to(torch.float64), said[order, 0].to(torch.float64)
    _, group, rows = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    last = rows.cumsum(0) - 1
    # Logarithms, since of hazards that differ by more than e^745 the sum of the smaller ones would be 0.
    whole = torch.logcumsumexp(eta, 0)[last][group]
    zeros = torch.zeros(len(rows), dtype=torch.float64, device=said.device)
    deaths, tied = zeros.index_add(0, group, event), zeros.index_add(0, group, event * (eta - whole).exp())
    before = event.cumsum(0) - event  # events at later times, and those at the same time that stand before the row
    place = before - (deaths.cumsum(0) - deaths)[group]
    left = whole + torch.log1p(-place / deaths.clamp(min=1)[group] * tied[group])
    came = event > 0
    return ((left[came] - eta[came]).sum() / len(event)).to(said.dtype)


def survival_sums(labels: Array, scores: Array) -> Floats:
    """Return sums over rows from labels [n, 2] and log hazards [n]; raises `Unmeasurable` for numbers not finite.

    Rows, the negative partial log-likelihood, events, concordant pairs (of equal hazards half), and pairs compared.
    """
    time, event = np.asarray(labels, np.float64).T
    eta = np.asarray(scores, np.float64)
    if not (np.isfinite(time).all() and np.isfinite(eta).all()):
        raise Unmeasurable("a time or a log hazard is not a finite number: the model has diverged, or a value is wrong")
    if not event.any():
        return np.array([time.size, 0.0, 0.0, 0.0, 0.0])
    centred = (eta - np.median(eta))[:, None]
    value = likelihood.cox(centred, event, np.ones(1), time).value
    return np.array([time.size, -value, event.sum(), *likelihood.concordance(eta, event, time)])


def _place(columns: Sequence[Column], event: str) -> int:
    names = [column.name for column in columns]
    if event not in names:
        raise RecipeError(
            f"task survival needs the column {event!r}, which says whether the event came, among the features"
            f"{hint(event, names)}: list it there, or name another by the parameter event"
        )
    return names.index(event)
