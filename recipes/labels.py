"""A label of numbers as it is learned: in standard deviations from its mean over all sites, and from its origin.

The origin is a column from whose value in the same row the label is measured; a model keeps its name, and the label's
mean and scale, as fixed tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import Array, Column, RecipeError, Tensors
from undersong.shared.statistics import moments

SCALING: Final = ("label.mean", "label.scale")
ORIGIN: Final = "label.origin"
LABEL_SUMS: Final = 3


def label_tensors(sums: npt.NDArray[np.float64] | None) -> Tensors:
    """Return the label's mean and scale over all sites as fixed tensors; without sums it is used unscaled."""
    if sums is None:
        return dict(zip(SCALING, (np.zeros(1), np.ones(1)), strict=True))
    summary = moments.summary_of(sums[-LABEL_SUMS:].reshape(LABEL_SUMS, 1))
    return dict(zip(SCALING, (summary.mean, summary.scale), strict=True))


def label_scale(model: Tensors) -> tuple[float, float]:
    """Return the label's mean and scale that a model keeps; 0 and 1 without them."""
    mean, scale = SCALING
    return float(model.get(mean, [0.0])[0]), float(model.get(scale, [1.0])[0])


def origin_of(model: Tensors) -> str | None:
    """Return the column from which the model's label is measured; None without one."""
    return model[ORIGIN].tobytes().decode() if ORIGIN in model else None


def values_of(origin: str | None, columns: Sequence[Column], features: Array) -> npt.NDArray[np.float64] | Literal[0]:
    """Return the column's value in each row, float64[n]; 0 without a column. Raises `RecipeError` for a missing one."""
    if origin is None:
        return 0
    place = next(at for at, column in enumerate(columns) if column.name == origin)
    values = np.asarray(features[:, place], np.float64)
    if not np.isfinite(values).all():
        raise RecipeError(f"{origin} is missing in a row, and what is predicted is the change from it")
    return values
