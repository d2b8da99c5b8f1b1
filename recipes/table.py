"""A table's columns as numbers that a model can take, by rules that need only the federation's sums.

Each number column gives two inputs (the value, and 1 where it is missing), each category column one for every category
and one for "missing". Values are centred and scaled by the federation's mean and standard deviation; a missing value
becomes the mean, which is 0. Mean, scale and the columns themselves are fixed tensors of the model, so that a model
that is pulled from the registry can predict from raw columns with nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.datasets import numbers_of
from undersong.recipes.protocol import RecipeError, Tensors
from undersong.shared.names import hint
from undersong.shared.statistics import moments
from undersong.shared.wire.profiles import Column

Matrix = npt.NDArray[np.float64]
MEAN: Final = "input.mean"
SCALE: Final = "input.scale"
COLUMNS: Final = "input.columns"
FIXED: Final = (MEAN, SCALE, COLUMNS)


def input_names(columns: tuple[Column, ...]) -> list[str]:
    """Return the inputs' names in order."""
    names: list[str] = []
    for column in columns:
        names += [f"{column.name}={text}" for text in column.categories or ()] or [column.name]
        names.append(f"{column.name}?")
    return names


def raw_inputs(columns: tuple[Column, ...], features: Matrix) -> Matrix:
    """float64[n, inputs] from the data set's float64[n, columns]; a missing number stays NaN."""
    made = []
    for place, column in enumerate(columns):
        values = features[:, place]
        if column.type == "category":
            made += [np.where(values == code, 1.0, 0.0) for code in range(len(column.categories or ()))]
        else:
            made.append(values)
        made.append(np.isnan(values).astype(np.float64))
    return np.stack(made, axis=1) if made else np.zeros((len(features), 0))


def statistics(columns: tuple[Column, ...], features: Matrix) -> npt.NDArray[np.float64]:
    """Return the sums that scaling needs, float64[3 inputs]: counts of known values, sums, sums of squares."""
    return moments.sums_of(raw_inputs(columns, features)).ravel()


def declared(columns: tuple[Column, ...], ranges: Mapping[str, Sequence[float]]) -> npt.NDArray[np.float64]:
    """Return the sums of `statistics` for rows spread evenly over declared ranges; raises `RecipeError`.

    Inputs that are 0 or 1 are spread over 0 to 1.
    """
    spans: list[tuple[float, float]] = []
    for column in columns:
        if column.type == "category":
            spans += [(0.0, 1.0)] * len(column.categories or ("",))
        else:
            spans.append(range_of(column.name, ranges))
        spans.append((0.0, 1.0))
    return evenly(spans).ravel()


def range_of(name: str, ranges: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Return a column's declared range; raises `RecipeError` where there is none, or it has no width."""
    if name not in ranges:
        raise RecipeError(f"parameter ranges lacks column {name}: give the lowest and highest value of each number")
    low, high = map(float, ranges[name])
    if not low < high:
        raise RecipeError(f"parameter ranges: {low:g} to {high:g} of column {name} has no width")
    return low, high


def evenly(spans: Sequence[tuple[float, float]]) -> npt.NDArray[np.float64]:
    """Return float64[3, m] of `moments.sums_of`, of one row's weight spread evenly over each span."""
    low, high = np.array(spans, np.float64).reshape(-1, 2).T
    mean = (low + high) / 2
    return np.stack([np.ones(len(mean)), mean, mean**2 + (high - low) ** 2 / 12])


def fixed_tensors(columns: tuple[Column, ...], sums: npt.NDArray[np.float64] | None) -> Tensors:
    """Return mean, scale and columns as fixed tensors; without sums, inputs are used unscaled."""
    width = len(input_names(columns))
    mean, scale = np.zeros(width), np.ones(width)
    if sums is not None:
        if sums.shape != (3 * width,):
            raise RecipeError(f"the statistics have {sums.size} sums, these columns need {3 * width}")
        summary = moments.summary_of(sums.reshape(3, width))
        mean, scale = summary.mean, summary.scale
    document = [column.model_dump(mode="json", exclude_none=True) for column in columns]
    packed = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    return {MEAN: mean, SCALE: scale, COLUMNS: np.frombuffer(packed, np.uint8)}


def columns_of(model: Tensors) -> tuple[Column, ...]:
    """Return the columns that the model was made for."""
    document = json.loads(model[COLUMNS].tobytes())
    return tuple(Column.model_validate(item) for item in document)


def inputs(model: Tensors, columns: tuple[Column, ...], features: Matrix) -> npt.NDArray[np.float32]:
    """float32[n, inputs], centred and scaled; raises `RecipeError` where the columns are not the model's."""
    if columns != columns_of(model):
        raise RecipeError("the data set's columns or their categories are not those the model was made for")
    scaled = (raw_inputs(columns, features) - model[MEAN]) / model[SCALE]
    return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


def features_of_rows(model: Tensors, rows: Mapping[str, Any]) -> tuple[tuple[Column, ...], Matrix]:
    """Return the model's columns and float64[n, columns] of raw ones; a column that is left out counts as missing.

    rows: column name to values.
    """
    columns = columns_of(model)
    length = max((len(values) for values in rows.values()), default=0)
    known = [column.name for column in columns]
    if unknown := sorted(set(rows) - set(known)):
        raise RecipeError(f"the model has no column {', '.join(unknown)}{hint(unknown[0], known)}")
    made = [numbers_of(c, rows.get(c.name, [None] * length)) for c in columns]
    return columns, np.stack(made, axis=1)
