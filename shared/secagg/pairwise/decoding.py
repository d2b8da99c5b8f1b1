"""Opening a shared secret although some of its shares are wrong, over the 64-bit prime field.

The shares of one secret at m points are five codewords of a Reed-Solomon code with t coefficients, so up to
e = floor((m - t) / 2) wrong shares are found and put right, and t + 2e shares correct e wrong ones.
Source: S. Gao, A New Algorithm for Decoding Reed-Solomon Codes (2003), which finds by the extended Euclidean algorithm
what Berlekamp and Welch find by linear algebra, in O(m^2) field operations. Where every share is right, which is
checked for all of them, one product with a matrix that the points determine is enough.
Shapes: points int64[m] (distinct, positive), rows uint64[m, 5], matrices uint64[m - t + 1, t].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import njit

from undersong.shared.fields.field64 import Field, P, add, multiply
from undersong.shared.secagg.pairwise.shares import SHARE_BYTES, BadShares, secret_of

_P = np.uint64(P)


@dataclass(frozen=True, slots=True)
class DecodedSecret:
    """A secret, and the points whose shares do not belong to it."""

    secret: bytes
    wrong: frozenset[int]


def decode(shares: Mapping[int, bytes], threshold: int) -> DecodedSecret:
    """Open a secret from shares by point and name the points whose shares are wrong.

    A share of another length, or with a value outside the field, counts as missing and as wrong. Raises BadShares
    where fewer than `threshold` are left, or more than floor((m - threshold) / 2) of the m that are left are wrong.
    A secret that was dealt in place of another is for the caller to notice.
    """
    points, rows = _rows(shares)
    malformed = shares.keys() - set(points.tolist())
    if len(points) < threshold:
        raise BadShares(f"{len(points)} well-formed shares where {threshold} are needed")
    correctable, wrong = (len(points) - threshold) // 2, set(malformed)
    while True:
        extended = _product(_extension(tuple(points.tolist()), threshold), rows[:threshold])
        differs = (extended[1:] != rows[threshold:]).any(axis=0)
        if not differs.any():
            return DecodedSecret(secret_of(extended[0]), frozenset(wrong))
        found, errors = _locate(points, rows[:, int(differs.argmax())].copy(), threshold)
        wrong.update(points[errors].tolist())
        if not found or len(wrong) - len(malformed) > correctable:
            raise BadShares(f"more than {correctable} shares are wrong, and no more could be corrected")
        points, rows = points[~errors], rows[~errors]


def _rows(shares: Mapping[int, bytes]) -> tuple[npt.NDArray[np.int64], Field]:
    """Return the points, ascending, and the values of the shares that are shares."""
    points = [point for point in sorted(shares) if len(shares[point]) == SHARE_BYTES]
    rows = np.frombuffer(b"".join(shares[point] for point in points), "<u8").reshape(-1, SHARE_BYTES // 8)
    within = (rows < _P).all(axis=1)
    return np.array(points, np.int64)[within], rows[within].astype(np.uint64)


@lru_cache(maxsize=256)
def _extension(points: tuple[int, ...], threshold: int) -> Field:
    matrix: Field = extension(np.array(points, np.int64), threshold)
    return matrix


@njit("uint64(uint64, uint64)", cache=True, nogil=True, inline="always")
def _subtract(a, b):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return the difference a - b mod p."""
    return a - b if a >= b else a + (_P - b)


