"""Laws of the estimators, over whatever hypothesis finds."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from tests.effort import examples
from undersong.shared.statistics import dyadic, linear, moments, ranges
from undersong.shared.statistics.suppression import hidden_cells, hidden_counts, with_totals

VALUES = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=200)
TABLES = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([0.0, 1, 2, 3, 4, 5, 6, 9, 20, 50]))
)
COUNTS = arrays(np.float64, st.integers(1, 12), elements=st.sampled_from([0.0, 1, 2, 3, 5, 8, 30]))


@given(VALUES, st.integers(0, 8), st.floats(0, 1), st.integers(1, 20))
def test_a_quantile_lies_in_its_interval_which_holds_enough(values: list[float], depth: int, p: float, k: int) -> None:
    found = np.array(values)
    low, high = -1e6, 1e6 + 1
    leaves = np.histogram(found, np.linspace(low, high, 2**depth + 1))[0].astype(float)
    one = dyadic.quantile(dyadic.tree_of(leaves), low, high, p, k)
    assert one is not None
    exact = np.quantile(found, p, method="inverted_cdf")
    slack = 1e-6
    assert one.low - slack <= exact <= one.high + slack
    assert one.low <= one.value <= one.high
    inside = ((found >= one.low - slack) & (found <= one.high + slack)).sum()
    assert inside >= min(k, len(values))


@given(VALUES, st.integers(1, 10))
def test_a_range_leaves_few_outside_and_ends_at_nobodys_value(values: list[float], least: int) -> None:
    found = np.array(values)
    found[np.abs(found) < 2.0**-20] = 0  # such values count as zero
    span = ranges.range_of(ranges.counts_by_size(found), least)
    if len(found) < 2 * least:
        assert span is None
        return
    assert span is not None
    low, high = span
    assert low < high
    assert (found < low).sum() < least
    assert (found > high).sum() < least


@given(VALUES)
def test_counts_by_size_keep_the_order(values: list[float]) -> None:
    counts = ranges.counts_by_size(np.array(values))
    assert counts.sum() == len(values)
    assert ranges.counts_by_size(np.array([0.0]))[ranges.HALF] == 1


@given(COUNTS, st.integers(1, 10))
def test_hidden_counts_are_not_told_by_their_total(counts: np.ndarray, least: int) -> None:
    hidden = hidden_counts(counts, least)
    small = (counts > 0) & (counts < least)
    assert not (small & ~hidden).any()
    if small.any() and counts.sum() >= least:
        assert hidden.sum() >= 2
        assert counts[hidden].sum() >= least
    if not small.any():
        assert not hidden.any()


@settings(max_examples=examples(150), deadline=None)
@given(TABLES, st.integers(2, 8))
def test_no_hidden_cell_follows_from_the_shown_ones(cells: np.ndarray, least: int) -> None:
    """Linear algebra, not graphs: no hidden cell is fixed by the equations of rows, columns and totals."""
    if cells.sum() < least:
        return
    whole = with_totals(cells)
    hidden = hidden_cells(cells, least)
    small = (whole > 0) & (whole < least)
    small[-1, -1] = False
    assert not (small & ~hidden).any()
    unknown = np.argwhere(hidden)
    if not len(unknown):
        return
    equations = []
    for row in range(len(whole)):
        equations.append([(1.0 if c < whole.shape[1] - 1 else -1.0) if r == row else 0.0 for r, c in unknown])
    for column in range(whole.shape[1]):
        equations.append([(1.0 if r < whole.shape[0] - 1 else -1.0) if c == column else 0.0 for r, c in unknown])
    matrix = np.array(equations)
    rank = np.linalg.matrix_rank(matrix)
    for place in range(len(unknown)):
        alone = np.zeros((1, len(unknown)))
        alone[0, place] = 1
        assert np.linalg.matrix_rank(np.vstack([matrix, alone])) > rank, (cells, hidden)
    for lines, masks in ((whole[:-1], hidden[:-1]), (whole.T[:-1], hidden.T[:-1])):
        for line, mask in zip(lines, masks, strict=True):
            if mask[:-1].any() and not mask[-1]:
                assert line[:-1][mask[:-1]].sum() >= least


@given(arrays(np.float64, st.tuples(st.integers(0, 30), st.integers(1, 4)), elements=st.floats(-1e3, 1e3)))
def test_standardising_from_sums_is_standardising_from_rows(values: np.ndarray) -> None:
    half = len(values) // 2
    found = moments.summary_of(moments.sums_of(values[:half]) + moments.sums_of(values[half:]))
    if len(values):
        assert np.allclose(found.mean, values.mean(axis=0), atol=1e-9)
        assert np.allclose(found.deviation, values.std(axis=0), atol=1e-4)
    assert (found.scale > 0).all()


def test_students_t() -> None:
    for freedom in (1, 2, 3, 4, 5, 10, 30, 1000):
        assert abs(linear.t_quantile(freedom) - stats.t.ppf(0.975, freedom)) < 1e-3
