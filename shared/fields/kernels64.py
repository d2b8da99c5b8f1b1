"""Compiled loops over Field64 (p = 2**64 - 2**32 + 1): the hot parts of proofs and of lattice encryption.

Source: the arithmetic of `undersong.shared.fields.field64`; the transform is the textbook iterative one (decimation in
time). Shapes: vectors are uint64[n] and matrices uint64[n, m], C-contiguous and below p unless a docstring says
otherwise. Compiled by numba with explicit signatures, cached on disk and free of the GIL. Branch-light (it compiles to
selects, and no table is indexed by a share), but not audited for constant time.
"""

import numpy as np
from numba import njit, types

from undersong.shared.fields.field64 import P, add, multiply

_P = np.uint64(P)
_0 = np.uint64(0)
_32 = np.uint64(32)
_LOW = np.uint64(2**32 - 1)  # also 2**64 mod p

VEC, ROWS = types.uint64[::1], types.uint64[:, ::1]
_IN = types.Array(types.uint64, 1, "C", readonly=True)
_ROWS_IN = types.Array(types.uint64, 2, "C", readonly=True)
_STRIDED = types.Array(types.uint64, 2, "A", readonly=True)
_ORDER = types.Array(types.int64, 1, "C", readonly=True)
_INTS = types.Array(types.int64, 1, "C", readonly=True)