@njit("uint64(uint64)", cache=True, nogil=True)
def _invert(a):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return the inverse by Fermat: a to the power of p - 2."""
    result, square, exponent = np.uint64(1), a, _P - np.uint64(2)
    while exponent:
        if exponent & np.uint64(1):
            result = multiply(result, square)
        square = multiply(square, square)
        exponent >>= np.uint64(1)
    return result


@njit("uint64[::1](int64)", cache=True, nogil=True)
def _inverses(most):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Write the inverses of 1 to `most` at their own places."""
    table = np.ones(most + 1, np.uint64)
    for i in range(2, most + 1):
        step = np.uint64(i)
        table[i] = _subtract(np.uint64(0), multiply(_P // step, table[np.int64(_P % step)]))
    return table


@njit("uint64(uint64[::1], int64)", cache=True, nogil=True, inline="always")
def _inverse_of(table, difference):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return the inverse of a small signed difference, from the table."""
    if difference >= 0:
        return table[difference]
    return _subtract(np.uint64(0), table[-difference])


@njit("uint64(int64)", cache=True, nogil=True, inline="always")
def _element(number):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return a small signed number as an element of the field."""
    return np.uint64(number) if number >= 0 else _subtract(np.uint64(0), np.uint64(-number))


@njit("uint64[:,::1](int64[::1], int64)", cache=True, nogil=True)
def extension(points, t):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Lagrange weights that turn values at the first t points into those at zero and at the other points."""
    table = _inverses(points.max())
    weights = np.ones(t, np.uint64)
    for i in range(t):
        for j in range(t):
            if i != j:
                weights[i] = multiply(weights[i], _inverse_of(table, points[i] - points[j]))
    matrix = np.empty((points.shape[0] - t + 1, t), np.uint64)
    for row in range(matrix.shape[0]):
        target = points[t + row - 1] if row else 0
        whole = np.uint64(1)
        for j in range(t):
            whole = multiply(whole, _element(target - points[j]))
        for i in range(t):
            matrix[row, i] = multiply(multiply(whole, weights[i]), _inverse_of(table, target - points[i]))
    return matrix


@njit("uint64[:,::1](uint64[:,::1], uint64[:,::1])", cache=True, nogil=True)
def _product(matrix, rows):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return the matrix product mod p."""
    result = np.zeros((matrix.shape[0], rows.shape[1]), np.uint64)
    for i in range(matrix.shape[0]):
        for k in range(matrix.shape[1]):
            for j in range(rows.shape[1]):
                result[i, j] = add(result[i, j], multiply(matrix[i, k], rows[k, j]))
    return result


@njit("int64(uint64[::1], int64)", cache=True, nogil=True)
def _degree(polynomial, most):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return the degree, -1 for zero; coefficients above `most` are zero."""
    while most >= 0 and polynomial[most] == 0:
        most -= 1
    return most


@njit("void(uint64[::1], uint64)", cache=True, nogil=True)
def _times_root(polynomial, root):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Multiply by (x - root) in place."""
    for i in range(polynomial.shape[0] - 1, 0, -1):
        polynomial[i] = _subtract(polynomial[i - 1], multiply(root, polynomial[i]))
    polynomial[0] = _subtract(np.uint64(0), multiply(root, polynomial[0]))


@njit("uint64[::1](int64[::1], uint64[::1], uint64[::1])", cache=True, nogil=True)
def _interpolate(points, values, table):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Return the polynomial of degree below m through m values, by Newton's divided differences; m + 1 coefficients."""
    m = points.shape[0]
    differences = values.copy()
    for k in range(1, m):
        for i in range(m - 1, k - 1, -1):
            rise = _subtract(differences[i], differences[i - 1])
            differences[i] = multiply(rise, _inverse_of(table, points[i] - points[i - k]))
    polynomial = np.zeros(m + 1, np.uint64)
    for i in range(m - 1, -1, -1):
        _times_root(polynomial, _element(points[i]))
        polynomial[0] = add(polynomial[0], differences[i])
    return polynomial


@njit("void(uint64[::1], uint64[::1], uint64, int64)", cache=True, nogil=True)
def _reduce(polynomial, other, factor, shift):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Subtract factor x^shift other in place; what would lie beyond the array is zero."""
    for i in range(polynomial.shape[0] - shift):
        polynomial[i + shift] = _subtract(polynomial[i + shift], multiply(factor, other[i]))


@njit("boolean(uint64[::1], uint64[::1], int64, uint64[::1])", cache=True, nogil=True)
def _correct(vanishing, received, t, message):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Gao's algorithm 1, steps 2 and 3: the message polynomial (t coefficients) and whether there is one."""
    m = vanishing.shape[0] - 1
    r0, r1 = vanishing.copy(), received.copy()
    v0, v1 = np.zeros(m + 1, np.uint64), np.zeros(m + 1, np.uint64)
    v1[0] = 1
    d0, d1 = m, _degree(r1, m)
    while 2 * d1 >= m + t:
        lead = _invert(r1[d1])
        while d0 >= d1:
            factor = multiply(r0[d0], lead)
            _reduce(r0, r1, factor, d0 - d1)
            _reduce(v0, v1, factor, d0 - d1)
            d0 = _degree(r0, d0)
        r0, r1, v0, v1, d0, d1 = r1, r0, v1, v0, d1, d0
    errors = _degree(v1, m)
    message[:] = 0
    lead = _invert(v1[errors])
    while d1 >= errors:
        if d1 - errors >= t:
            return False
        factor = multiply(r1[d1], lead)
        message[d1 - errors] = factor
        _reduce(r1, v1, factor, d1 - errors)
        d1 = _degree(r1, d1)
    return d1 < 0


@njit("Tuple((boolean, boolean[::1]))(int64[::1], uint64[::1], int64)", cache=True, nogil=True)
def _locate(points, values, t):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Decode one word: whether that was possible, and which of its values are wrong."""
    m = points.shape[0]
    vanishing, message, wrong = np.zeros(m + 1, np.uint64), np.zeros(t, np.uint64), np.zeros(m, np.bool_)
    vanishing[0] = 1
    for i in range(m):
        _times_root(vanishing, _element(points[i]))
    received = _interpolate(points, values, _inverses(points.max()))
    if not _correct(vanishing, received, t, message):
        return False, wrong
    for i in range(m):
        value, x = message[t - 1], _element(points[i])
        for power in range(t - 2, -1, -1):
            value = add(multiply(value, x), message[power])
        wrong[i] = value != values[i]
    return True, wrong
