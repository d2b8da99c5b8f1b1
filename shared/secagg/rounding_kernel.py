"""One block of randomised rounding, compiled by numba; see `rounding`, whose numpy code gives the same integers."""

import numpy as np
from numba import njit

_SIGNATURES = [
    f"float64({word}[::1], Array(float32, 1, 'C', readonly=True), float64, int64, float64, uint32[::1])"
    for word in ("uint16", "uint32", "uint64")
]


@njit(_SIGNATURES, cache=True, nogil=True, fastmath={"reassoc"})
def round_block(ring, block, factor, weight, limit, words):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write weight * ((int(block * factor) + words) >> 32) to the ring and return the sum of squares before the weight.

    block * factor is cut off at +-limit.
    """
    square = 0.0
    for at in range(block.size):
        real = min(max(np.float64(block[at]) * factor, -limit), limit)
        whole = (np.int64(real) + np.int64(words[at])) >> 32
        square += np.float64(whole) * np.float64(whole)
        ring[at] = whole * weight
    return square
