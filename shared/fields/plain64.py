"""The prime field of Shamir's shares in NumPy alone: what a client of a round needs of `field64`, without its compiler.

p = 2**64 - 2**32 + 1. Compiled code takes 65 MB of a process that stays; a client shares two secrets a round, which is
a millisecond here. Values are uint64 in [0, p). No branch and no index depends on a value.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

P: Final = 2**64 - 2**32 + 1
Field = npt.NDArray[np.uint64]

_P, _32 = np.uint64(P), np.uint64(32)
_EPSILON = np.uint64(2**32 - 1)
"""2**64 mod p."""


def evaluate(coefficients: Field, points: Field) -> Field:
    """Evaluate m polynomials (uint64[m, t], lowest first) at k points below 2**32: uint64[k, m]."""
    x = points[:, None]
    if points.size and int(points.max()) >> 32:
        raise ValueError("a point is a number below 2**32")
    values = np.repeat(coefficients[None, :, -1], points.size, axis=0)
    for power in range(coefficients.shape[1] - 2, -1, -1):
        values = _sum(_times_small(values, x), coefficients[None, :, power])
    return values


def _times_small(a: Field, b: Field) -> Field:
    """Return a * b mod p, for b below 2**32."""
    lower = (a & _EPSILON) * b
    upper = (a >> _32) * b + (lower >> _32)  # the product is upper * 2**32 + the lower half of lower
    return _sum((upper << _32) | (lower & _EPSILON), (upper >> _32) * _EPSILON)


def _sum(a: Field, b: Field) -> Field:
    """Return a + b mod p, where one of them is at most (2**32 - 1)**2 or both are below p."""
    total = a + b
    total += (total < a) * _EPSILON  # wrapped: 2**64 = epsilon
    total -= (total >= _P) * _P
    return total
