"""PINE's wraparound checks over Field64: sums of d elements with public random coefficients -1, 0 and 1.

Source: see `Field.project` for the coefficients' encoding. An element is cut into four signed digits of 16 bits and a
stretch of coefficients is spread to 16-bit signs: vector units multiply such pairs sixteen at a time and add them up.
Shapes: vector uint64[d] below p; bits uint8[checks, ceil(d / 4)]; a stretch is STRETCH bytes of a row, spread into four
planes (the first coefficient of every byte, then the second, ...), and digits lie in the same order.
A stretch's digits that are all zero are passed over: a client's own small integers have two of four.
"""

import numpy as np
from numba import njit, types

from undersong.shared.fields.field64 import P, add, multiply
from undersong.shared.fields.kernels64 import VEC, subtract

STRETCH = 512  # bytes of a row at a time: digits and signs of 2048 coefficients stay in a core's first cache
_DIGITS = 4
_BASE = np.uint64(2**16)
_HALVES = np.uint64(0x8000_8000_8000_8000)
_LARGEST = np.uint64(0x7FFF_7FFF_7FFF_7FFF)  # of four signed digits; above, an element is written as x - p
_MINUS_P = np.uint64(2**64 - P)

_IN = types.Array(types.uint64, 1, "C", readonly=True)
_SHORTS = types.Array(types.int16, 1, "C", readonly=True)
_OCTETS = types.Array(types.uint8, 1, "C", readonly=True)
_BITS = types.Array(types.uint8, 2, "C", readonly=True)
_OUT = types.int16[::1]


@njit([types.int32(_SHORTS, _SHORTS)], cache=True, nogil=True)
def _dot(signs, digits):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return the sum of products: below 2**31 for up to 2**16 of them."""
    result = np.int32(0)
    for i in range(signs.shape[0]):
        result = np.int32(result + np.int32(np.int32(signs[i]) * np.int32(digits[i])))
    return result


@njit([types.void(_OUT, _OUT, _OUT, _OUT, _OCTETS)], cache=True, nogil=True)
def _spread(first, second, third, fourth, octets):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Four coefficients of each byte: 00 is -1, 11 is 1, the others are 0. What lies past the bytes stays."""
    for i in range(octets.shape[0]):
        octet = octets[i]
        first[i] = np.int16((octet & 1) + ((octet >> 1) & 1) - 1)
        second[i] = np.int16(((octet >> 2) & 1) + ((octet >> 3) & 1) - 1)
        third[i] = np.int16(((octet >> 4) & 1) + ((octet >> 5) & 1) - 1)
        fourth[i] = np.int16(((octet >> 6) & 1) + ((octet >> 7) & 1) - 1)


@njit([types.void(types.int16[:, ::1], types.boolean[::1], _IN, types.int64)], cache=True, nogil=True)
def _cut(digits, used, vector, start):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Write the digits of a stretch from element `start` on, lowest first, to digits[4, 4 STRETCH]; zeros past the end.

    used[4] says which digits are not all zero.
    """
    for digit in range(_DIGITS):
        used[digit] = False
    for i in range(4 * STRETCH):
        value = vector[start + i] if start + i < vector.shape[0] else np.uint64(0)
        value = ((value + _MINUS_P if value > _LARGEST else value) + _HALVES) ^ _HALVES
        at = (i % 4) * STRETCH + i // 4
        for digit in range(_DIGITS):
            part = np.int16((value >> np.uint64(16 * digit)) & np.uint64(0xFFFF))
            digits[digit, at] = part
            used[digit] |= part != 0


@njit([types.void(VEC, _IN, _BITS)], cache=True, nogil=True)
def project(out, vector, bits):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Write the check results [checks]."""
    checks, width = bits.shape
    totals, used = np.zeros((checks, _DIGITS), np.int64), np.zeros(_DIGITS, np.bool_)
    digits, signs = np.zeros((_DIGITS, 4 * STRETCH), np.int16), np.zeros((4, STRETCH), np.int16)
    for start in range(0, width, STRETCH):
        _cut(digits, used, vector, 4 * start)
        stop = min(start + STRETCH, width)
        for check in range(checks):
            _spread(signs[0], signs[1], signs[2], signs[3], bits[check, start:stop])
            for digit in range(_DIGITS):
                if used[digit]:
                    totals[check, digit] += _dot(signs.reshape(4 * STRETCH), digits[digit])
    for check in range(checks):
        result = np.uint64(0)
        for digit in range(_DIGITS - 1, -1, -1):
            part = totals[check, digit]
            result = multiply(result, _BASE)
            result = add(result, np.uint64(part)) if part >= 0 else subtract(result, np.uint64(-part))
        out[check] = result
