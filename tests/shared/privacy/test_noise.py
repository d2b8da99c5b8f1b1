"""The sampler against the exact distribution; every key is fixed, so each outcome is too."""

import math
from collections import Counter
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chi2

from undersong.shared.privacy import noise
from undersong.shared.privacy.noise import SigmaOutOfRange, add_discrete_gaussian, plan, table

KEY = bytes(range(32))
DRAWS = 400_000


def draws(sigma: float, key: bytes = KEY, count: int = DRAWS) -> np.ndarray:
    out = np.zeros(count, np.int64)
    add_discrete_gaussian(out, sigma, key)
    return out


def exact(sigma: float) -> np.ndarray:
    """P[x] for x = -r … r by the formula, in float64."""
    radius = math.ceil(14 * sigma)
    x = np.arange(-radius, radius + 1)
    mass = np.exp(-(x**2) / (2 * sigma**2))
    return mass / mass.sum()


@pytest.mark.parametrize("sigma", [1.0, 10.0, 33.3])
def test_a_table_is_the_distribution_to_its_stated_distance(sigma: float) -> None:
    """What the thresholds add up to, in exact fractions, against the formula in 60 digits."""
    cells, span = table(sigma), math.ceil(18 * sigma)
    implied: Counter[int] = Counter()
    for i, (threshold, alias) in enumerate(cells.tolist()):
        implied[i] += threshold
        implied[alias] += 2**64 - threshold
    assert sum(implied.values()) == len(cells) * 2**64
    with localcontext() as context:
        context.prec = 60
        masses = [
            (Decimal(-x * x) / (2 * Decimal(sigma) ** 2)).exp() * (1 if x else Decimal("0.5")) for x in range(span)
        ]
        total = sum(masses)
        right = [Fraction(mass / total) for mass in masses]
    off = sum(abs(Fraction(implied[x], len(cells) * 2**64) - right[x]) for x in range(span)) / 2
    assert not any(mass for x, mass in implied.items() if x >= span)
    assert off < plan(sigma).distance == 2.0**-63


@pytest.mark.parametrize("sigma", [1.0, 10.0, 400.0, 1600.0, 5000.0, 1e5])
def test_draws_follow_the_distribution(sigma: float) -> None:
    """Chi-square over cells of about equal probability, signs kept apart."""
    edges = np.unique(np.round(sigma * np.linspace(-3.5, 3.5, 71)).astype(np.int64))
    probability = exact(sigma)
    radius = len(probability) // 2
    below = np.concatenate([[0.0], np.cumsum(probability)])  # below[i] = P[x < i - radius]
    expected = np.diff(np.concatenate([[0.0], below[edges + radius], [1.0]])) * DRAWS
    seen = np.bincount(np.searchsorted(edges, draws(sigma), side="right"), minlength=len(edges) + 1)
    statistic = float(((seen - expected) ** 2 / expected).sum())
    assert 1e-3 < chi2.sf(statistic, len(edges)) < 1 - 1e-3


def test_a_sum_of_two_draws_is_as_good_as_one() -> None:
    """The convolution's exact mass function against the formula, as far as float64 can tell."""
    sigma = 2049.0
    way = plan(sigma)
    assert way.k > 1
    one = exact(way.sigma)
    spread = np.zeros((len(one) - 1) * way.k + 1)
    spread[:: way.k] = one
    both, right = np.convolve(spread, one), exact(sigma)
    margin = abs(len(both) - len(right)) // 2
    longer, shorter = (both, right) if len(both) > len(right) else (right, both)
    assert np.abs(longer[margin : margin + len(shorter)] - shorter).sum() / 2 < 1e-12


@pytest.mark.parametrize("sigma", [100.0, 3000.0])
def test_draws_are_what_the_key_stream_says(sigma: float) -> None:
    """A plain reading of the stream gives the same noise, over a block's end, added to what was there."""
    way, block = plan(sigma), noise._BLOCK
    count, cells = block + 3, table(way.sigma).tolist()
    stream = Cipher(algorithms.AES256(KEY), modes.CTR(bytes(16))).encryptor()
    before = np.arange(count)
    wanted = before.tolist()
    for start, size in ((0, block), (block, 3)):
        for factor in (1, way.k) if way.k else (1,):
            octets = stream.update(bytes(12 * size))
            for i in range(size):
                choice = int.from_bytes(octets[12 * i : 12 * i + 4], "little")
                cell = choice % len(cells)
                accepted = int.from_bytes(octets[12 * i + 4 : 12 * i + 12], "little") < cells[cell][0]
                magnitude = cell if accepted else cells[cell][1]
                wanted[start + i] += factor * (-magnitude if choice >> 31 else magnitude)
    add_discrete_gaussian(before, sigma, KEY)
    assert before.tolist() == wanted


def test_another_key_is_other_noise() -> None:
    first, second = draws(50.0, count=1000), draws(50.0, key=bytes(32), count=1000)
    assert np.array_equal(first, draws(50.0, count=1000))
    assert abs(float(np.corrcoef(first, second)[0, 1])) < 0.1


@pytest.mark.parametrize("sigma", [0.0, 0.99, 2.0**24 + 1, math.nan, math.inf, -3.0])
def test_a_sigma_out_of_range_is_refused(sigma: float) -> None:
    with pytest.raises(SigmaOutOfRange, match="outside 1"):
        draws(sigma, count=1)


@pytest.mark.parametrize(
    ("out", "key"),
    [
        (np.zeros(3, np.int64), bytes(31)),
        (np.zeros(3, np.int32), KEY),
        (np.zeros((3, 2), np.int64), KEY),
        (np.zeros(6, np.int64)[::2], KEY),
    ],
)
def test_wrong_arguments_are_named(out: np.ndarray, key: bytes) -> None:
    with pytest.raises(ValueError, match=r"key has 31 bytes|contiguous int64"):
        add_discrete_gaussian(out, 10.0, key)
    assert not out.any()


def test_an_empty_vector_stays_empty() -> None:
    assert draws(10.0, count=0).size == 0
