"""Compiled loops of the ring: packing integers into coefficients, and what is left when a sum is opened.

Words are uint64 in [0, q), q = 2**64 - 2**32 + 1; a word above q / 2 stands for a negative number. Compiled by numba
with explicit signatures, cached on disk and free of the GIL; no branch and no index depends on a coefficient.
"""

import numpy as np
from numba import njit

from undersong.shared.fields.field64 import P, add, multiply

_P = np.uint64(P)
_HALF = np.uint64(P // 2)


@njit("int64(uint64)", cache=True, nogil=True, inline="always")
def _centred(word):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return the integer of least size that a word stands for."""
    return np.int64(word - _P) if word > _HALF else np.int64(word)


@njit("uint64(int64)", cache=True, nogil=True, inline="always")
def _element(number):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return a signed number, less than q / 2 in size, as a word."""
    return np.uint64(number) + _P if number < 0 else np.uint64(number)


@njit("void(uint64[::1], int64[::1], int64[::1], int64, int64, int64)", cache=True, nogil=True)
def pack_fields(out, values, noise, fields, width, delta):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write delta times `fields` values in one coefficient, each `width` bits above the one before, plus its noise."""
    for i in range(out.shape[0]):
        packed = np.int64(0)
        for field in range(fields - 1, -1, -1):
            place = i * fields + field
            packed = (packed << width) + (values[place] if place < values.shape[0] else np.int64(0))
        out[i] = _element(packed * delta + noise[i])


@njit("void(int64[::1], uint64[::1], int64, int64, int64)", cache=True, nogil=True)
def unpack_fields(out, words, fields, width, delta_bits):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Round coefficients to multiples of 2**delta_bits and write the signed values that were packed in them."""
    half, top = np.int64(1) << (delta_bits - 1), 64 - width
    for i in range(words.shape[0]):
        packed = (_centred(words[i]) + half) >> delta_bits
        for field in range(fields):
            low = (packed << top) >> top
            packed = (packed - low) >> width
            if i * fields + field < out.shape[0]:
                out[i * fields + field] = low


@njit("float64(uint64[::1], int64)", cache=True, nogil=True)
def residue(words, delta_bits):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return the root mean square of what rounding to multiples of 2**delta_bits takes off."""
    half, total = np.int64(1) << (delta_bits - 1), 0.0
    for i in range(words.shape[0]):
        word = _centred(words[i])
        rest = float(word - (((word + half) >> delta_bits) << delta_bits))
        total += rest * rest
    return np.sqrt(total / words.shape[0])


@njit("void(uint64[:,::1], uint64[:,::1], uint64[:,::1], uint64[::1])", cache=True, nogil=True)
def add_products(out, columns, a, s):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write, for each polynomial j in transformed form, column j of [N, k] plus a[j] * s as row j of [k, N]."""
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[j, i] = add(columns[i, j], multiply(a[j, i], s[i]))


@njit("void(uint64[:,::1], uint64[:,::1], uint64[:,::1], uint64[::1])", cache=True, nogil=True)
def subtract_products(out, rows, a, s):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write row j of [k, N] minus a[j] * s as column j of [N, k]."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            product = multiply(a[j, i], s[i])
            out[i, j] = add(rows[j, i], _P - product if product else product)


@njit("void(uint64[::1], uint64[:,::1], int64, uint64[::1])", cache=True, nogil=True)
def untwist(out, columns, column, factors):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write a column of [N, k], each coefficient times its factor."""
    for i in range(out.shape[0]):
        out[i] = multiply(columns[i, column], factors[i])


@njit("boolean(uint64[::1], int64)", cache=True, nogil=True)
def within(words, limit):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Return whether every word stands for a number of at most this size."""
    most = np.int64(0)
    for i in range(words.shape[0]):
        most = max(most, abs(_centred(words[i])))
    return most <= limit
