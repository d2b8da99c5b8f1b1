"""Field64: vectors are uint64[n] in [0, p), matrices uint64[n, m], computed by `kernels64`."""

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from undersong.shared.fields import kernels64 as kernels
from undersong.shared.fields.field64 import P
from undersong.shared.vdaf import projections64
from undersong.shared.vdaf.field import Field, Octets, Vector

_WORD = np.dtype("<u8")


class Field64(Field):
    """The prime field of order 2**64 - 2**32 + 1."""

    def zeros(self, *shape: int) -> Vector:
        return np.zeros(shape, np.uint64)

    def vector(self, values: Iterable[int]) -> Vector:
        return np.array([int(value) % P for value in values], np.uint64)

    def squared_norm(self, values: npt.NDArray[np.int64]) -> int:
        rough, exact = kernels.squared_norm(np.ascontiguousarray(values, np.int64))
        return int(exact) if rough < 2.0**63 else math.ceil(rough)

    def signed(self, values: npt.NDArray[np.int64]) -> Vector:
        out = np.empty(values.shape[0], np.uint64)
        kernels.from_signed(out, np.ascontiguousarray(values, np.int64))
        return out

    def integers(self, vector: Vector) -> list[int]:
        integers: list[int] = vector.tolist()
        return integers

    def encode(self, vector: Vector) -> bytes:
        return bytes(self.octets(vector))

    def octets(self, vector: Vector) -> memoryview:
        return np.ascontiguousarray(vector, _WORD).view(np.uint8).data

    def decode(self, data: Octets) -> Vector:
        self.check_length(data)
        vector = np.frombuffer(data, _WORD)
        if not vector.flags.aligned:
            vector = vector.copy()
        self.check_canonical(kernels.canonical(vector))
        return vector

    def sieve(self, data: Octets) -> Vector:
        vector = np.frombuffer(data, _WORD)
        return vector if kernels.canonical(vector) else vector[vector < P]

    def add(self, a: Vector, b: Vector) -> Vector:
        return self._elementwise(kernels.add_vectors, a, b)

    def subtract(self, a: Vector, b: Vector) -> Vector:
        return self._elementwise(kernels.subtract_vectors, a, b)

    def multiply(self, a: Vector, b: Vector) -> Vector:
        return self._elementwise(kernels.multiply_vectors, a, b)

    def _elementwise(self, kernel: object, a: Vector, b: Vector) -> Vector:
        if a.shape != b.shape:
            raise ValueError(f"vectors of shapes {a.shape} and {b.shape}")
        out = np.empty(a.shape, np.uint64)
        kernel(out.reshape(-1), np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1))  # type: ignore[operator]
        return out

    def shift(self, a: Vector, offset: int) -> Vector:
        out = np.empty(a.shape, np.uint64)
        kernels.shift_vector(out.reshape(-1), np.ascontiguousarray(a).reshape(-1), np.uint64(offset % P))
        return out

    def add_into(self, total: Vector, a: Vector) -> None:
        if total.shape != a.shape:
            raise ValueError(f"vectors of shapes {total.shape} and {a.shape}")
        kernels.add_vectors(total, total, a)

    def combine(self, weights: Vector, rows: Vector) -> Vector:
        out = np.zeros(rows.shape[1], np.uint64)
        kernels.combine(out, weights, rows)
        return out

    def dot(self, a: Vector, b: Vector) -> int:
        if a.shape != b.shape:
            raise ValueError(f"vectors of shapes {a.shape} and {b.shape}")
        return int(kernels.dot(np.ascontiguousarray(a), np.ascontiguousarray(b)))

    def total(self, a: Vector) -> int:
        return int(kernels.total(np.ascontiguousarray(a)))

    def powers(self, base: int, n: int) -> Vector:
        out = np.empty(n, np.uint64)
        kernels.powers(out, np.uint64(base))
        return out

    def transform(self, rows: Vector, *, inverse: bool = False) -> Vector:
        n, out = rows.shape[0], np.empty(rows.shape, np.uint64)
        kernels.transform(out, rows, _order(n), self._roots(n, inverse))
        if inverse:
            kernels.scale(out, np.uint64(self.inverse(n)))
        return out

    def between(self, rows: Vector) -> Vector:
        n, out = rows.shape[0], np.empty(rows.shape, np.uint64)
        tables = self._roots(n, inverse=True), self._between_factors(n), self._roots(n, inverse=False)
        kernels.between(out, rows, _order(n), *tables)
        return out

    @cache  # noqa: B019  (one field, a few sizes)
    def _roots(self, n: int, inverse: bool) -> Vector:
        root = self.root(n)
        return self.powers(self.inverse(root) if inverse else root, max(n // 2, 1))

    @cache  # noqa: B019
    def _between_factors(self, n: int) -> Vector:
        factors = self.powers(self.root(2 * n), n)
        kernels.scale(factors.reshape(n, 1), np.uint64(self.inverse(n)))
        return factors

    def sum_products(self, rows: Vector) -> Vector:
        out = np.empty(rows.shape[0], np.uint64)
        kernels.sum_products(out, rows)
        return out

    def sum_squares(self, rows: Vector) -> Vector:
        out = np.empty(rows.shape[0], np.uint64)
        kernels.sum_squares(out, rows)
        return out

    def project(self, vector: Vector, bits: npt.NDArray[np.uint8]) -> Vector:
        out = np.empty(bits.shape[0], np.uint64)
        projections64.project(out, np.ascontiguousarray(vector), bits)
        return out


@cache
def _order(n: int) -> npt.NDArray[np.int64]:
    """Return the permutation of 0 .. n - 1 that reverses the bits of an index."""
    order = np.zeros(1, np.int64)
    while order.size < n:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


FIELD64 = Field64("Field64", P, pow(7, 4294967295, P), 32, 8)
