"""How a proof writes its gadget polynomial: the two encodings, kept apart.

Source: `Monomial` is the FLP of VDAF drafts up to 13, which PINE-01 uses: coefficients, lowest first. `Lagrange` is
that of VDAF drafts 18 to 20: values at powers of a root of unity, without those that the degree already determines.
Shapes: the polynomial G has `length` = degree * (p - 1) + 1 coefficients, wires have p values, n is the least power of
two that is not below `length`; a proof carries `length` numbers either way.
"""

from functools import cache
from typing import Protocol

from undersong.shared.vdaf.field import Field, Vector


class Basis(Protocol):
    """An encoding of the gadget polynomial; `encoded` is [length]."""

    def write(self, field: Field, values: Vector, length: int) -> Vector:
        """From G's values at the n powers of the n-th root of unity to the encoding."""

    def outputs(self, field: Field, encoded: Vector, p: int) -> Vector:
        """G at the powers of the p-th root of unity: [p]."""

    def at(self, field: Field, encoded: Vector, t: int) -> int:
        """G(t)."""


class Monomial:
    """Coefficients."""

    def write(self, field: Field, values: Vector, length: int) -> Vector:
        return _column(field.transform(_as_column(values), inverse=True))[:length]

    def outputs(self, field: Field, encoded: Vector, p: int) -> Vector:
        folded = field.zeros(p)  # X**p is 1 at every one of the points
        for start in range(0, encoded.shape[0], p):
            part = encoded[start : start + p]
            folded[: part.shape[0]] = field.add(folded[: part.shape[0]], part)
        return _column(field.transform(_as_column(folded)))

    def at(self, field: Field, encoded: Vector, t: int) -> int:
        return field.dot(encoded, field.powers(t, encoded.shape[0]))


class Lagrange:
    """Values at the first `length` of n powers of the n-th root of unity."""

    def write(self, field: Field, values: Vector, length: int) -> Vector:
        return values[:length]

    def outputs(self, field: Field, encoded: Vector, p: int) -> Vector:
        values = self._all_values(field, encoded)
        return values[:: values.shape[0] // p]

    def at(self, field: Field, encoded: Vector, t: int) -> int:
        values = self._all_values(field, encoded)
        return field.dot(values, field.evaluation_weights(t, values.shape[0]))

    def _all_values(self, field: Field, encoded: Vector) -> Vector:
        length = encoded.shape[0]
        n = power_of_two(length)
        values = field.zeros(n)
        values[:length] = encoded
        for k, weights in enumerate(_missing(field, length, n)):
            values[length + k : length + k + 1] = field.vector([field.dot(encoded, weights)])
        return values


@cache
def _missing(field: Field, length: int, n: int) -> list[Vector]:
    """For each of the n - length values left out, the weights that give it from the others.

    Lagrange interpolation, with (X**n - 1)' = n / x at a root x of unity: the weight of the value at x_i in the one at
    x_k is -x_i M(x_i) / (x_k M(x_k)), where M is the product of X - x_m over the other points left out.
    """
    p, nodes = field.modulus, field.integers(field.powers(field.root(n), n))
    left_out = nodes[length:]
    rows = []
    for k, x in enumerate(left_out):
        others = [node for j, node in enumerate(left_out) if j != k]
        here = 1
        for other in others:
            here = here * (x - other) % p
        weights = []
        for node in nodes[:length]:
            there = 1
            for other in others:
                there = there * (node - other) % p
            weights.append(-node * there * pow(x * here, -1, p) % p)
        rows.append(field.vector(weights))
    return rows


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def _as_column(vector: Vector) -> Vector:
    return vector.reshape(vector.shape[0], 1, *vector.shape[1:])


def _column(matrix: Vector) -> Vector:
    return matrix.reshape(matrix.shape[0], *matrix.shape[2:])
