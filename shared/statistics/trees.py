"""Boosted trees as arrays: which interval a value is in, where a row ends in a tree, what trees say together.

A column has one bin for each interval (of a number) or category, and the last one for missing values. A split of a
number sends the intervals up to one of them to the left, and missing values to the side that it says; a split of a
category sends that one category (or "missing") to the left, and all others to the right.
Shapes: n rows, c columns, t trees, k outputs; tree number i belongs to output i % k. Nodes are in the order of levels:
node i has the children 2 i + 1 and 2 i + 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.statistics.tree_options import TreeOptions, TreesInvalid
from undersong.shared.wire.columns import Column

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Context = Mapping[str, Sequence[float]]

LEAF: Final = -1
"""In place of a split: a leaf, or no node at all."""
OPEN: Final = -2
"""In place of a split: a node that the next round of sums may split."""
_SPAN: Final = 2**24  # more than a column has bins, and small enough that codes are exact in a float64
_BORDERS: Final = "trees.borders"
_START: Final = "trees.start"
_LABEL: Final = "trees.label"
_SPLITS: Final = "trees.splits"
_VALUES: Final = "trees.values"


@dataclass(frozen=True, slots=True)
class TreeSplit:
    """A split of one column: bins up to `bin` go left (of a category, that one), missing values where it says."""

    column: int
    bin: int
    missing_left: bool

    @property
    def code(self) -> int:
        """The split as one number."""
        return (self.column * _SPAN + self.bin) * 2 + int(self.missing_left)

    @classmethod
    def of(cls, code: int) -> "TreeSplit":
        """Return the split of a number."""
        return cls(code // 2 // _SPAN, code // 2 % _SPAN, bool(code % 2))


@dataclass(frozen=True, slots=True)
class Bins:
    """How each column's values become bins: `borders` float64[m] of a number, or how many categories there are."""

    borders: tuple[Floats | None, ...]
    categories: tuple[int, ...]

    @classmethod
    def of(cls, columns: Sequence[Column], borders: Sequence[Floats]) -> "Bins":
        """Return the bins of columns; `borders` are those of the numbers among them, in order."""
        numbers = iter(borders)
        return cls(
            tuple(None if column.type == "category" else next(numbers) for column in columns),
            tuple(len(column.categories or ()) for column in columns),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many bins each column has, that of missing values among them."""
        return tuple(
            count + 1 if borders is None else borders.size + 2
            for borders, count in zip(self.borders, self.categories, strict=True)
        )

    @property
    def starts(self) -> Places:
        """Where each column's bins begin among all of them, int64[c]."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    def places(self, features: Floats) -> Places:
        """Return each value's bin in its column, int64[n, c], from float64[n, c] with NaN where missing."""
        made = np.empty(features.shape, np.int64)
        for at, (borders, size) in enumerate(zip(self.borders, self.sizes, strict=True)):
            values = features[:, at]
            missing = np.isnan(values)
            known = np.where(missing, 0.0, values)
            made[:, at] = known if borders is None else np.searchsorted(borders, known, side="right")
            made[missing, at] = size - 1
        return made


@dataclass(frozen=True, slots=True)
class Trees:
    """Trees and what is added to what they say: `start` float64[k], and the mean and scale of a label that is a number.

    splits int64[t, inner] holds codes of splits, `LEAF` and `OPEN`; values float64[t, nodes] what a row adds that ends
    there.
    """

    bins: Bins
    start: Floats
    label: tuple[float, float]
    splits: Places
    values: Floats

    @property
    def rounds(self) -> int:
        """How many rounds of trees there are, the ones that grow among them."""
        return len(self.splits) // self.start.size

    def ends(self, places: Places, tree: int) -> Places:
        """Return the node in which each row ends, int64[n], from the rows' bins int64[n, c]."""
        node = np.zeros(len(places), np.int64)
        for at in range(self.splits.shape[1]):
            code = int(self.splits[tree, at])
            if code < 0:
                continue
            split, rows = TreeSplit.of(code), np.flatnonzero(node == at)
            node[rows] = 2 * at + 2 - self._goes_left(split, places[rows, split.column])
        return node

    def _goes_left(self, split: TreeSplit, place: Places) -> Places:
        left = place == split.bin
        if self.bins.borders[split.column] is not None:
            missing = place == self.bins.sizes[split.column] - 1
            left = np.where(missing, split.missing_left, place <= split.bin)
        return np.asarray(left, np.int64)

    def outputs(self, places: Places, trees: int | None = None) -> Floats:
        """Return what the first `trees` trees (None: all) say of rows, float64[n, k].

        Log odds (k = 1), logits, or a value in standard deviations from the label's mean.
        """
        width = self.start.size
        said = np.repeat(self.start[None, :], len(places), axis=0)
        for tree in range(len(self.splits) if trees is None else trees):
            said[:, tree % width] += self.values[tree][self.ends(places, tree)]
        return said

    def to_context(self) -> dict[str, list[float]]:
        """Return the trees as lists of numbers, which a manifest carries to the sites."""
        borders = [[float(each.size), *each.tolist()] for each in self.bins.borders if each is not None]
        return {
            _BORDERS: [number for each in borders for number in each],
            _START: self.start.tolist(),
            _LABEL: list(self.label),
            _SPLITS: self.splits.ravel().astype(np.float64).tolist(),
            _VALUES: self.values.ravel().tolist(),
        }


def trees_of(context: Context, columns: Sequence[Column], options: TreeOptions) -> Trees | None:
    """Return the trees of `Trees.to_context`; None where none have begun. Raises `TreesInvalid`."""
    if _START not in context:
        return None
    try:
        borders = _borders_of(context[_BORDERS], columns)
        splits = _codes_of(context[_SPLITS]).reshape(-1, options.inner)
        values = np.array(context[_VALUES], np.float64).reshape(len(splits), options.nodes)
        mean, scale = context[_LABEL]
        found = Trees(Bins.of(columns, borders), np.array(context[_START], np.float64), (mean, scale), splits, values)
    except (KeyError, ValueError, IndexError) as error:
        raise TreesInvalid("the round's context holds no trees") from error
    check_trees(found, options)
    return found


def check_trees(trees: Trees, options: TreeOptions) -> None:
    """Raise `TreesInvalid` for trees of other outputs than the options', or splits of columns or bins that are not."""
    if trees.start.size != options.outputs or len(trees.splits) % options.outputs:
        raise TreesInvalid("the trees have other outputs than the recipe's parameters say")
    sizes = trees.bins.sizes
    for code in np.unique(trees.splits[trees.splits >= 0]):
        split = TreeSplit.of(int(code))
        if split.column >= len(sizes) or split.bin >= sizes[split.column]:
            raise TreesInvalid("a tree splits a column or an interval that is not there")
    numbers = (
        trees.values,
        trees.start,
        np.array(trees.label),
        *(each for each in trees.bins.borders if each is not None),
    )
    if not (all(np.isfinite(each).all() for each in numbers) and trees.label[1] > 0):
        raise TreesInvalid("a tree holds values that are no numbers")


def _codes_of(flat: Sequence[float]) -> Places:
    codes = np.array(flat, np.float64)
    if not ((codes >= OPEN) & (codes < 2.0**53)).all():
        raise ValueError("a split is no code")
    return codes.astype(np.int64)


def _borders_of(flat: Sequence[float], columns: Sequence[Column]) -> list[Floats]:
    """Return each number's borders from lists that begin with their length, one after the other."""
    made, at = [], 0
    for column in columns:
        if column.type == "category":
            continue
        count = int(flat[at])
        made.append(np.array(flat[at + 1 : at + 1 + count], np.float64))
        if made[-1].size != count:
            raise ValueError("borders are missing")
        at += 1 + count
    return made
