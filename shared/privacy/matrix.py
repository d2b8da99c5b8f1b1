"""Noise that is correlated over the rounds of a job, so that what the rounds add up to has less of it: DP-FTRL.

The mechanism and its sources: `undersong.shared.privacy.toeplitz`. The rounds' sums x, each a vector of integers, are
released as x + C^-1 z. Departs: coefficients are multiples of 2**-FRACTION_BITS, the noise z is drawn on a grid finer
by as many bits, so that C x + z is a sum of integers, and each row of C^-1 z is rounded before the next is computed
from it:

    r[t] = round((z[t] - sum_k K[k] r[t - k]) / 2**FRACTION_BITS)    with K = 2**FRACTION_BITS C

What is released, x + r, is then a function of the integers 2**FRACTION_BITS C x + z alone, exactly: real coefficients
with integer noise would show by their fractions which x it was. No row needs any state but a key: all rows before it
are computed again, block by block, which takes some 20 ms a row for a million coordinates.
"""

import hashlib
import hmac
import math
from typing import Final

import numpy as np
from numba import njit

from undersong.shared.privacy.noise import MAX_SIGMA, Noise, add_discrete_gaussian
from undersong.shared.privacy.toeplitz import FRACTION_BITS, BadBand, Coefficients

BLOCK: Final = 16_384
"""Coordinates that are computed together: a band of rows of them stays in a core's cache."""
_LABEL: Final = b"undersong/matrix-noise/1\0"
_SMOOTH: Final = 2.5  # as in `undersong.shared.privacy.noise`: a coarse draw hides between two of its steps


def noise_row(first: Coefficients, sigma: float, seed: bytes, context: bytes, length: int, row: int) -> Noise:
    """Return the noise of row 1, 2 …: int64[length] in steps of the grid of x; the same one each time. Blocking.

    `sigma` is the standard deviation of z in the same steps: the noise multiplier times a column's norm times the norm
    of what a site may send. `seed` is 32 secret random bytes, of the server alone; `context` names the job and all that
    its rounds have in common, and is used for one sequence only. Raises `BadBand`, and `SigmaOutOfRange`.
    """
    if row < 1:
        raise BadBand(f"row {row}: rows are counted from 1")
    found = np.empty(length, np.int64)
    for number, start in enumerate(range(0, length, BLOCK)):
        part = found[start : start + BLOCK]
        part[:] = _block(first, sigma, seed, number.to_bytes(8, "big") + context, part.size, row)
    return found


def _block(first: Coefficients, sigma: float, seed: bytes, context: bytes, length: int, row: int) -> Noise:
    depth = max(1, len(first) - 1)
    past = np.zeros((depth, length), np.int64)
    drawn = np.zeros(length, np.int64)
    for at in range(row):
        drawn = draw(sigma, row_key(seed, at, context), length)
        _correlate(drawn, past, first, at)
        past[at % depth] = drawn
    return drawn


def row_key(seed: bytes, at: int, context: bytes) -> bytes:
    """Return the key of z for row `at` + 1 of a block."""
    return hmac.digest(seed, _LABEL + at.to_bytes(8, "big") + context, hashlib.sha256)


@njit("void(int64[::1], int64[:,::1], int64[::1], int64)", cache=True, nogil=True)
def _correlate(row, past, first, at):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Turn z of row `at` + 1 into its noise, in place; `past` holds the rows before, the row s in place s modulo its
    length.
    """
    depth = past.shape[0]
    for back in range(1, min(at, first.shape[0] - 1) + 1):
        before, factor = past[(at - back) % depth], first[back]
        for i in range(row.shape[0]):
            row[i] -= factor * before[i]
    for i in range(row.shape[0]):
        row[i] = (row[i] + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS


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
