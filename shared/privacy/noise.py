"""Discrete Gaussian noise from AES-CTR, added to an integer vector in place.

The distribution is Canonne, Kamath and Steinke's, The Discrete Gaussian for Differential Privacy (NeurIPS 2020):
P[x] proportional to exp(-x**2 / (2 sigma**2)) over all integers x. Up to `ONE_TABLE` a draw reads one alias table
(Walker 1977; Vose 1991) of magnitudes; above it a draw is a + k b with a and b of sigma / sqrt(1 + k**2) (convolution
of discrete Gaussians: Peikert, An Efficient and Parallel Gaussian Sampler for Lattices, CRYPTO 2010, theorem 3.1).
Departs: tails beyond 12 sigma are cut and a table's probabilities are multiples of 2**-64 over its size; `distance`
bounds the total variation that all of this costs for one coordinate: add it, times d, to delta.
Shapes: noise is int64[d]; a table is uint64[m, 2] of (acceptance threshold, alias), m a power of two.
Table look-ups depend on what is drawn: not constant time.
"""

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit

from undersong.shared.errors import Invalid

MIN_SIGMA: Final = 1.0
MAX_SIGMA: Final = 2.0**24
ONE_TABLE: Final = 2048.0
KEY_BYTES: Final = 32
_TAIL: Final = 12  # standard deviations: 2 exp(-72) < 2**-102 lies beyond
_SMOOTH: Final = 2.5  # the inner sum of a convolution is constant up to 4 exp(-2 pi**2 2.5**2) < 2**-175
_PRECISION_BITS: Final = 384
_THRESHOLD_BITS: Final = 64
_BLOCK: Final = 16_384  # draws: their 12 bytes each and the noise stay in a core's cache

Noise = npt.NDArray[np.int64]
Table = npt.NDArray[np.uint64]


class SigmaOutOfRange(Invalid):
    """The standard deviation is outside what the sampler was made for."""


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """How noise of `sigma` is drawn: the tables' own `sigma`, and the factor `k` of a second draw (0: no second)."""

    sigma: float
    k: int

    @property
    def distance(self) -> float:
        """Total variation between one coordinate and the exact discrete Gaussian, at most."""
        return 2.0**-62 if self.k else 2.0**-63


def plan(sigma: float) -> NoisePlan:
    """Return the cheapest way to draw; raises `SigmaOutOfRange`."""
    if not MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise SigmaOutOfRange(f"sigma {sigma} is outside {MIN_SIGMA:g}..{MAX_SIGMA:g} steps of the grid")
    if sigma <= ONE_TABLE:
        return NoisePlan(sigma, 0)
    k = math.isqrt(int(sigma / _SMOOTH) - 1)
    return NoisePlan(sigma / math.sqrt(1 + k * k), k)


def add_discrete_gaussian(out: Noise, sigma: float, key: bytes) -> None:
    """Add independent draws to int64[d], contiguous, in place; raises `SigmaOutOfRange`.

    `sigma` is in units of one, 1 to 2**24. `key` is 32 fresh random bytes, for this call alone: the same key makes the
    same noise. Nothing of it is kept.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key has {len(key)} bytes, not {KEY_BYTES}")
    if out.dtype != np.int64 or out.ndim != 1 or not out.flags.c_contiguous:
        raise ValueError("noise is added to a contiguous int64 vector")
    way = plan(sigma)
    cells = table(way.sigma)
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    zeros = memoryview(bytes(12 * min(_BLOCK, out.size)))
    words = np.empty(3 * min(_BLOCK, out.size), np.uint32)
    for start in range(0, out.size, _BLOCK):
        part = out[start : start + _BLOCK]
        for factor in (1, way.k) if way.k else (1,):
            stream.update_into(zeros[: 12 * part.size], words[: 3 * part.size].view(np.uint8).data)
            _add(part, words, cells, factor)


@njit("void(int64[::1], uint32[::1], uint64[:,::1], int64)", cache=True, nogil=True)
def _add(out, words, cells, factor):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Add `factor` times a draw to each coordinate: 31 bits choose a cell, 64 accept it, one is the sign."""
    mask = np.uint32(cells.shape[0] - 1)
    for i in range(out.shape[0]):
        choice = words[3 * i]
        fine = np.uint64(words[3 * i + 1]) | np.uint64(words[3 * i + 2]) << np.uint64(32)
        cell = choice & mask
        alias = np.int64(cells[cell, 1])
        magnitude = alias + (np.int64(cell) - alias) * np.int64(fine < cells[cell, 0])  # no branch to guess wrong
        sign = np.int64(choice >> np.uint32(31))
        out[i] += factor * ((magnitude ^ -sign) + sign)


@lru_cache(maxsize=8)
def table(sigma: float) -> Table:
    """Return the alias table of |x|: cell i is itself with probability threshold / 2**64, otherwise its alias."""
    masses = magnitudes(sigma)
    size = 1 << (len(masses) - 1).bit_length()
    unit = 1 << _THRESHOLD_BITS
    total = sum(masses)
    weights = [mass * size * unit // total for mass in masses]
    weights[0] += size * unit - sum(weights)  # what rounding down has left
    weights += [0] * (size - len(weights))
    cells = np.empty((size, 2), np.uint64)
    small = [i for i, weight in enumerate(weights) if weight < unit]
    large = [i for i, weight in enumerate(weights) if weight >= unit]
    while small:
        low, high = small.pop(), large[-1]
        cells[low] = weights[low], high
        weights[high] -= unit - weights[low]
        if weights[high] < unit:
            small.append(large.pop())
    for i in large:  # exactly full
        cells[i] = 0, i
    return cells


def magnitudes(sigma: float) -> list[int]:
    """Return the masses of |x| = 0 … ceil(12 sigma), up to a common factor, each right to far more than 64 bits.

    By recurrence in fixed point: with r = exp(-1 / (2 sigma**2)), P[x + 1] = P[x] r**(2 x + 1).
    """
    with localcontext() as context:
        context.prec = 140
        ratio = (Decimal(-1) / (2 * Decimal(sigma) ** 2)).exp()
        step = int(ratio * (1 << _PRECISION_BITS))
    square = step * step >> _PRECISION_BITS
    mass, masses = 1 << _PRECISION_BITS, [1 << (_PRECISION_BITS - 1)]  # zero has no sign: half of what others get
    for _ in range(math.ceil(_TAIL * sigma)):
        mass = mass * step >> _PRECISION_BITS
        masses.append(mass)
        step = step * square >> _PRECISION_BITS
    return masses
