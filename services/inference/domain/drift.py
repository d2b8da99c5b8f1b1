"""Counts by intervals and categories, of features and predictions: what shows that data have changed, and no row.

Counts are shown in blocks: those of rows after the last full block are held back, so that two looks differ by a block
of rows or not at all. Intervals are those of `numpy.histogram`, as statistics jobs count them: each holds its lower
edge, the last one both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ColumnBins:
    """How one column is counted: by the `categories` of its positions, or by intervals between `edges` (rising)."""

    name: str
    categories: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """How many counts there are: the known ones, then below, above and missing."""
        return (len(self.categories) or max(len(self.edges) - 1, 0)) + 3

    def counted(self, values: Floats) -> Counts:
        """Return the counts of float64[n], NaN where missing."""
        known = values[np.isfinite(values)]
        made = np.zeros(self.size, np.int64)
        made[-1] = values.size - known.size
        if self.categories:
            made[:-3] = np.bincount(known.astype(np.int64), minlength=len(self.categories))
        elif self.edges:
            made[:-3], _ = np.histogram(known, bins=np.array(self.edges))
            made[-3], made[-2] = (known < self.edges[0]).sum(), (known > self.edges[-1]).sum()
        return made


@dataclass
class DriftCounts:
    """Counts since the start, shown in blocks of rows. Not for several threads."""

    bins: tuple[ColumnBins, ...]
    block_rows: int
    rows: int = 0
    shown: dict[str, Counts] = field(default_factory=dict)
    _held: dict[str, Counts] = field(default_factory=dict)
    _held_rows: int = 0

    def __post_init__(self) -> None:
        self.shown = {each.name: np.zeros(each.size, np.int64) for each in self.bins}
        self._empty()

    def add(self, values: Mapping[str, Floats], count: int) -> None:
        """Count rows by the values of the columns that are there."""
        for each in self.bins:
            if each.name in values:
                self._held[each.name] += each.counted(values[each.name])
        self._held_rows += count
        if self._held_rows < self.block_rows:
            return
        for name, counts in self._held.items():
            self.shown[name] += counts
        self.rows += self._held_rows
        self._empty()

    def _empty(self) -> None:
        self._held = {each.name: np.zeros(each.size, np.int64) for each in self.bins}
        self._held_rows = 0


def edges_around(mean: float, scale: float) -> tuple[float, ...]:
    """Return edges at whole and half standard deviations around a mean; none where they do not rise."""
    edges = tuple(float(f"{mean + scale * step:.6g}") for step in (-3, -2, -1, -0.5, 0, 0.5, 1, 2, 3))
    return edges if all(low < high for low, high in pairwise(edges)) else ()


def thinned(edges: Floats, most: int = 16) -> tuple[float, ...]:
    """Return at most so many of rising edges, evenly chosen, the first and the last among them."""
    if edges.size <= most:
        return tuple(edges.tolist())
    return tuple(edges[np.unique(np.linspace(0, edges.size - 1, most).round().astype(np.int64))].tolist())
