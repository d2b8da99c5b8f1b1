"""Axes have round numbers, as many as fit, where they belong."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.services.coordinator.dashboard.axes import MOST_TICKS, axis, place, rising, round_step


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (160, 416, ["200", "250", "300", "350", "400"]),
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-7.1, 7.1, ["-5.0", "-2.5", "0.0", "2.5", "5.0"]),
        (0, 0.012, ["0.000", "0.002", "0.004", "0.006", "0.008", "0.010", "0.012"]),
        (0, 6_000_000, ["0", "1,000,000", "2,000,000", "3,000,000", "4,000,000", "5,000,000", "6,000,000"]),
        (3, 3, ["3.0", "3.2", "3.4", "3.6", "3.8", "4.0"]),
    ],
)
def test_ticks_are_round(low: float, high: float, texts: list[str]) -> None:
    assert [tick.text for tick in axis("x", low, high).ticks] == texts


@settings(max_examples=examples(200))
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_in_order_within_the_axis(low: float, length: float) -> None:
    found = axis("x", low, low + length)
    places = [tick.at for tick in found.ticks]
    assert places == sorted(places)
    assert 2 <= len(places) <= MOST_TICKS + 1
    assert all(0 <= at <= 100 for at in places)
    for tick in found.ticks:
        assert math.isclose(place(float(tick.text.replace(",", "")), low, low + length), tick.at, abs_tol=0.02)


@pytest.mark.parametrize(("most", "high"), [(1, 1), (7, 8), (36.2, 40), (39, 40), (101, 120), (0, 1)])
def test_counts_begin_at_zero_and_end_at_a_round_number(most: float, high: float) -> None:
    found = rising("rows", most)
    assert (found.low, found.high) == (0, high)
    assert found.ticks[-1].at == 100


@pytest.mark.parametrize("odd", [0.0, -1.0, math.inf, math.nan])
def test_a_step_of_nothing_is_one(odd: float) -> None:
    assert round_step(odd) == 1.0
