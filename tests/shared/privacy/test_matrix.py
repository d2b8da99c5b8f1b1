"""Noise correlated over rounds: numbers of jax-privacy 2.0.0, the published trade, and rows that follow from a key."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers

from tests.effort import examples
from undersong.shared.privacy.matrix import BLOCK, draw, noise_row, row_key
from undersong.shared.privacy.toeplitz import (
    FRACTION_BITS,
    BadBand,
    coefficients,
    error,
    inverse,
    norm,
    reach,
    sensitivity,
    spread,
)

SEED = bytes(range(32))
ORACLE = [  # rounds, separation, participations, band; sensitivity, error, C^-1 in round `band` and in the last one
    (100, 100, 1, 15, 1.386724709780069, 1.9787764040678661, 0.13948151469230652, 5.284578786147152e-06),
    (100, 20, 5, 20, 3.1748152001211856, 1.8246994203817217, 0.12215654941246612, -6.475507024122763e-05),
    (400, 40, 10, 40, 4.731279382315642, 2.347831890835843, 0.0878060340490555, 7.89574418256661e-09),
    (400, 40, 10, 80, 5.869750854469973, 1.9353416224088602, 0.06257755213354646, -7.991568949123425e-06),
    (60, 7, 4, 7, 2.588049818216849, 2.1238466506828337, 0.193359375, -2.6819193251165956e-07),
    (60, 7, 4, 15, 3.434379611389702, 1.6878339065781927, 0.13948151469230652, -0.0004443740967390045),
    (50, 10, 3, 15, 2.7219673493362015, 1.6067263848900895, 0.13948151469230652, 0.0005464957659352997),
]
"""From `jax_privacy.matrix_factorization.toeplitz`, for the coefficients rounded to multiples of 2**-16."""


@pytest.mark.parametrize(("rounds", "separation", "times", "band", "moved", "wanted", "after", "last"), ORACLE)
def test_it_agrees_with_jax_privacy(
    rounds: int, separation: int, times: int, band: int, moved: float, wanted: float, after: float, last: float
) -> None:
    first = coefficients(band)
    assert sensitivity(first, rounds, separation, times) == pytest.approx(moved, rel=1e-12)
    assert error(first, rounds) == pytest.approx(wanted, rel=1e-12)
    column = inverse(first, rounds)
    assert column[[1, 2]] == pytest.approx([-0.5, -0.125], abs=1e-12)
    assert column[[band, -1]] == pytest.approx([after, last], abs=1e-12)


def test_coefficients_are_those_of_the_square_root() -> None:
    exact = [1.0, 0.5, 0.375, 0.3125, 0.2734375, 0.24609375]
    assert coefficients(6).tolist() == [value * 2**FRACTION_BITS for value in exact]
    published = {19: 0.1285853206354659, 39: 0.0900535481254757, 99: 0.056631637195232634}
    for place, value in published.items():
        assert coefficients(100)[place] / 2**FRACTION_BITS == pytest.approx(value, abs=2**-17)
    with pytest.raises(BadBand):
        coefficients(0)


@pytest.mark.parametrize(
    ("rounds", "separation", "times", "plain", "whole", "banded"),
    [
        (100, 100, 1, 7.1, 2.4, 2.4),
        (100, 20, 5, 15.9, 7.2, 5.8),
        (400, 40, 10, 44.8, 14.7, 11.1),
        (100, 1, 100, 71.1, 119.2, 71.1),
    ],
)
def test_the_noise_saved_where_sites_take_turns(
    rounds: int, separation: int, times: int, plain: float, whole: float, banded: float
) -> None:
    """Error of prefix sums times sensitivity; nothing is saved where every site takes part in every round."""

    def noise(band: int) -> float:
        first = coefficients(band)
        return error(first, rounds) * sensitivity(first, rounds, separation, times)

    assert [round(noise(band), 1) for band in (1, rounds, separation)] == [plain, whole, banded]


@settings(max_examples=examples(20), deadline=None)
@given(integers(1, 30), integers(1, 12), integers(1, 12), integers(1, 6))
def test_no_allowed_participation_moves_more(rounds: int, band: int, separation: int, times: int) -> None:
    first = coefficients(band)
    most = sensitivity(first, rounds, separation, times)
    random = np.random.default_rng(rounds * 1000 + band)
    matrix = np.zeros((rounds, rounds))
    for column in range(rounds):
        reach = min(band, rounds - column)
        matrix[column : column + reach, column] = first[:reach] / 2**FRACTION_BITS
    for _ in range(20):
        chosen: list[int] = []
        for place in random.permutation(rounds):
            if len(chosen) < times and all(abs(place - other) >= separation for other in chosen):
                chosen.append(int(place))
        sites = np.zeros((rounds, 3))
        sites[chosen] = random.normal(size=(len(chosen), 3))
        sites[chosen] /= np.linalg.norm(sites[chosen], axis=1, keepdims=True)
        assert np.linalg.norm(matrix @ sites) <= most * (1 + 1e-12)


def taken(band: int, sigma: float, count: int, length: int = 4000, context: bytes = b"job") -> np.ndarray:
    first = coefficients(band)
    return np.stack([noise_row(first, sigma, SEED, context, length, row) for row in range(1, count + 1)])


def test_rows_are_made_again_from_the_key_and_differ_by_what_they_are_for() -> None:
    found = taken(5, 1000.0, 12)
    assert np.array_equal(taken(5, 1000.0, 12), found)
    assert np.array_equal(taken(5, 1000.0, 7), found[:7])
    assert not np.array_equal(taken(5, 1000.0, 1, context=b"other"), found[:1])
    assert abs(np.corrcoef(taken(1, 1000.0, 1)[0], taken(1, 1000.0, 2)[1])[0, 1]) < 0.1


def test_rows_are_the_inverse_of_the_matrix_and_add_up_to_less() -> None:
    sigma, count, band = 5e5, 40, 10
    found, column = taken(band, sigma, count), inverse(coefficients(band), count)
    plain = taken(1, sigma, count)  # z itself, rounded
    wanted = np.stack([sum(column[k] * plain[at - k] for k in range(at + 1)) for at in range(count)])
    assert np.abs(found - wanted).max() < 6, "steps of the grid: what rounding adds"
    assert plain.std() == pytest.approx(sigma, rel=0.02)
    sums = np.cumsum(found, axis=0)
    assert math.sqrt(np.mean(np.square(sums))) / sigma == pytest.approx(error(coefficients(band), count), rel=0.05)


def test_what_is_released_depends_on_the_mechanism_alone() -> None:
    """x + r is computed from s = K x + z by a recursion that knows neither: rounding gives nothing away."""
    random, count, band, length = np.random.default_rng(4), 20, 6, 50
    first = coefficients(band)
    x = random.integers(-1000, 1000, (count, length))
    noisy = x + taken(band, 300.0, count, length)
    s = np.zeros((count, length), np.int64)
    z = z_of(300.0, count, length)
    for at in range(count):
        s[at] = z[at] + sum(int(first[k]) * x[at - k] for k in range(min(band, at + 1)))
    released = np.zeros((count, length), np.int64)
    for at in range(count):
        left = s[at] - sum(int(first[k]) * released[at - k] for k in range(1, min(band, at + 1)))
        released[at] = (left + 2 ** (FRACTION_BITS - 1)) >> FRACTION_BITS
    assert np.array_equal(released, noisy)


def z_of(sigma: float, count: int, length: int) -> np.ndarray:
    """The noise on the finer grid, of the first block of coordinates."""
    return np.stack([draw(sigma, row_key(SEED, at, bytes(8) + b"job"), length) for at in range(count)])


def test_blocks_of_coordinates_have_noise_of_their_own() -> None:
    found = noise_row(coefficients(4), 1000.0, SEED, b"job", 2 * BLOCK + 9, 6)
    assert np.array_equal(found[:BLOCK], noise_row(coefficients(4), 1000.0, SEED, b"job", BLOCK, 6))
    assert abs(np.corrcoef(found[:BLOCK], found[BLOCK : 2 * BLOCK])[0, 1]) < 0.05
    with pytest.raises(BadBand):
        noise_row(coefficients(4), 1000.0, SEED, b"job", 10, 0)


@settings(max_examples=examples(20), deadline=None)
@given(integers(1, 40), integers(1, 8), integers(1, 60))
def test_a_participation_at_a_time_costs_what_all_of_them_do(band: int, times: int, row: int) -> None:
    """A band no wider than the separation: columns of C share no row, so their squares add up."""
    first, rounds = coefficients(band), band * times
    assert sensitivity(first, rounds, band, times) == pytest.approx(math.sqrt(times) * norm(band), rel=1e-12)
    weights = inverse(first, row)
    assert spread(band, row) == pytest.approx(np.linalg.norm(weights))
    assert reach(band, row) == pytest.approx(np.abs(weights).sum())


def test_consecutive_rows_have_the_covariance_that_was_planned() -> None:
    """Rows t and t + k share z: their covariance is sigma**2 times the sum of products of their weights."""
    sigma, band, length, at = 5000.0, 4, 60_000, 9
    weights = inverse(coefficients(band), at + 4)
    found = [noise_row(coefficients(band), sigma, SEED, b"job", length, row) / sigma for row in range(at, at + 4)]
    for lag in range(4):
        planned = sum(weights[k] * weights[k + lag] for k in range(at))
        assert float(np.mean(found[0] * found[lag])) == pytest.approx(planned, abs=6 * 1.3 / math.sqrt(length))
    assert weights[1] == -0.5, "the next round takes half of it back"


@pytest.mark.parametrize("sigma", [0.01, 100.0, 1e6, 2.0**29])
def test_the_finer_grids_noise_has_its_deviation(sigma: float) -> None:
    drawn = draw(sigma, SEED, 20_000)
    assert drawn.std() / 2**FRACTION_BITS == pytest.approx(sigma, rel=0.03)
    assert abs(drawn.mean()) / 2**FRACTION_BITS < 5 * sigma / math.sqrt(20_000)
    if sigma * 2**FRACTION_BITS > 2**24:
        assert len(set((drawn % 1024).tolist())) > 1000, "every residue: a sum of two draws, not a multiple of one"


def test_noise_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(BadBand, match="raise epsilon"):
        draw(2.0**40, SEED, 10)
