"""Field64: vectors are uint64[n] in [0, p), matrices uint64[n, m], computed by `kernels64`."""

from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from shared.secagg.field64 import P
from shared.vdaf import kernels64 as kernels
from shared.vdaf.field import Field, Octets, Vector

_WORD = np.dtype("<u8")


class Field64(Field):
    """The prime field of order 2**64 - 2**32 + 1."""

    def zeros(self, *shape: int) -> Vector:
        return np.zeros(shape, np.uint64)

    def vector(self, values: Iterable[int]) -> Vector:
        return np.array([int(value) % P for value in values], np.uint64)

    def signed(self, values: npt.NDArray[np.int64]) -> Vector:
        out = np.empty(values.shape[0], np.uint64)
        kernels.from_signed(out, np.ascontiguousarray(values, np.int64))
        return out

    def integers(self, vector: Vector) -> list[int]:
        integers: list[int] = vector.tolist()
        return integers

    def encode(self, vector: Vector) -> bytes:
        return vector.astype(_WORD, copy=False).tobytes()

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
        out = rows.copy()
        kernels.transform(out, self._roots(rows.shape[0], inverse))
        if inverse:
            kernels.scale_rows(out, np.full(rows.shape[0], self.inverse(rows.shape[0]), np.uint64))
        return out

    @cache  # noqa: B019  (one field, a few sizes)
    def _roots(self, n: int, inverse: bool) -> Vector:
        root = self.root(n)
        return self.powers(self.inverse(root) if inverse else root, max(n // 2, 1))

    def sum_products(self, rows: Vector) -> Vector:
        out = np.zeros(rows.shape[0], np.uint64)
        kernels.sum_products(out, rows)
        return out

    def sum_squares(self, rows: Vector) -> Vector:
        out = np.zeros(rows.shape[0], np.uint64)
        kernels.sum_squares(out, rows)
        return out

    def project(self, vector: Vector, bits: npt.NDArray[np.uint8]) -> Vector:
        out = np.empty(bits.shape[0], np.uint64)
        kernels.project(out, np.ascontiguousarray(vector), bits)
        return out


FIELD64 = Field64("Field64", P, pow(7, 4294967295, P), 32, 8)
