"""Trees from sums over sites: those of all rows in one place, and what bad sums and parameters lead to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.shared.secagg.quantise import decode_sums, encode_sums, plan_sums
from undersong.shared.statistics.bins import borders, equal_borders
from undersong.shared.statistics.growth import Growth, site_sums
from undersong.shared.statistics.measures import SALT
from undersong.shared.statistics.ranges import counts_by_size
from undersong.shared.statistics.tree_options import TreeOptions, TreesInvalid, options_of
from undersong.shared.statistics.trees import LEAF, Trees, TreeSplit, trees_of
from undersong.shared.wire.columns import Column

Floats = npt.NDArray[np.float64]
COLUMNS = (
    Column(name="age", type="number"),
    Column(name="ward", type="category", categories=("a", "b", "c")),
    Column(name="dose", type="number"),
)


def rows(seed: int, count: int, task: str = "binary") -> tuple[Floats, Floats]:
    """Rows with missing values in every column; the label depends on all of them, missing ones too."""
    random = np.random.default_rng(seed)
    age = random.integers(18, 90, count).astype(float)
    ward = random.integers(0, 3, count).astype(float)
    dose = np.where(random.random(count) < 0.6, 0.0, random.lognormal(3, 1, count))
    score = (age - 50) / 20 + (ward == 1) + np.where(np.isnan(dose), 1, dose > 15) + random.normal(0, 0.5, count)
    features = np.stack([age, ward, dose], axis=1)
    features[random.random(features.shape) < 0.1] = np.nan
    label = {"binary": (score > 0.5) * 1.0, "multiclass": np.digitize(score, [0, 1.5]) * 1.0, "regression": 1e4 * score}
    return features, label[task]


def grow(options: TreeOptions, rounds: int, sites: Sequence[tuple[Floats, Floats]]) -> tuple[Trees, list[int]]:
    """Grow trees by sums in the fixed point of rounds, as a job does; also how many sums each round had."""
    growth: Growth | Trees = Growth(COLUMNS, options, rounds, "label", {})
    encoding, lengths = plan_sums(summands=len(sites)), []
    while isinstance(growth, Growth):
        found = [np.concatenate([np.full(SALT, 7.0), site_sums(growth, *site)]) for site in sites]
        lengths.append(growth.length)
        total = np.zeros(2 * growth.length, np.uint64)
        for each in found:
            total += encode_sums(each, encoding)
        growth = growth.take(decode_sums(total, encoding).tolist())
    return growth, lengths


@dataclass
class Pooled:
    """A plain reference: recursive, row by row, over all rows in one place, with the bins as they were found."""

    options: TreeOptions
    places: npt.NDArray[np.int64]
    sizes: tuple[int, ...]
    category: tuple[bool, ...]

    def node(self, rows: npt.NDArray[np.int64], g: Floats, h: Floats, depth: int) -> Any:
        """Return (value,) or (value, column, bin, missing_left, left, right)."""
        o, total_g, total_h = self.options, g[rows].sum(), h[rows].sum()
        value = -o.learning_rate * total_g / (total_h + o.ridge)
        if depth == o.depth or len(rows) < 2 * o.min_rows:
            return (value,)
        best: tuple[float, Any] = (o.min_gain, None)
        for column, size in enumerate(self.sizes):
            bin_of, last = self.places[rows, column], size - 1
            for missing_left in (False, True) if not self.category[column] and (bin_of == last).any() else (False,):
                for at in range(size if self.category[column] else size - 2):
                    if self.category[column]:
                        left = bin_of == at
                    else:
                        left = np.where(bin_of == last, missing_left, bin_of <= at)
                    sides = [rows[left], rows[~left]]
                    if min(map(len, sides)) < o.min_rows or min(h[side].sum() for side in sides) < o.min_weight:
                        continue
                    gain = sum(g[side].sum() ** 2 / (h[side].sum() + o.ridge) for side in sides)
                    gain -= total_g**2 / (total_h + o.ridge)
                    if gain > best[0]:
                        best = (gain, (column, at, missing_left, sides))
        if best[1] is None:
            return (value,)
        column, at, missing_left, sides = best[1]
        below = [self.node(side, g, h, depth + 1) for side in sides]
        return (value, column, at, missing_left, *below)


def told(trees: Trees, tree: int, node: int = 0) -> Any:
    """Return a tree in the form of the reference."""
    value = trees.values[tree, node]
    code = trees.splits[tree, node] if node < trees.splits.shape[1] else LEAF
    if code < 0:
        return (pytest.approx(value, abs=1e-8),)
    split = TreeSplit.of(int(code))
    below = [told(trees, tree, 2 * node + side) for side in (1, 2)]
    return (pytest.approx(value, abs=1e-8), split.column, split.bin, split.missing_left, *below)


def derivatives(task: str, said: Floats, label: Floats, scale: tuple[float, float]) -> tuple[Floats, Floats]:
    if task == "regression":
        g, h = said[:, 0] - (label - scale[0]) / scale[1], np.ones(len(said))
        return g[:, None], h[:, None]
    if task == "binary":
        p = 1 / (1 + np.exp(-said))
        return p - label[:, None], p * (1 - p)
    p = np.exp(said) / np.exp(said).sum(axis=1, keepdims=True)
    return p - np.eye(3)[label.astype(int)], p * (1 - p)


CASES = {
    "binary": TreeOptions(depth=3, min_rows=5, bins=8),
    "multiclass": TreeOptions(task="multiclass", classes=3, depth=2, min_rows=5, bins=8),
    "regression": TreeOptions(task="regression", depth=3, min_rows=5, bins=8, ridge=0.5),
}


@pytest.mark.parametrize("task", CASES)
def test_trees_are_those_of_all_rows_in_one_place(task: str) -> None:
    """Every split and leaf against a reference that knows no sums, and to the bit however rows are spread."""
    options, (features, label) = CASES[task], rows(3, 260, task)
    shares = np.array_split(np.random.default_rng(0).permutation(260), [20, 30, 150])
    trees, _ = grow(options, 3, [(features[share], label[share]) for share in shares])
    alone, _ = grow(options, 3, [(features, label)])
    assert np.array_equal(trees.splits, alone.splits)
    assert np.array_equal(trees.values, alone.values)
    assert all(
        np.array_equal(a, b) for a, b in zip(trees.bins.borders, alone.bins.borders, strict=True) if a is not None
    )
    places = trees.bins.places(features)
    category = tuple(column.type == "category" for column in COLUMNS)
    pooled = Pooled(options, places, trees.bins.sizes, category)
    if task == "regression":
        assert trees.label == pytest.approx((label.mean(), label.std()))
    for turn in range(3):
        said = trees.outputs(places, turn * options.outputs)
        g, h = (np.rint(each * 2**20) / 2**20 for each in derivatives(task, said, label, trees.label))
        for output in range(options.outputs):
            wanted = pooled.node(np.arange(260), g[:, output], h[:, output], 0)
            assert told(trees, turn * options.outputs + output) == wanted


def test_more_trees_fit_better_and_missing_values_find_their_side() -> None:
    features, label = rows(1, 2000)
    trees, lengths = grow(TreeOptions(bins=32), 20, [(features[::2], label[::2]), (features[1::2], label[1::2])])
    other, said = rows(2, 2000)
    score = trees.outputs(trees.bins.places(other))[:, 0]
    assert ((score > 0) == said).mean() > 0.85
    assert trees.rounds == 20
    assert len(lengths) <= 1 + 20 * 4
    root = TreeSplit.of(int(trees.splits[0, 0]))
    assert root.column in range(3)


def test_trees_travel_as_numbers() -> None:
    features, label = rows(1, 400)
    trees, _ = grow(CASES["binary"], 2, [(features, label)])
    again = trees_of(trees.to_context(), COLUMNS, CASES["binary"])
    assert again is not None
    assert np.array_equal(again.outputs(again.bins.places(features)), trees.outputs(trees.bins.places(features)))
    assert trees_of({}, COLUMNS, CASES["binary"]) is None


def test_declared_ranges_ask_for_no_counts_first() -> None:
    features, label = rows(1, 400)
    options = TreeOptions(ranges={"age": (0, 100), "dose": (0, 200)}, bins=10, depth=2)
    trees, lengths = grow(options, 1, [(features, label)])
    assert len(lengths) <= 2 == options.most_rounds(1)
    assert trees.bins.borders[0] is not None
    assert trees.bins.borders[0].tolist() == pytest.approx(list(range(10, 100, 10)))
    assert trees.start.tolist() == [0.0]
    with pytest.raises(TreesInvalid, match="lacks a range of dose"):
        _ = Growth(COLUMNS, TreeOptions(ranges={"age": (0, 100)}), 1, "label", {}).length


def test_nothing_to_gain_ends_the_job_early() -> None:
    features, _ = rows(1, 300)
    trees, lengths = grow(TreeOptions(), 50, [(features, np.ones(300))])
    assert trees.rounds == 1
    assert len(lengths) == 2
    assert trees.splits[0].tolist() == [LEAF] * 15


def test_what_is_no_trees_is_refused() -> None:
    features, label = rows(1, 400)
    trees, _ = grow(CASES["binary"], 1, [(features, label)])
    told = trees.to_context()
    growth = Growth(COLUMNS, CASES["binary"], 1, "label", {})
    with pytest.raises(TreesInvalid, match="were asked for"):
        growth.take([0.0] * 5)
    with pytest.raises(TreesInvalid, match="no site has rows"):
        growth.take([0.0] * growth.length)
    for change in (
        {"trees.splits": told["trees.splits"][:-1]},
        {"trees.splits": [1e9] * 7},
        {"trees.values": told["trees.values"][1:]},
        {"trees.borders": [50.0]},
        {"trees.label": [0.0]},
        {"trees.label": [0.0, 0.0]},
        {"trees.start": [0.0, 0.0]},
    ):
        with pytest.raises(TreesInvalid):
            trees_of({**told, **change}, COLUMNS, CASES["binary"])
    for params in ({"depth": 9}, {"dept": 3}, {"min_rows": 0}, {"task": "ranking"}):
        with pytest.raises(TreesInvalid, match=next(iter(params))):
            options_of(params)
    assert TreeOptions(depth=8).fault(2000) is not None
    assert TreeOptions(depth=8, task="multiclass", classes=10).fault(100) is not None
    assert TreeOptions().fault(100) is None


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False) | st.sampled_from([0.0, 1.0, 17.0]), max_size=300),
    st.integers(2, 40),
    st.integers(1, 30),
)
def test_borders_rise_and_leave_no_interval_with_few_values_between_steps(
    values: list[float], bins: int, least: int
) -> None:
    counts = counts_by_size(np.array(values))
    found = borders(counts, bins, least)
    assert found.size < bins
    assert (np.diff(found) > 0).all()
    if len(values) < 2 * least:
        assert found.size == 0 or np.all(np.isfinite(found))


def test_borders_divide_rows_about_evenly_and_tell_whole_numbers_apart() -> None:
    random = np.random.default_rng(0)
    normal = random.normal(100, 15, 20_000)
    inside = np.bincount(np.searchsorted(borders(counts_by_size(normal), 32, 20), normal, side="right"))
    assert inside.max() / normal.size < 3 / 32
    age = random.integers(18, 90, 5000).astype(float)
    places = np.searchsorted(borders(counts_by_size(age), 128, 20), age, side="right")
    assert len(set(places.tolist())) >= 70
    assert equal_borders(0, 10, 5).tolist() == [2, 4, 6, 8]


@settings(max_examples=examples(60), deadline=None)
@given(st.data(), st.sampled_from(sorted(CASES)))
def test_sums_that_no_honest_sites_give_end_in_trees_or_a_refusal(data: st.DataObject, task: str) -> None:
    """Whatever numbers a sum can hold: the trees that follow are ones that a site can go on from."""
    growth: Growth | Trees = Growth(COLUMNS, CASES[task], 2, "label", {})
    number = st.floats(-1.5e26, 1.5e26) | st.sampled_from([0.0, 1.0, 50.0, -1.0])
    for _ in range(4):
        few = data.draw(st.lists(number, min_size=1, max_size=40))
        seed = data.draw(st.integers(0, 2**16))
        sums = np.random.default_rng(seed).choice(few, growth.length)
        try:
            with np.errstate(over="raise", invalid="raise"):
                growth = growth.take(sums.tolist())
        except TreesInvalid:
            return
        if isinstance(growth, Trees):
            assert trees_of(growth.to_context(), COLUMNS, CASES[task]) is not None
            return
        assert growth.length > SALT
        assert np.isfinite(site_sums(growth, *rows(0, 30, task))).all()


def test_a_split_is_one_number_whatever_the_columns_and_bins() -> None:
    """Also in a float64, as which manifests carry it."""
    for column, place in ((0, 0), (0, 65_536), (3, 70_000), (1, 333_332), (999_999, 1)):
        for left in (False, True):
            split = TreeSplit(column, place, left)
            assert TreeSplit.of(int(float(split.code))) == split


@pytest.mark.parametrize(
    "told",
    [
        {"trees.splits": [math.nan, -1.0, -1.0]},
        {"trees.splits": [1e300, -1.0, -1.0]},
        {"trees.splits": [-3.0, -2.0, -1.0]},
        {"trees.splits": [-1.0, -1.0, -1.0]},
        {"trees.label": [math.nan, 1.0]},
        {"trees.borders": [1.0, math.nan]},
        {"trees.borders": [2.0, 0.0]},
        {"trees.values": [math.inf] * 7},
    ],
)
def test_trees_that_no_round_leads_to_are_refused_at_a_site(told: dict[str, list[float]]) -> None:
    columns = (Column(name="x", type="number"),)
    begun = Growth(columns, TreeOptions(depth=2, ranges={"x": (-1.0, 1.0)}, bins=2), 1, "y", {}).trees
    assert begun is not None
    options = TreeOptions(depth=2, bins=2)
    features, label = np.zeros((4, 1)), np.array([0.0, 1.0, 1.0, 0.0])
    context = begun.to_context()
    assert site_sums(Growth(columns, options, 1, "y", context), features, label).size == 9
    with pytest.raises(TreesInvalid):
        site_sums(Growth(columns, options, 1, "y", {**context, **told}), features, label)
