"""Windows of a series: the last values before a moment, and the target a number of steps later; docs/data.md.

A window is a view of the table of values: however long windows are, no value is copied. The columns of a window are
those of the series at each of its steps, `speed@-2`, `speed@-1`, `speed@0`, then what is known in advance of the
label's moment, `hour@+1`, and its label is `speed@+1`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from undersong.recipes.entry import BadDataset, DatasetEntry
from undersong.recipes.options import SeriesOptions

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
TOLERANCE = 1e-3  # of the distance of two steps


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of a series, also those that cannot be used: `usable` are the indices of the others, int64[m].

    past: float64[n, lags x columns], a view; known: float64[n, k], what is known in advance of the label's moment;
    label: float64[n]; codes: the part of each window, int8[n]; groups: the group of each window's label, int64[n].
    """

    past: Floats
    known: Floats
    label: Floats
    usable: Rows
    codes: npt.NDArray[np.int8]
    groups: Rows

    def features(self, places: Sequence[int]) -> Floats:
        """Return these columns of `past` and `known` side by side, float64[n, m]; all of `past` alone stays a view."""
        width = self.past.shape[1]
        if list(places) == list(range(width)):
            return self.past
        made = np.empty((len(self.past), len(places)))
        for at, place in enumerate(places):
            made[:, at] = self.past[:, place] if place < width else self.known[:, place - width]
        return made


def cut_windows(
    entry: DatasetEntry,
    series: SeriesOptions,
    values: Floats,
    times: Floats,
    groups: npt.NDArray[np.int64],
    codes: npt.NDArray[np.int8],
) -> Windows:
    """Return the windows of rows in their order: float64[n, columns], float64[n], int64[n], int8[n].

    A window's part is that of its label, and one with a row of a later part is left out: what is for the test is in no
    window of training. So are windows with a missing value, and those that reach over a gap or from one group into the
    next. Raises `BadDataset` for times that are unsorted or come twice, and where no window is left.
    """
    order = np.argsort(groups, kind="stable")
    if not (order == np.arange(len(order))).all():
        values, times, groups, codes = values[order], times[order], groups[order], codes[order]
    values = np.ascontiguousarray(values)
    joined = _joined(series, times, groups, order)
    span, width = series.lags + series.horizon, values.shape[1]
    count = len(values) - span + 1
    if count < 1:
        raise BadDataset("is too short for one window", f"it has {len(values)} rows, and a window takes {span}")
    names = [column.name for column in entry.columns]
    stride = values.strides[0]
    past = np.lib.stride_tricks.as_strided(
        values, (count, series.lags * width), (stride, values.itemsize), writeable=False
    )
    known = values[span - 1 :, [names.index(name) for name in series.known]]
    label = values[span - 1 :, names.index(series.target)]
    missing = np.isfinite(values).sum(axis=1) < values.shape[1]
    fine = np.isfinite(label) & (_run(~joined[1:], span - 1, count) == 0) & (_run(missing, series.lags, count) == 0)
    fine &= np.isfinite(known).all(axis=1)
    latest = np.lib.stride_tricks.sliding_window_view(codes, span).max(axis=1)
    whole = fine & (latest == codes[span - 1 :])
    whole &= _first_of_step(groups, series.step)[:count]
    if not whole.any():
        _refuse(series, fine, len(values), int(missing.sum()), int((~joined[1:]).sum()))
    return Windows(past, known, label, np.flatnonzero(whole), codes[span - 1 :], groups[span - 1 :])


def _joined(series: SeriesOptions, times: Floats, groups: Rows, order: Rows) -> npt.NDArray[np.bool_]:
    """Return whether each row continues the one before it; raises `BadDataset` for times that are no order."""
    same = np.concatenate([[False], groups[1:] == groups[:-1]]) if len(groups) else np.zeros(0, bool)
    if not np.isfinite(times).all():
        row = int(order[np.argmin(np.isfinite(times))]) + 1
        raise BadDataset(f"column {series.time} has no moment in a row", f"row {row} of those that are used")
    steps = np.concatenate([[np.inf], np.diff(times)])
    for wrong, said, help_ in (
        (same & (steps == 0), "comes twice", "declare the column that tells series apart under series: group"),
        (same & (steps < 0), "is not sorted", "sort the rows by it"),
    ):
        if wrong.any():
            row = int(order[np.argmax(wrong)]) + 1
            zone = "; local times without a zone come twice in autumn: write UTC, or read the zone with %z"
            told = f"row {row} of those that are used: {help_}{zone}"
            raise BadDataset(f"a moment of column {series.time} {said}", told)
    if (every := series.every_step) is None:
        return same
    regular: npt.NDArray[np.bool_] = np.abs(steps - every) <= TOLERANCE * every
    return same & regular


def _run(marked: npt.NDArray[np.bool_], length: int, count: int) -> Rows:
    """Return how many of the `length` rows from each of `count` are marked."""
    total = np.concatenate([[0], np.cumsum(marked)])
    found: Rows = total[length : length + count] - total[:count]
    return found


def _first_of_step(groups: Rows, step: int) -> npt.NDArray[np.bool_]:
    """Return the rows where a window may begin: every so many of each group."""
    first = np.concatenate([[True], groups[1:] != groups[:-1]])
    since = np.arange(len(groups)) - np.maximum.accumulate(np.where(first, np.arange(len(groups)), 0))
    wanted: npt.NDArray[np.bool_] = since % step == 0
    return wanted


def _refuse(series: SeriesOptions, fine: npt.NDArray[np.bool_], rows: int, missing: int, gaps: int) -> None:
    span = series.lags + series.horizon
    told = f"a window takes {span} rows that follow each other; of {rows}, {missing} have a missing value"
    if series.every is not None:
        told += f", and {gaps} do not follow the one before after {series.every}"
    why = "each crosses from one part of the split into another" if fine.any() else told
    raise BadDataset("has no window without a gap or a missing value", why)
