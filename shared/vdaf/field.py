"""Prime fields with large power-of-two subgroups, as vectors.

Source: draft-irtf-cfrg-vdaf-18 to -20, section "Finite Fields"; Field32 and Field40 from draft-chen-cfrg-vdaf-pine-01.
Shapes: a vector's leading axis counts its elements, a matrix has rows and columns first; how an element lies in memory
is each field's own matter, so callers slice leading axes only. Scalars are Python integers in [0, modulus).
`IntegerField` is exact for any modulus and slow; `Field64` (see `field64`) is compiled.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from undersong.shared.vdaf.errors import VdafMalformed

Vector = npt.NDArray[Any]
Octets = bytes | bytearray | memoryview


class Field(ABC):
    """A field of prime order ``modulus``; ``generator`` has order ``2**log_order``, an element takes ``size`` bytes."""

    def __init__(self, name: str, modulus: int, generator: int, log_order: int, size: int) -> None:
        self.name, self.modulus, self.size = name, modulus, size
        self._generator, self._log_order = generator, log_order

    @cache  # noqa: B019  (a handful of fields live as long as the process)
    def root(self, n: int) -> int:
        """Return a primitive n-th root of unity; n is a power of two."""
        log = n.bit_length() - 1
        if n != 1 << log or log > self._log_order:
            raise ValueError(f"{self.name} has no root of unity of order {n}")
        return pow(self._generator, 1 << (self._log_order - log), self.modulus)

    def inverse(self, value: int) -> int:
        """1 / value."""
        return pow(value, -1, self.modulus)

    def rows(self, vector: Vector, width: int) -> Vector:
        """Return the vector cut into rows of `width` elements, the last filled with zeros."""
        count = -(-vector.shape[0] // width)
        whole = self.zeros(count * width)
        whole[: vector.shape[0]] = vector
        return whole.reshape(count, width, *vector.shape[1:])

    @abstractmethod
    def zeros(self, *shape: int) -> Vector:
        """Zeros."""

    @abstractmethod
    def vector(self, values: Iterable[int]) -> Vector:
        """Return a vector of integers of any size and sign, reduced."""

    def squared_norm(self, values: npt.NDArray[np.int64]) -> int:
        """Return the sum of squares of int64[n] over the integers; where it is 2**63 or more, roughly."""
        return sum(value * value for value in values.tolist())

    @abstractmethod
    def signed(self, values: npt.NDArray[np.int64]) -> Vector:
        """Return a vector from int64[n]."""

    @abstractmethod
    def integers(self, vector: Vector) -> list[int]:
        """Return the elements as Python integers in [0, modulus)."""

    @abstractmethod
    def encode(self, vector: Vector) -> bytes:
        """Little-endian, `size` bytes an element."""

    def octets(self, vector: Vector) -> Octets:
        """Return what `encode` gives, without a copy where that can be."""
        return self.encode(vector)

    @abstractmethod
    def decode(self, data: Octets) -> Vector:
        """Return the vector that `data` encodes, possibly a view of it; raises `VdafMalformed`."""

    @abstractmethod
    def sieve(self, data: Octets) -> Vector:
        """Rejection sampling: elements from random bytes, without those that are not below the modulus."""

    @abstractmethod
    def add(self, a: Vector, b: Vector) -> Vector:
        """Elementwise a + b."""

    @abstractmethod
    def subtract(self, a: Vector, b: Vector) -> Vector:
        """Elementwise a - b."""

    @abstractmethod
    def multiply(self, a: Vector, b: Vector) -> Vector:
        """Elementwise a * b."""

    @abstractmethod
    def shift(self, a: Vector, offset: int) -> Vector:
        """Elementwise a + offset."""

    @abstractmethod
    def add_into(self, total: Vector, a: Vector) -> None:
        """Elementwise total += a."""

    @abstractmethod
    def combine(self, weights: Vector, rows: Vector) -> Vector:
        """Weighted sum of rows: [k] and [k, m] to [m]."""

    @abstractmethod
    def dot(self, a: Vector, b: Vector) -> int:
        """Return the sum of a * b."""

    @abstractmethod
    def total(self, a: Vector) -> int:
        """Return the sum of a."""

    @abstractmethod
    def powers(self, base: int, n: int) -> Vector:
        """1, base, ..., base**(n - 1)."""

    @abstractmethod
    def transform(self, rows: Vector, *, inverse: bool = False) -> Vector:
        """Return the number-theoretic transform of each column of [n, m]: coefficients to values at powers of
        `root(n)`.
        """

    def between(self, rows: Vector) -> Vector:
        """From values at the powers of `root(n)` to those at odd powers of `root(2 n)`, for each column of [n, m]."""
        n = rows.shape[0]
        turned = [self.powers(self.root(2 * n), n)] * rows.shape[1]
        return self.transform(self.multiply(self.transform(rows, inverse=True), np.stack(turned, axis=1)))

    @abstractmethod
    def sum_products(self, rows: Vector) -> Vector:
        """For each row of [n, 2 m], the sum of products of neighbours: [n]."""

    @abstractmethod
    def sum_squares(self, rows: Vector) -> Vector:
        """For each row of [n, m], the sum of squares: [n]."""

    @abstractmethod
    def project(self, vector: Vector, bits: npt.NDArray[np.uint8]) -> Vector:
        """Return sums with coefficients -1, 0, 1 out of uint8[checks, ceil(d / 4)]: [d] to [checks].

        Two bits give one coefficient, low bits first: 00 is -1, 11 is 1, the others are 0.
        """

    def evaluation_weights(self, t: int, n: int) -> Vector:
        """Return what turns values at the powers of `root(n)` into the value at t, which is none of them
        (barycentric).
        """
        p, nodes = self.modulus, self.integers(self.powers(self.root(n), n))
        prefix = [1]
        for node in nodes:
            prefix.append(prefix[-1] * (t - node) % p)
        rest, weights = self.inverse(prefix[n]), [0] * n
        factor = (pow(t, n, p) - 1) * self.inverse(n) % p
        for k in range(n - 1, -1, -1):
            weights[k] = rest * prefix[k] % p * nodes[k] % p * factor % p
            rest = rest * (t - nodes[k]) % p
        return self.vector(weights)

    def check_canonical(self, good: bool) -> None:
        """Raise `VdafMalformed` unless every element was below the modulus."""
        if not good:
            raise VdafMalformed(f"a number is not below the modulus of {self.name}")

    def check_length(self, data: Octets) -> None:
        """Raise `VdafMalformed` for a part of an element."""
        if len(data) % self.size:
            raise VdafMalformed(f"the bytes end within an element of {self.name}")


class IntegerField(Field):
    """Any modulus: Python integers in object arrays."""

    def zeros(self, *shape: int) -> Vector:
        return np.zeros(shape, object)

    def vector(self, values: Iterable[int]) -> Vector:
        reduced = [int(value) % self.modulus for value in values]
        vector = np.zeros(len(reduced), object)
        vector[:] = reduced
        return vector

    def signed(self, values: npt.NDArray[np.int64]) -> Vector:
        return self.vector(values.tolist())

    def integers(self, vector: Vector) -> list[int]:
        return list(vector)

    def encode(self, vector: Vector) -> bytes:
        return b"".join(value.to_bytes(self.size, "little") for value in vector)

    def decode(self, data: Octets) -> Vector:
        self.check_length(data)
        values = self._read(data)
        self.check_canonical(all(value < self.modulus for value in values))
        return self.vector(values)

    def sieve(self, data: Octets) -> Vector:
        mask = (1 << self.modulus.bit_length()) - 1
        return self.vector(kept for value in self._read(data) if (kept := value & mask) < self.modulus)

    def _reduce(self, values: Any) -> Vector:
        reduced: Vector = values % self.modulus
        return reduced

    def _read(self, data: Octets) -> list[int]:
        return [int.from_bytes(data[at : at + self.size], "little") for at in range(0, len(data), self.size)]

    def add(self, a: Vector, b: Vector) -> Vector:
        return self._reduce(a + b)

    def subtract(self, a: Vector, b: Vector) -> Vector:
        return self._reduce(a - b)

    def multiply(self, a: Vector, b: Vector) -> Vector:
        return self._reduce(a * b)

    def shift(self, a: Vector, offset: int) -> Vector:
        return self._reduce(a + offset)

    def add_into(self, total: Vector, a: Vector) -> None:
        total[:] = (total + a) % self.modulus

    def combine(self, weights: Vector, rows: Vector) -> Vector:
        return self._reduce((weights[:, None] * rows).sum(axis=0))

    def dot(self, a: Vector, b: Vector) -> int:
        return int((a * b).sum() % self.modulus)

    def total(self, a: Vector) -> int:
        return int(a.sum() % self.modulus)

    def powers(self, base: int, n: int) -> Vector:
        values, power = [], 1
        for _ in range(n):
            values.append(power)
            power = power * base % self.modulus
        return self.vector(values)

    def transform(self, rows: Vector, *, inverse: bool = False) -> Vector:
        n, p = rows.shape[0], self.modulus
        root = self.root(n)
        values = self._transform(rows, self.inverse(root) if inverse else root)
        return values * self.inverse(n) % p if inverse else values

    def _transform(self, rows: Vector, root: int) -> Vector:
        if (n := rows.shape[0]) == 1:
            return rows
        square = root * root % self.modulus
        even, odd = self._transform(rows[::2], square), self._transform(rows[1::2], square)
        turned = odd * self.powers(root, n // 2)[:, None]
        return self._reduce(np.concatenate([even + turned, even - turned]))

    def sum_products(self, rows: Vector) -> Vector:
        return self._reduce((rows[:, 0::2] * rows[:, 1::2]).sum(axis=1))

    def sum_squares(self, rows: Vector) -> Vector:
        return self._reduce((rows * rows).sum(axis=1))

    def project(self, vector: Vector, bits: npt.NDArray[np.uint8]) -> Vector:
        pairs = np.stack([bits >> shift & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(bits.shape[0], -1)
        signs = np.array([-1, 0, 0, 1], object)[pairs[:, : vector.shape[0]]]
        return self._reduce((signs * vector).sum(axis=1))


FIELD32 = IntegerField("Field32", 4293918721, 3925978153, 20, 4)
FIELD40 = IntegerField("Field40", 2**20 * 1048555 + 1, pow(7, 1048555, 2**20 * 1048555 + 1), 20, 5)
_P128 = 2**66 * 4611686018427387897 + 1
FIELD128 = IntegerField("Field128", _P128, pow(7, 4611686018427387897, _P128), 66, 16)
