"""Polynomials over the field in NumPy, against plain integers at every edge of the reduction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists, sampled_from

from tests.effort import examples
from undersong.shared.fields.plain64 import P, evaluate

EDGES = [0, 1, 2, 2**32 - 2, 2**32 - 1, 2**32, 2**32 + 1, P // 2, P - 2**32, P - 2**32 + 1, P - 2, P - 1]
ELEMENTS = integers(0, P - 1) | sampled_from(EDGES)
POINTS = integers(0, 2**32 - 1) | sampled_from([0, 1, 2, 2**16, 2**31, 2**32 - 2, 2**32 - 1])


@settings(max_examples=examples(200))
@given(rows=lists(lists(ELEMENTS, min_size=4, max_size=4), min_size=1, max_size=3), points=lists(POINTS, max_size=5))
def test_it_evaluates_as_integers_do(rows: list[list[int]], points: list[int]) -> None:
    found = evaluate(np.array(rows, np.uint64), np.array(points, np.uint64))
    assert found.tolist() == [[sum(c * x**i for i, c in enumerate(row)) % P for row in rows] for x in points]


@pytest.mark.parametrize("x", [1, 2**32 - 1])
def test_products_and_sums_of_edges(x: int) -> None:
    rows = [[low, high] for low in EDGES for high in EDGES]
    (found,) = evaluate(np.array(rows, np.uint64), np.array([x], np.uint64)).tolist()
    assert found == [(low + high * x) % P for low, high in rows]


def test_a_point_above_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="below"):
        evaluate(np.ones((1, 2), np.uint64), np.array([2**32], np.uint64))
