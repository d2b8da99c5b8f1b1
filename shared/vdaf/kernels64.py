"""Compiled loops over Field64 (p = 2**64 - 2**32 + 1): the hot parts of proving and verifying.

Source: the arithmetic of `shared.secagg.field64`; the transform is the textbook iterative one (decimation in time).
Shapes: vectors are uint64[n] and matrices uint64[n, m], C-contiguous and below p unless a docstring says otherwise.
Compiled by numba with explicit signatures, cached on disk and free of the GIL. Branch-light (selects, no tables indexed
by shares except in `project`, whose index is public), but nobody has audited it for constant time.
"""

import numpy as np
from numba import njit, types

from shared.secagg.field64 import P, add, multiply

_P = np.uint64(P)
_32 = np.uint64(32)
_LOW = np.uint64(2**32 - 1)

VEC, ROWS = types.uint64[::1], types.uint64[:, ::1]
_IN = types.Array(types.uint64, 1, "C", readonly=True)
_ROWS_IN = types.Array(types.uint64, 2, "C", readonly=True)
_STRIDED = types.Array(types.uint64, 2, "A", readonly=True)
_BITS = types.Array(types.uint8, 2, "C", readonly=True)
_INTS = types.Array(types.int64, 1, "C", readonly=True)


@njit("uint64(uint64, uint64)", cache=True, nogil=True, inline="always")
def subtract(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """The difference a - b mod p."""
    difference = a - b
    return difference + _P if a < b else difference


@njit([types.void(VEC, _IN, _IN)], cache=True, nogil=True)
def add_vectors(out, a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write a + b."""
    for i in range(out.shape[0]):
        out[i] = add(a[i], b[i])


@njit([types.void(VEC, _IN, _IN)], cache=True, nogil=True)
def subtract_vectors(out, a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write a - b."""
    for i in range(out.shape[0]):
        out[i] = subtract(a[i], b[i])


@njit([types.void(VEC, _IN, _IN)], cache=True, nogil=True)
def multiply_vectors(out, a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write a * b."""
    for i in range(out.shape[0]):
        out[i] = multiply(a[i], b[i])


@njit([types.void(VEC, _IN, types.uint64)], cache=True, nogil=True)
def shift_vector(out, a, offset):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write a + offset."""
    for i in range(out.shape[0]):
        out[i] = add(a[i], offset)


@njit([types.void(VEC, _INTS)], cache=True, nogil=True)
def from_signed(out, values):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write signed integers as field elements."""
    for i in range(out.shape[0]):
        value = np.uint64(values[i])
        out[i] = value + _P if values[i] < 0 else (value - _P if value >= _P else value)


@njit([types.boolean(_IN)], cache=True, nogil=True)
def canonical(a):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Whether every word is below p."""
    top = np.uint64(0)
    for i in range(a.shape[0]):
        top = max(top, a[i])
    return top < _P


@njit([types.uint64(_IN)], cache=True, nogil=True)
def total(a):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """The sum of a vector."""
    result = np.uint64(0)
    for i in range(a.shape[0]):
        result = add(result, a[i])
    return result


@njit([types.uint64(_IN, _IN)], cache=True, nogil=True)
def dot(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """The sum of products of two vectors."""
    result = np.uint64(0)
    for i in range(a.shape[0]):
        result = add(result, multiply(a[i], b[i]))
    return result


@njit([types.void(VEC, _IN, _ROWS_IN)], cache=True, nogil=True)
def combine(out, weights, rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Add the weighted sum of rows to out[m]: one multiply-add an element."""
    for i in range(rows.shape[0]):
        weight = weights[i]
        for j in range(rows.shape[1]):
            out[j] = add(out[j], multiply(weight, rows[i, j]))


@njit([types.void(VEC, types.uint64)], cache=True, nogil=True)
def powers(out, base):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write 1, base, base**2, ..."""
    power = np.uint64(1)
    for i in range(out.shape[0]):
        out[i] = power
        power = multiply(power, base)


@njit([types.void(ROWS, _IN)], cache=True, nogil=True)
def transform(rows, roots):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Transform each column of [n, m] in place; roots[n / 2] are the powers of an n-th root of unity."""
    n, m = rows.shape
    j = 0
    for i in range(1, n):
        bit = n >> 1
        while j & bit:
            j ^= bit
            bit >>= 1
        j |= bit
        if i < j:
            for c in range(m):
                rows[i, c], rows[j, c] = rows[j, c], rows[i, c]
    half = 1
    while half < n:
        step = n // (2 * half)
        for start in range(0, n, 2 * half):
            for i in range(half):
                root = roots[i * step]
                for c in range(m):
                    low, high = rows[start + i, c], multiply(rows[start + i + half, c], root)
                    rows[start + i, c] = add(low, high)
                    rows[start + i + half, c] = subtract(low, high)
        half *= 2


@njit([types.void(ROWS, _IN)], cache=True, nogil=True)
def scale_rows(rows, factors):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Multiply row i by factors[i], in place."""
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            rows[i, c] = multiply(rows[i, c], factors[i])


@njit([types.void(VEC, _STRIDED)], cache=True, nogil=True)
def sum_products(out, rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Add to out[i] the sum of products of neighbours in row i."""
    for i in range(rows.shape[0]):
        result = out[i]
        for c in range(0, rows.shape[1], 2):
            result = add(result, multiply(rows[i, c], rows[i, c + 1]))
        out[i] = result


@njit([types.void(VEC, _STRIDED)], cache=True, nogil=True)
def sum_squares(out, rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Add to out[i] the sum of squares of row i."""
    for i in range(rows.shape[0]):
        result = out[i]
        for c in range(rows.shape[1]):
            result = add(result, multiply(rows[i, c], rows[i, c]))
        out[i] = result


@njit([types.void(VEC, _IN, _BITS)], cache=True, nogil=True)
def project(out, vector, bits):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write the sums with coefficients -1, 0, 1 read from uint8[checks, ceil(d / 4)]: see `Field.project`.

    A coefficient is (low bit + high bit) - 1; halves of 32 bits are summed apart, so nothing is reduced on the way.
    """
    d, checks = vector.shape[0], bits.shape[0]
    low, high = np.zeros(checks, np.uint64), np.zeros(checks, np.uint64)
    table = np.empty((256, 2), np.uint64)
    whole = np.uint64(0)
    for group in range(bits.shape[1]):
        table[0, 0] = table[0, 1] = np.uint64(0)
        filled = 1
        for k in range(4):
            at = 4 * group + k
            value = vector[at] if at < d else np.uint64(0)
            whole = add(whole, value)
            for _ in range(2):
                for i in range(filled):
                    table[filled + i, 0] = table[i, 0] + (value & _LOW)
                    table[filled + i, 1] = table[i, 1] + (value >> _32)
                filled *= 2
        for check in range(checks):
            index = bits[check, group]
            low[check] += table[index, 0]
            high[check] += table[index, 1]
    for check in range(checks):
        scaled = multiply(high[check] % _P, np.uint64(2**32))
        out[check] = subtract(add(low[check] % _P, scaled), whole)