@njit("uint64(uint64, uint64)", cache=True, nogil=True, inline="always")
def subtract(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the difference a - b mod p."""
    difference = a - b
    return difference + _P if a < b else difference


@njit("uint64(uint64, uint64)", cache=True, nogil=True, inline="always")
def multiply_lanes(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the product of any two words, below p: from halves of 32 bits, which vector units multiply by fours."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _32, b & _LOW, b >> _32
    lowest = a_low * b_low
    middle = a_low * b_high + (lowest >> _32)
    other = a_high * b_low + (middle & _LOW)
    high = a_high * b_high + (middle >> _32) + (other >> _32)
    low = (other << _32) | (lowest & _LOW)
    top, rest = high >> _32, high & _LOW
    reduced = low - top - (_LOW if low < top else _0)
    shifted = (rest << _32) - rest
    result = reduced + shifted
    result += _LOW if result < shifted else _0
    return result - _P if result >= _P else result


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
    """Return whether every word is below p."""
    top = np.uint64(0)
    for i in range(a.shape[0]):
        top = max(top, a[i])
    return top < _P


@njit("uint64(uint64, uint64)", cache=True, nogil=True, inline="always")
def join_halves(low, high):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the element low + 2**32 high: sums of up to 2**32 halves need no reduction on the way."""
    return add(low % _P, multiply(high % _P, np.uint64(2**32)))


@njit([types.uint64(_IN)], cache=True, nogil=True)
def total(a):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the sum of a vector."""
    low, high = _0, _0
    for i in range(a.shape[0]):
        low += a[i] & _LOW
        high += a[i] >> _32
    return join_halves(low, high)


@njit([types.uint64(_IN, _IN)], cache=True, nogil=True)
def dot(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the sum of products of two vectors."""
    low, high = _0, _0
    for i in range(a.shape[0]):
        product = multiply_lanes(a[i], b[i])
        low += product & _LOW
        high += product >> _32
    return join_halves(low, high)


@njit(["Tuple((float64, uint64))(Array(int64, 1, 'C', readonly=True))"], cache=True, nogil=True)
def squared_norm(values):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the sum of squares, roughly and modulo 2**64."""
    rough, exact = 0.0, _0
    for i in range(values.shape[0]):
        rough += float(values[i]) * float(values[i])
        exact += np.uint64(values[i]) * np.uint64(values[i])
    return rough, exact


@njit([types.void(VEC, _IN, _ROWS_IN)], cache=True, nogil=True)
def combine(out, weights, rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Add the weighted sum of rows to out[m]: one multiply-add an element."""
    for i in range(rows.shape[0]):
        weight = weights[i]
        for j in range(rows.shape[1]):
            out[j] = add(out[j], multiply_lanes(weight, rows[i, j]))


@njit([types.void(VEC, types.uint64)], cache=True, nogil=True)
def powers(out, base):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write 1, base, base**2, ..."""
    power = np.uint64(1)
    for i in range(out.shape[0]):
        out[i] = power
        power = multiply(power, base)


@njit([types.void(ROWS, _IN)], cache=True, nogil=True)
def butterflies(rows, roots):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Transform each column of [n, m], rows in bit-reversed order, in place; roots[n / 2] are an n-th root's powers.

    On the way words may exceed p: one operand of every sum is reduced, so that one correction is enough.
    """
    n, m = rows.shape
    half = 1
    while half < n:
        step = n // (2 * half)
        for start in range(0, n, 2 * half):
            for c in range(m):
                low, high = rows[start, c], rows[start + half, c]
                high = high - _P if high >= _P else high
                plus, minus = low + high, low - high
                rows[start, c] = plus + (_LOW if plus < high else _0)
                rows[start + half, c] = minus - (_LOW if low < high else _0)
            for i in range(1, half):
                root = roots[i * step]
                for c in range(m):
                    low, high = rows[start + i, c], multiply_lanes(rows[start + i + half, c], root)
                    plus, minus = low + high, low - high
                    rows[start + i, c] = plus + (_LOW if plus < high else _0)
                    rows[start + i + half, c] = minus - (_LOW if low < high else _0)
        half *= 2
    for i in range(n):
        for c in range(m):
            rows[i, c] = rows[i, c] - _P if rows[i, c] >= _P else rows[i, c]


@njit([types.void(ROWS, _STRIDED, _ORDER, _IN)], cache=True, nogil=True)
def transform(out, rows, order, roots):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write the transform of each column of [n, m]; order[n] reverses the bits of an index."""
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            out[order[i], c] = rows[i, c]
    butterflies(out, roots)


@njit([types.void(ROWS, _STRIDED, _ORDER, _IN, _IN)], cache=True, nogil=True)
def twisted(out, rows, order, factors, roots):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write the transform of each column of [n, m] whose row i was multiplied by factors[i].

    With the powers of a 2n-th root of unity as factors: the values at its odd powers.
    """
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            out[order[i], c] = multiply_lanes(rows[i, c], factors[i])
    butterflies(out, roots)


@njit([types.void(ROWS, _STRIDED, _ORDER, _IN, _IN, _IN)], cache=True, nogil=True)
def between(out, rows, order, inverse_roots, factors, roots):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """From values at the powers of an n-th root of unity to those at the odd powers of its square root.

    factors[n] are that square root's powers divided by n.
    """
    coefficients = np.empty((rows.shape[0], rows.shape[1]), np.uint64)
    transform(coefficients, rows, order, inverse_roots)
    twisted(out, coefficients, order, factors, roots)


@njit([types.void(ROWS, types.uint64)], cache=True, nogil=True)
def scale(rows, factor):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Multiply every element, in place."""
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            rows[i, c] = multiply_lanes(rows[i, c], factor)


@njit([types.void(VEC, _STRIDED)], cache=True, nogil=True)
def sum_products(out, rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write to out[i] the sum of products of neighbours in row i."""
    for i in range(rows.shape[0]):
        low, high = _0, _0
        for c in range(0, rows.shape[1], 2):
            product = multiply(rows[i, c], rows[i, c + 1])
            low += product & _LOW
            high += product >> _32
        out[i] = join_halves(low, high)


@njit([types.void(VEC, _STRIDED)], cache=True, nogil=True)
def sum_squares(out, rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write to out[i] the sum of squares of row i."""
    for i in range(rows.shape[0]):
        low, high = _0, _0
        for c in range(rows.shape[1]):
            product = multiply(rows[i, c], rows[i, c])
            low += product & _LOW
            high += product >> _32
        out[i] = join_halves(low, high)
