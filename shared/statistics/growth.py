"""Boosted trees from sums over all sites, level by level: what a site adds up, and what follows from the total.

A round of sums is one level of one round's trees: for each node that may be split, and each bin of each column, the sum
of first derivatives, of second derivatives and of rows. Derivatives are rounded to multiples of 2**-20 before they are
added, so that sums are exact in a float64 and in the fixed point of rounds of sums: the trees are those of all rows in
one place, to the bit, however the rows are spread.
Sources: Chen & Guestrin, XGBoost (KDD 2016): eq. 5 (value of a leaf), 7 (gain) and algorithm 3 (side of missing
values); Ke et al., LightGBM (NeurIPS 2017), section 2.1 (histograms). Departs: intervals hold about as many rows each,
not the same weight, and each is found once (`bins`); a category is told from all others, not sets of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.statistics import bins, moments, ranges
from undersong.shared.statistics.measures import MAGNITUDES, SALT
from undersong.shared.statistics.tree_options import TreeOptions, TreesInvalid
from undersong.shared.statistics.trees import LEAF, OPEN, Bins, Context, Trees, TreeSplit, trees_of
from undersong.shared.wire.columns import Column

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

GRID: Final = 2.0**20
"""Steps of a derivative in one."""
PARTS: Final = 3
"""Sums of a bin: first derivatives, second derivatives, rows."""
_DIGITS: Final = 9
_LEAST_SHARE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Growth:
    """The growing trees of a job: `context` is what the rounds before led to, empty at first.

    columns: the features as all sites agreed on them. rounds: of trees. label: its name.
    """

    columns: tuple[Column, ...]
    options: TreeOptions
    rounds: int
    label: str
    context: Context

    @property
    def length(self) -> int:
        """How many sums the next round has, random numbers (`measures.SALT`) in front."""
        trees = self.trees
        if trees is None:
            numbers = sum(column.type != "category" for column in self.columns)
            return SALT + _label_sums(self.options) + numbers * MAGNITUDES
        return SALT + len(open_nodes(trees)) * sum(trees.bins.sizes) * PARTS

    @property
    def trees(self) -> Trees | None:
        """The trees so far; None before the round that finds the bins."""
        found = trees_of(self.context, self.columns, self.options)
        return self._declared() if found is None and self.options.ranges else found

    @property
    def grown(self) -> int:
        """How many rounds of trees are complete."""
        trees = self.trees
        if trees is None:
            return 0
        return trees.rounds - (1 if len(open_nodes(trees)) else 0)

    def take(self, sums: Sequence[float]) -> "Growth | Trees":
        """Return what the next round goes on from, or the trees where they are complete; raises `TreesInvalid`."""
        found = np.asarray(sums, np.float64)
        if found.shape != (self.length,):
            raise TreesInvalid(f"{found.size} sums came, {self.length} were asked for")
        before, values = self.trees, found[SALT:]
        trees = self._begun(values) if before is None else self._split(before, values)
        if len(open_nodes(trees)):
            return replace(self, context=trees.to_context())
        idle = (trees.splits[-trees.start.size :, 0] == LEAF).all()
        if trees.rounds >= self.rounds or idle:
            return trees
        return replace(self, context=_with_roots(trees, self.options).to_context())

    def _begun(self, sums: Floats) -> Trees:
        """Return no trees but roots, from the sums of the label and the counts by size of numbers."""
        head = _label_sums(self.options)
        counts = sums[head:].reshape(-1, MAGNITUDES)
        found = [bins.borders(each, self.options.bins, self.options.min_rows) for each in counts]
        start, label = _started(self.options, sums[:head])
        return self._rooted(found, start, label)

    def _declared(self) -> Trees:
        """Return no trees but roots, from declared ranges alone."""
        given = self.options.ranges
        names = [column.name for column in self.columns if column.type != "category"]
        if self.options.task == "regression":
            names.append(self.label)
        if missing := [name for name in names if name not in given or not given[name][0] < given[name][1]]:
            raise TreesInvalid(f"parameter ranges lacks a range of {missing[0]} whose second number is larger")
        found = [
            bins.equal_borders(*given[column.name], self.options.bins)
            for column in self.columns
            if column.type != "category"
        ]
        low, high = given[self.label] if self.options.task == "regression" else (-1.0, 1.0)
        return self._rooted(found, np.zeros(self.options.outputs), ((low + high) / 2, (high - low) / 2))

    def _rooted(self, borders: list[Floats], start: Floats, label: tuple[float, float]) -> Trees:
        empty = np.empty((0, self.options.inner), np.int64)
        values = np.empty((0, self.options.nodes))
        return _with_roots(Trees(Bins.of(self.columns, borders), start, label, empty, values), self.options)

    def _split(self, trees: Trees, sums: Floats) -> Trees:
        """Return the trees with each open node split, or closed where nothing is gained."""
        splits, values, sizes = trees.splits.copy(), trees.values.copy(), trees.bins.sizes
        nodes = open_nodes(trees)
        for (tree, node), each in zip(nodes, sums.reshape(len(nodes), sum(sizes), PARTS), strict=True):
            if node == 0:
                values[tree, 0] = _value(each[: sizes[0]].sum(axis=0), self.options)
            found = best_split(each, trees.bins, self.options)
            splits[tree, node] = LEAF if found is None else found.split.code
            if found is None:
                continue
            for child, side in ((2 * node + 1, found.left), (2 * node + 2, found.right)):
                values[tree, child] = _value(side, self.options)
                if child < splits.shape[1] and round(float(side[2])) >= 2 * self.options.min_rows:
                    splits[tree, child] = OPEN
        return replace(trees, splits=splits, values=values)


@dataclass(frozen=True, slots=True)
class BestSplit:
    """The best split of a node, what it gains, and the sums float64[3] of both sides."""

    split: TreeSplit
    gain: float
    left: Floats
    right: Floats


def open_nodes(trees: Trees) -> list[tuple[int, int]]:
    """Return (tree, node) of each node that the next round may split."""
    return [(int(tree), int(node)) for tree, node in np.argwhere(trees.splits == OPEN)]


def best_split(sums: Floats, columns: Bins, options: TreeOptions) -> BestSplit | None:
    """Return the split of a node that gains most, float64[bins, 3] by column; of equal ones the first; None of none."""
    best: BestSplit | None = None
    for at, (start, size) in enumerate(zip(columns.starts, columns.sizes, strict=True)):
        own = sums[start : start + size]
        total, missing = own.sum(axis=0), own[-1]
        if columns.borders[at] is None:
            ways = [(False, own)]
        else:
            below = np.cumsum(own[:-2], axis=0)
            ways = [(False, below), (True, below + missing)] if missing[2] > 0 else [(False, below)]
        for missing_left, left in ways:
            gains = _gains(left, total, options)
            place = int(np.argmax(gains)) if gains.size else 0
            if gains.size and gains[place] > max(options.min_gain, 0.0 if best is None else best.gain):
                found = TreeSplit(at, place, missing_left)
                best = BestSplit(found, float(gains[place]), left[place], total - left[place])
    return best


def site_sums(growth: Growth, features: Floats, label: Floats) -> Floats:
    """Return what a site adds up in the next round, float64[length - SALT]; raises `TreesInvalid`.

    features float64[n, c] with NaN where missing, a category as its place; label float64[n].
    """
    trees, options = growth.trees, growth.options
    if trees is None:
        numbers = [at for at, column in enumerate(growth.columns) if column.type != "category"]
        known = [values[np.isfinite(values)] for values in features[:, numbers].T]
        return np.concatenate([_label_sums_of(options, label), *map(ranges.counts_by_size, known)])
    if not open_nodes(trees):
        raise TreesInvalid("no node of the trees is open, and a round of sums splits some")
    places, width = trees.bins.places(features), sum(trees.bins.sizes)
    first, second = _derivatives(options, _said(trees, places), label, trees.label)
    codes, made = places + trees.bins.starts, []
    for tree, nodes in _by_tree(open_nodes(trees)):
        output = tree % options.outputs
        slot = np.full(options.nodes, -1)
        slot[nodes] = np.arange(len(nodes))
        own = slot[trees.ends(places, tree)]
        rows = np.flatnonzero(own >= 0)
        code = (own[rows, None] * width + codes[rows]).ravel()
        for weights in (first[rows, output], second[rows, output], np.ones(rows.size)):
            repeated = np.repeat(weights, codes.shape[1])
            made.append(np.bincount(code, weights=repeated, minlength=len(nodes) * width))
    whole = np.concatenate([np.stack(made[at : at + PARTS], axis=1).ravel() for at in range(0, len(made), PARTS)])
    return np.asarray(whole, np.float64)


def _said(trees: Trees, places: Places) -> Floats:
    """Return what the complete trees say of rows: those that grow are the last ones."""
    return trees.outputs(places, len(trees.splits) - trees.start.size)


def _by_tree(nodes: list[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    return [(tree, [node for own, node in nodes if own == tree]) for tree in sorted({tree for tree, _ in nodes})]


def _with_roots(trees: Trees, options: TreeOptions) -> Trees:
    """Return the trees with a new one for each output, whose root is open."""
    splits = np.full((options.outputs, options.inner), LEAF, np.int64)
    splits[:, 0] = OPEN
    values = np.zeros((options.outputs, options.nodes))
    return replace(trees, splits=np.concatenate([trees.splits, splits]), values=np.concatenate([trees.values, values]))


def _gains(left: Floats, total: Floats, options: TreeOptions) -> Floats:
    """Return what each split gains, float64[m], from the sums of its left side float64[m, 3]; -inf where it may not."""
    right = total - left
    fits = np.ones(len(left), bool)
    for side in (left, right):
        fits &= (side[:, 2] > options.min_rows - 0.5) & (side[:, 1] >= options.min_weight)
    gains = _score(left, options.ridge) + _score(right, options.ridge) - _score(total[None], options.ridge)
    return np.where(fits, gains, -np.inf)


def _score(sums: Floats, ridge: float) -> Floats:
    weight = sums[:, 1] + ridge
    return np.divide(sums[:, 0] ** 2, weight, out=np.zeros(len(sums)), where=weight > 0)


def _value(sums: Floats, options: TreeOptions) -> float:
    """Return the value of a leaf, of few digits: it travels in manifests."""
    weight = float(sums[1]) + options.ridge
    return round(-options.learning_rate * float(sums[0]) / weight, _DIGITS) if weight > 0 else 0.0


def _derivatives(
    options: TreeOptions, said: Floats, label: Floats, scale: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Return the loss's first and second derivatives by the outputs, float64[n, k] each, in steps of 1 / GRID."""
    if options.task == "regression":
        first, second = said - ((label - scale[0]) / scale[1])[:, None], np.ones_like(said)
    elif options.task == "binary":
        chance = 1 / (1 + np.exp(-np.clip(said, -500, 500)))
        first, second = chance - label[:, None], chance * (1 - chance)
    else:
        powers = np.exp(said - said.max(axis=1, keepdims=True))
        chance = powers / powers.sum(axis=1, keepdims=True)
        first, second = chance - (label[:, None] == np.arange(options.classes)), chance * (1 - chance)
    return np.rint(first * GRID) / GRID, np.rint(second * GRID) / GRID


