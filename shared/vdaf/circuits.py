"""Validity circuits: what a measurement looks like as field elements, and which it may be.

Source: draft-irtf-cfrg-vdaf-18 to -20, section "Prio3 Variants" (Count, Sum, SumVec, Histogram, MultihotCountVec).
Shapes: an encoded measurement is [measurement_length]; every circuit here calls one gadget `calls` times with inputs
affine in the measurement, and its [outputs] are affine in measurement and gadget outputs; all zero means valid.
On one of `shares` additive shares, constants are divided by `shares`.
Departs: the circuit writes the gadget's inputs as a matrix [calls, arity] instead of calling it one by one.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from undersong.shared.vdaf.errors import InputOutOfRange
from undersong.shared.vdaf.field import Field, Vector
from undersong.shared.vdaf.gadgets import Gadget, Polynomial, ProductSum


class Circuit(ABC):
    """A measurement type: encoding, validity, and what of it is aggregated."""

    field: Field
    gadget: Gadget
    calls: int
    measurement_length: int
    output_length: int
    joint_rand_length: int = 0
    outputs: int = 1

    @abstractmethod
    def encode(self, measurement: Any) -> Vector:
        """Return the encoded measurement; raises `InputOutOfRange`."""

    @abstractmethod
    def truncate(self, encoded: Vector) -> Vector:
        """Return the part that is aggregated: [output_length]."""

    @abstractmethod
    def decode(self, aggregate: Vector) -> Any:
        """Return the aggregate result."""

    @abstractmethod
    def inputs(self, wires: Vector, encoded: Any, joint_rand: Vector, shares: int) -> None:
        """Write the gadget's inputs to wires[calls, arity], which hold zeros."""

    @abstractmethod
    def judge(self, encoded: Any, joint_rand: Vector, results: Vector, shares: int) -> list[int]:
        """Return the circuit's outputs from the gadget's `results` [calls]."""


class Count(Circuit):
    """A number that is 0 or 1."""

    calls = measurement_length = output_length = 1
    gadget = ProductSum(1)

    def __init__(self, field: Field) -> None:
        self.field = field

    def encode(self, measurement: int) -> Vector:
        if measurement not in (0, 1):
            raise InputOutOfRange(f"{measurement} is neither 0 nor 1")
        return self.field.vector([int(measurement)])

    def truncate(self, encoded: Vector) -> Vector:
        return encoded

    def decode(self, aggregate: Vector) -> int:
        return self.field.integers(aggregate)[0]

    def inputs(self, wires: Vector, encoded: Vector, joint_rand: Vector, shares: int) -> None:
        wires[0, 0:1] = encoded
        wires[0, 1:2] = encoded

    def judge(self, encoded: Vector, joint_rand: Vector, results: Vector, shares: int) -> list[int]:
        return self.field.integers(self.field.subtract(results, encoded))


class Sum(Circuit):
    """A number from 0 to `max_measurement`."""

    gadget = Polynomial((0, -1, 1))
    output_length = 1

    def __init__(self, field: Field, max_measurement: int) -> None:
        self.field = field
        self._weights = range_weights(field, max_measurement)
        self.max_measurement = max_measurement
        self.calls = self.measurement_length = self.outputs = len(self._weights)

    def encode(self, measurement: int) -> Vector:
        return self.field.vector(range_bits(measurement, self.max_measurement))

    def truncate(self, encoded: Vector) -> Vector:
        return self.field.vector([self.field.dot(encoded, self.field.vector(self._weights))])

    def decode(self, aggregate: Vector) -> int:
        return self.field.integers(aggregate)[0]

    def inputs(self, wires: Vector, encoded: Vector, joint_rand: Vector, shares: int) -> None:
        wires[:, 0] = encoded

    def judge(self, encoded: Vector, joint_rand: Vector, results: Vector, shares: int) -> list[int]:
        return self.field.integers(results)


