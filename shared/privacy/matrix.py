"""Noise that is correlated over the rounds of a job, so that what the rounds add up to has less of it: DP-FTRL.

Sources: Fichtenberger, Henzinger and Upadhyay, Constant Matters (ICML 2023), for the square-root coefficients;
Choquette-Choo et al., (Amplified) Banded Matrix Factorization (NeurIPS 2023), for bands and minimum separation; Kalinin
and Lampert, Banded Square Root Matrix Factorization (NeurIPS 2024), theorem 2, for the sensitivity.

C is lower triangular Toeplitz, with `coefficients` that are those of 1 / sqrt(1 - x), cut off after a band. The rounds'
sums x, each a vector of integers, are released as x + C^-1 z, which is a function of C x + z: a Gaussian mechanism.
Departs: coefficients are multiples of 2**-FRACTION_BITS, the noise z is drawn on a grid finer by as many bits, so that
C x + z is a sum of integers, and each row of C^-1 z is rounded before the next is computed from it:

    r[t] = round((z[t] - sum_k K[k] r[t - k]) / 2**FRACTION_BITS)    with K = 2**FRACTION_BITS C

What is released, x + r, is then a function of the integers 2**FRACTION_BITS C x + z alone, exactly: real coefficients
with integer noise would show by their fractions which x it was. No row needs any state but a key.
"""

import hashlib
import hmac
import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid
from undersong.shared.privacy.noise import MAX_SIGMA, Noise, add_discrete_gaussian

FRACTION_BITS: Final = 16
_LABEL: Final = b"undersong/matrix-noise/1\0"
_SMOOTH: Final = 2.5  # as in `undersong.shared.privacy.noise`: a coarse draw hides between two of its steps
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


def rows(first: Coefficients, sigma: float, seed: bytes, context: bytes, length: int) -> Iterator[Noise]:
    """Generate the noise of round 0, 1, 2 …: int64[length] each, in steps of the grid of x; the same ones each time.

    `sigma` is the standard deviation of z in the same steps: the noise multiplier times sensitivity times the norm of
    what a site may send. `seed` is 32 secret random bytes, of the server alone; `context` names the job and the part of
    the vector, and is used for one sequence only. Raises `BadBand`, and `SigmaOutOfRange`.
    """
    past: list[Noise] = []
    half = 1 << (FRACTION_BITS - 1)
    at = 0
    while True:
        row = draw(sigma, hmac.digest(seed, _LABEL + at.to_bytes(8, "big") + context, hashlib.sha256), length)
        for back, before in enumerate(past, start=1):
            row -= first[back] * before
        row += half
        row >>= FRACTION_BITS
        past = [row, *past][: len(first) - 1]
        yield row.copy()
        at += 1


def draw(sigma: float, key: bytes, length: int) -> Noise:
    """Draw z for one round: discrete Gaussian of `sigma` steps of the grid of x, in steps of the finer grid.

    By convolution where that is more than one draw can be (Peikert, CRYPTO 2010, theorem 3.1).
    """
    fine = sigma * 2**FRACTION_BITS
    noise = np.zeros(length, np.int64)
    factor = math.ceil(fine / MAX_SIGMA)
    if factor == 1:
        add_discrete_gaussian(noise, fine, _derive(key, b"only"))
        return noise
    low = fine / math.sqrt(1 + factor * factor)
    if low < _SMOOTH * factor:
        raise BadBand(f"noise of {sigma:.3g} steps of the grid is more than can be drawn: raise epsilon")
    add_discrete_gaussian(noise, low, _derive(key, b"coarse"))
    noise *= factor
    add_discrete_gaussian(noise, low, _derive(key, b"fine"))
    return noise


def _derive(key: bytes, part: bytes) -> bytes:
    return hmac.digest(key, part, hashlib.sha256)