def _label_sums(options: TreeOptions) -> int:
    return {"binary": 2, "regression": 3}.get(options.task, options.classes)


def _label_sums_of(options: TreeOptions, label: Floats) -> Floats:
    """Return counts of classes, or count, sum and sum of squares of numbers."""
    if options.task == "regression":
        return moments.sums_of(label[:, None])[:, 0]
    classes = 2 if options.task == "binary" else options.classes
    return np.bincount(label.astype(np.int64), minlength=classes).astype(np.float64)


def _started(options: TreeOptions, sums: Floats) -> tuple[Floats, tuple[float, float]]:
    """Return what trees start from, float64[k], and the label's mean and scale; raises `TreesInvalid` for no rows."""
    if options.task == "regression":
        found = moments.summary_of(sums[:, None])
        if found.known[0] < 0.5:
            raise TreesInvalid("no site has rows to learn from")
        return np.zeros(1), (float(found.mean[0]), float(found.scale[0]))
    counts = np.maximum(np.rint(sums), 0.0)
    if counts.sum() < 0.5:
        raise TreesInvalid("no site has rows to learn from")
    share = np.maximum(counts / counts.sum(), _LEAST_SHARE)
    start = np.log(share[1:] / share[:1]) if options.task == "binary" else np.log(share)
    return np.round(start, _DIGITS), (0.0, 1.0)
