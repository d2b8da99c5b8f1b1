"""Shamir's shares of a vector, element by element, of which t open it and t - 1 say nothing (Shamir, CACM 1979).

The first t - 1 holders' shares are uniform, so each of them gets a 32-byte key in place of its words; the others' are
on the polynomial of degree t - 1 through these and the secret at 0. A holder is its point: a small positive number.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from undersong.shared.fields import kernels64
from undersong.shared.fields.field64 import P
from undersong.shared.lattice.ring import UniformWords, Words


def deal(secret: Words, points: Sequence[int], keys: Sequence[bytes]) -> list[Words]:
    """Return the shares, uint64[n], of the holders behind the first `len(keys)`; those have `expanded` of their key.

    Any `len(keys) + 1` holders open the secret. `keys` are fresh random bytes.
    """
    if len(set(points)) != len(points) or min(points) < 1 or len(keys) >= len(points):
        raise ValueError("each holder has a point of its own, from 1 on, and one more is needed than have keys")
    known = np.stack([secret, *(expanded(key, secret.size) for key in keys)])
    base = (0, *points[: len(keys)])
    return [_combined(known, weights(base, point)) for point in points[len(keys) :]]


def expanded(key: bytes, count: int) -> Words:
    """Return the share that a key stands for."""
    return UniformWords(key).take(count)


def interpolated(shares: Mapping[int, Words], at: int = 0) -> Words:
    """Return the value at a point of the polynomials of least degree through the shares; at 0 the secret."""
    points = tuple(sorted(shares))
    return _combined(np.stack([shares[point] for point in points]), weights(points, at))


@lru_cache(maxsize=256)
def weights(points: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Return Lagrange's weights: what the values at `points` count for in the value at `at`."""
    found = []
    for i in points:
        above, below = 1, 1
        for j in points:
            if i != j:
                above, below = above * (at - j) % P, below * (i - j) % P
        found.append(above * pow(below, -1, P) % P)
    return tuple(found)


def is_share(words: Words) -> bool:
    """Return whether every word is below q."""
    return bool(kernels64.canonical(words))


def _combined(rows: Words, factors: tuple[int, ...]) -> Words:
    out = np.zeros(rows.shape[1], np.uint64)
    kernels64.combine(out, np.array(factors, np.uint64), rows)
    return out
