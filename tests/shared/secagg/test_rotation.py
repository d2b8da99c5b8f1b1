"""The rotation keeps norms, can be undone, leaves no coordinate large, and is the documented matrix."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.vectors import compression as reference
from undersong.shared.secagg.rotation import reach, rotate, rotate_back

LENGTHS = st.integers(1, 3000) | st.sampled_from([2**14 - 1, 2**14, 2**14 + 1, 2**15 + 7, 2**17 - 3])


@given(LENGTHS, st.binary(min_size=32, max_size=32), st.integers(0, 2**32))
@settings(max_examples=examples(100), deadline=None)
def test_it_keeps_the_norm_and_is_undone(length: int, key: bytes, seed: int) -> None:
    before = np.random.default_rng(seed).standard_cauchy(length).astype(np.float32)
    turned = before.copy()
    rotate(turned, key)
    norm = float(np.linalg.norm(before.astype(np.float64)))
    assert float(np.linalg.norm(turned.astype(np.float64))) == pytest.approx(norm, rel=1e-5)
    rotate_back(turned, key)
    assert np.abs(turned - before).max() <= 1e-5 * norm


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13, 64, 100])
def test_it_is_the_documented_matrix(length: int) -> None:
    vector = np.random.default_rng(length).normal(size=length).astype(np.float32)
    expected = reference.rotation(7, length) @ vector
    rotate(vector, reference.shared_key(7, "rotation"))
    assert vector == pytest.approx(expected, abs=1e-5)


def test_no_coordinate_is_beyond_the_reach() -> None:
    """One coordinate that is all of the norm is the worst that there is, at whatever place."""
    for length in (700, 5000, 40_000):
        largest = []
        for at in (0, length // 2, length - 1):
            vector = np.zeros(length, np.float32)
            vector[at] = 1
            vector[(at * 7 + 3) % length] += 1e-3
            rotate(vector, os.urandom(32))
            largest.append(float(np.abs(vector).max()))
        assert max(largest) <= reach(length) * 1.001


@pytest.mark.parametrize("length", [0, 1, 2, 60])
def test_the_reach_is_never_more_than_the_norm(length: int) -> None:
    assert 0 < reach(length) <= 1
    assert math.isfinite(reach(2**36))


def test_nothing_is_rotated() -> None:
    rotate(np.empty(0, np.float32), bytes(32))