class Bits(Circuit):
    """Elements that are each 0 or 1, checked `chunk_length` at a time; each chunk has its own joint randomness."""

    def __init__(self, field: Field, length: int, chunk_length: int) -> None:
        if chunk_length <= 0:
            raise ValueError("chunk_length must be positive")
        self.field = field
        self.gadget = ProductSum(chunk_length)
        self.measurement_length = length
        self.calls = self.joint_rand_length = -(-length // chunk_length)

    def inputs(self, wires: Vector, encoded: Vector, joint_rand: Vector, shares: int) -> None:
        width = self.gadget.arity // 2
        chunks = self.field.rows(encoded, width)
        power = joint_rand
        for column in range(width):
            wires[:, 2 * column] = self.field.multiply(power, chunks[:, column])
            power = self.field.multiply(power, joint_rand)
        wires[:, 1::2] = self.field.shift(chunks, -self.field.inverse(shares))

    def judge(self, encoded: Vector, joint_rand: Vector, results: Vector, shares: int) -> list[int]:
        return [self.field.total(results)]

    def decode(self, aggregate: Vector) -> list[int]:
        """Return the sum for each element."""
        return self.field.integers(aggregate)


class SumVec(Bits):
    """`length` numbers from 0 to `max_measurement`."""

    def __init__(self, field: Field, length: int, max_measurement: int, chunk_length: int) -> None:
        if length <= 0:
            raise ValueError("length must be positive")
        self._weights = range_weights(field, max_measurement)
        super().__init__(field, length * len(self._weights), chunk_length)
        self.length = self.output_length = length
        self.max_measurement = max_measurement

    def encode(self, measurement: Sequence[int]) -> Vector:
        check_count(len(measurement), self.length)
        return self.field.vector(bit for value in measurement for bit in range_bits(value, self.max_measurement))

    def truncate(self, encoded: Vector) -> Vector:
        bits = self.field.rows(encoded, len(self._weights))
        return self.field.combine(self.field.vector(self._weights), bits.swapaxes(0, 1).copy())


class HistogramCircuit(Bits):
    """One of `length` buckets."""

    outputs = 2

    def __init__(self, field: Field, length: int, chunk_length: int) -> None:
        if length <= 0:
            raise ValueError("length must be positive")
        super().__init__(field, length, chunk_length)
        self.length = self.output_length = length

    def encode(self, measurement: int) -> Vector:
        if not 0 <= measurement < self.length:
            raise InputOutOfRange(f"there is no bucket {measurement} in a histogram of {self.length}")
        return self.field.vector(int(bucket == measurement) for bucket in range(self.length))

    def truncate(self, encoded: Vector) -> Vector:
        return encoded

    def judge(self, encoded: Vector, joint_rand: Vector, results: Vector, shares: int) -> list[int]:
        field = self.field
        return [field.total(results), (field.total(encoded) - field.inverse(shares)) % field.modulus]


class MultihotCountVec(Bits):
    """`length` flags of which at most `max_weight` are set."""

    outputs = 2

    def __init__(self, field: Field, length: int, max_weight: int, chunk_length: int) -> None:
        if not 0 < max_weight <= length:
            raise ValueError("max_weight must be between 1 and length")
        self._weights = range_weights(field, max_weight)
        super().__init__(field, length + len(self._weights), chunk_length)
        self.length = self.output_length = length
        self.max_weight = max_weight

    def encode(self, measurement: Sequence[bool]) -> Vector:
        check_count(len(measurement), self.length)
        if any(flag not in (0, 1) for flag in measurement):
            raise InputOutOfRange("a flag is neither true nor false")
        flags = [int(flag) for flag in measurement]
        return self.field.vector(flags + range_bits(sum(flags), self.max_weight))

    def truncate(self, encoded: Vector) -> Vector:
        return encoded[: self.length]

    def judge(self, encoded: Vector, joint_rand: Vector, results: Vector, shares: int) -> list[int]:
        field = self.field
        reported = field.dot(encoded[self.length :], field.vector(self._weights))
        return [field.total(results), (field.total(encoded[: self.length]) - reported) % field.modulus]


def range_weights(field: Field, maximum: int) -> list[int]:
    """Weights of bits whose sums are exactly the numbers from 0 to `maximum`: powers of two and a last one."""
    if maximum <= 0 or 1 << maximum.bit_length() >= field.modulus:
        raise ValueError(f"the largest value must be positive and below half of {field.name}")
    lower = maximum.bit_length() - 1
    return [1 << bit for bit in range(lower)] + [maximum - (1 << lower) + 1]


def range_bits(value: int, maximum: int) -> list[int]:
    """Return the bits of `value` for `range_weights`."""
    if not 0 <= value <= maximum:
        raise InputOutOfRange(f"{value} is outside 0..{maximum}")
    lower = maximum.bit_length() - 1
    last = int(value > (1 << lower) - 1)
    rest = int(value) - last * (maximum - (1 << lower) + 1)
    return [rest >> bit & 1 for bit in range(lower)] + [last]


def check_count(given: int, length: int) -> None:
    """Raise `InputOutOfRange` unless a measurement has `length` elements."""
    if given != length:
        raise InputOutOfRange(f"the measurement has {given} elements, the task has {length}")
