"""A table's columns as numbers that a model can take, by rules that need only the federation's sums.

Each number column gives two inputs (the value, and 1 where it is missing), each category column one for every category
and one for "missing". Values are centred and scaled by the federation's mean and standard deviation; a missing value
becomes the mean, which is 0. Mean, scale and the columns themselves are fixed tensors of the model, so that a model
that is pulled from the registry can predict from raw columns with nothing else.

With bins a number gives an input for each interval of about as many values, 1 for its own, in place of its value. The
intervals' borders follow from counts by size over all sites (`undersong.shared.statistics.bins`), and are one more
fixed tensor; indicators of intervals are not scaled.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.datasets import numbers_of
from undersong.recipes.protocol import RecipeError, Tensors
from undersong.shared.names import hint
from undersong.shared.statistics import bins, moments
from undersong.shared.statistics.measures import MAGNITUDES
from undersong.shared.statistics.ranges import counts_by_size
from undersong.shared.wire.profiles import Column

Matrix = npt.NDArray[np.float64]
MEAN: Final = "input.mean"
SCALE: Final = "input.scale"
COLUMNS: Final = "input.columns"
BORDERS: Final = "input.borders"
"""Of each number in order how many borders its intervals have, and these, one after the other."""
FIXED: Final = (MEAN, SCALE, COLUMNS)
LEAST: Final = 10
"""Values over all sites that an interval holds at least, but for halves of one step of sizes."""
Borders = Sequence[npt.NDArray[np.float64]]


def input_names(columns: tuple[Column, ...], borders: Borders | None = None) -> list[str]:
    """Return the inputs' names in order; `borders` are those of each number's intervals, where it has some."""
    names: list[str] = []
    own = iter(borders or ())
    for column in columns:
        if column.type == "category":
            names += [f"{column.name}={text}" for text in column.categories or ()]
        elif borders is None:
            names.append(column.name)
        else:
            names += [f"{column.name}[{part}]" for part in range(next(own).size + 1)]
        names.append(f"{column.name}?")
    return names


def raw_inputs(columns: tuple[Column, ...], features: Matrix, borders: Borders | None = None) -> Matrix:
    """float64[n, inputs] from the data set's float64[n, columns]; a missing number stays NaN, or is in no interval."""
    made: list[npt.NDArray[np.float64]] = []
    own = iter(borders or ())
    for place, column in enumerate(columns):
        values = features[:, place]
        if column.type == "category":
            made += [np.where(values == code, 1.0, 0.0) for code in range(len(column.categories or ()))]
        elif borders is not None:
            edges = next(own)
            parts = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))
            made += [np.where(parts == part, 1.0, 0.0) for part in range(edges.size + 1)]
        else:
            made.append(values)
        made.append(np.isnan(values).astype(np.float64))
    return np.stack(made, axis=1) if made else np.zeros((len(features), 0))


def statistics(columns: tuple[Column, ...], features: Matrix, binned: int = 0) -> npt.NDArray[np.float64]:
    """Return the sums that scaling needs, float64[3 inputs]: counts of known values, sums, sums of squares.

    Where numbers are `binned`, counts of their values by size follow.
    """
    scaled = moments.sums_of(raw_inputs(columns, features)).ravel()
    if not binned:
        return scaled
    values = [features[:, place] for place, column in enumerate(columns) if column.type != "category"]
    return np.concatenate([scaled, *(counts_by_size(each[np.isfinite(each)]) for each in values)])


def borders_of(
    columns: tuple[Column, ...],
    sums: npt.NDArray[np.float64] | None,
    ranges: Mapping[str, Sequence[float]],
    binned: int,
) -> list[npt.NDArray[np.float64]]:
    """Return the borders of each number's intervals: equal parts of declared ranges, else from `sums` of `statistics`.

    Raises `RecipeError` where neither says anything of the numbers.
    """
    numbers = [column for column in columns if column.type != "category"]
    if ranges:
        return [bins.equal_borders(*range_of(column.name, ranges), binned) for column in numbers]
    width = 3 * len(input_names(columns))
    if sums is None or sums.shape != (width + len(numbers) * MAGNITUDES,):
        raise RecipeError("bins follow from counts over all sites, and these are missing: give ranges, or bins: 0")
    counts = np.maximum(np.rint(sums[width:]), 0).reshape(-1, MAGNITUDES)
    return [bins.borders(each, binned, LEAST) for each in counts]


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


def fixed_tensors(
    columns: tuple[Column, ...], sums: npt.NDArray[np.float64] | None, borders: Borders | None = None
) -> Tensors:
    """Return mean, scale and columns as fixed tensors; without sums, inputs are used unscaled.

    With borders those of the intervals too, whose indicators are not scaled.
    """
    if borders is not None:
        return _with_borders(columns, sums, borders)
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


def _with_borders(columns: tuple[Column, ...], sums: npt.NDArray[np.float64] | None, borders: Borders) -> Tensors:
    plain, names = input_names(columns), input_names(columns, borders)
    told = None if sums is None else sums[: 3 * len(plain)]
    scaled = fixed_tensors(columns, told)
    places = {name: place for place, name in enumerate(plain)}
    numbers = {column.name for column in columns if column.type != "category"}
    kept = [places.get(name, -1) if name not in numbers else -1 for name in names]
    mean = np.array([0.0 if place < 0 else scaled[MEAN][place] for place in kept])
    scale = np.array([1.0 if place < 0 else scaled[SCALE][place] for place in kept])
    packed = np.concatenate([np.empty(0), *(each for edges in borders for each in ([float(edges.size)], edges))])
    return {MEAN: mean, SCALE: scale, COLUMNS: scaled[COLUMNS], BORDERS: packed}


def model_borders(model: Tensors) -> list[npt.NDArray[np.float64]] | None:
    """Return the borders of each number's intervals that the model was made for; None where it takes values."""
    if BORDERS not in model:
        return None
    rest, made = np.asarray(model[BORDERS], np.float64).ravel(), []
    if not np.isfinite(rest).all():
        raise RecipeError("the model's borders of intervals hold what is no number")
    while rest.size:
        count = int(rest[0])
        if not 0 <= count == rest[0] < rest.size:
            raise RecipeError("the model's borders of intervals are cut off")
        made.append(rest[1 : 1 + count])
        if (np.diff(made[-1]) <= 0).any():
            raise RecipeError("the model's borders of intervals are not in order")
        rest = rest[1 + count :]
    if len(made) != sum(column.type != "category" for column in columns_of(model)):
        raise RecipeError("the model's borders of intervals are not those of its numbers")
    return made


def columns_of(model: Tensors) -> tuple[Column, ...]:
    """Return the columns that the model was made for."""
    document = json.loads(model[COLUMNS].tobytes())
    return tuple(Column.model_validate(item) for item in document)


def inputs(model: Tensors, columns: tuple[Column, ...], features: Matrix) -> npt.NDArray[np.float32]:
    """float32[n, inputs], centred and scaled; raises `RecipeError` where the columns are not the model's."""
    if columns != columns_of(model):
        raise RecipeError("the data set's columns or their categories are not those the model was made for")
    scaled = (raw_inputs(columns, features, model_borders(model)) - model[MEAN]) / model[SCALE]
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
