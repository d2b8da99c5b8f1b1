"""The matrix of noise that is correlated over the rounds of a job, and what follows from it; no noise is drawn here.

Sources: Fichtenberger, Henzinger and Upadhyay, Constant Matters (ICML 2023), for the square-root coefficients;
Choquette-Choo et al., (Amplified) Banded Matrix Factorization (NeurIPS 2023), for bands and minimum separation; Kalinin
and Lampert, Banded Square Root Matrix Factorization (NeurIPS 2024), theorem 2, for the sensitivity.

C is lower triangular Toeplitz, with `coefficients` that are those of 1 / sqrt(1 - x), cut off after a band. The rounds'
sums x are released as x + C^-1 z, which is a function of C x + z: a Gaussian mechanism, also where each x depends on
what was released before (Denisov et al., Improved Differential Privacy for SGD via Optimal Private Linear Operators on
Adaptive Streams, NeurIPS 2022, theorem 2.1). A site that takes part once in `band` rounds moves rows of C x by its
vector times one column of C each time, and no row twice. So k participations cost exactly what k Gaussian mechanisms
of sensitivity `norm` do, and each can be charged alone.
"""

import math
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid

FRACTION_BITS: Final = 16
Coefficients = npt.NDArray[np.int64]


class BadBand(Invalid):
    """A band is no positive number of rounds, or the noise wanted for it cannot be drawn."""


def coefficients(band: int) -> Coefficients:
    """Return the first column of C, int64[band], in units of 2**-FRACTION_BITS: decreasing, none negative."""
    if band < 1:
        raise BadBand(f"a band of {band} rounds: at least one is needed")
    steps = np.arange(1, band, dtype=np.float64)
    exact = np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])
    return np.asarray(np.rint(exact * 2**FRACTION_BITS), np.int64)


def inverse(first: Coefficients, rounds: int) -> npt.NDArray[np.float64]:
    """Return the first column of C^-1, float64[rounds]: how much each round's noise repeats that of earlier ones."""
    column = first.astype(np.float64) / first[0]
    found = np.zeros(rounds)
    found[:1] = 1.0
    for at in range(1, rounds):
        reach = min(at, len(column) - 1)
        found[at] = -(column[1 : reach + 1] @ found[at - reach : at][::-1])
    return found


def sensitivity(first: Coefficients, rounds: int, separation: int, participations: int) -> float:
    """Return the norm by which a site whose vectors have norm 1 can move C x: once in `separation` rounds at most.

    The worst site takes part as early and as often as it may, `participations` times at most, because the coefficients
    decrease.
    """
    moved = np.zeros(rounds, dtype=np.int64)
    for start in range(0, min(rounds, separation * participations), separation):
        reach = min(len(first), rounds - start)
        moved[start : start + reach] += first[:reach]
    return math.sqrt(sum(int(value) ** 2 for value in moved)) / 2**FRACTION_BITS


def error(first: Coefficients, rounds: int) -> float:
    """Return the root mean square of the noise on sums of the first 1 … `rounds` rounds, for z of deviation 1."""
    return math.sqrt(float(np.mean(np.cumsum(np.square(np.cumsum(inverse(first, rounds)))))))


@lru_cache(maxsize=64)
def norm(band: int) -> float:
    """Return the norm of a column of C: by how much a site whose vector has norm 1 moves C x by taking part once."""
    return math.sqrt(sum(int(value) ** 2 for value in coefficients(band))) / 2**FRACTION_BITS


@lru_cache(maxsize=64)
def spread(band: int, row: int) -> float:
    """Return the standard deviation of the noise of row 1, 2 … for z of deviation 1."""
    return math.sqrt(float(np.sum(np.square(inverse(coefficients(band), row)))))


@lru_cache(maxsize=64)
def reach(band: int, row: int) -> float:
    """Return how large the noise of row 1, 2 … can be at most where no coordinate of z is larger than 1."""
    return float(np.sum(np.abs(inverse(coefficients(band), row))))
