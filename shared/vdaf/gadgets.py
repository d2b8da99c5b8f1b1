"""Gadgets: the non-linear pieces of a validity circuit, which a proof speaks about.

Source: draft-irtf-cfrg-vdaf-18 to -20, "FLP Specification"; `ProductSum` is its ParallelSum over Mul (Mul itself
when count is 1), `Squares` ParallelSum over PolyEval([0, 0, 1]).
Shapes: a gadget maps rows of inputs [n, arity] to one value a row, [n].
"""

from dataclasses import dataclass
from typing import Protocol

from undersong.shared.vdaf.field import Field, Vector


class Gadget(Protocol):
    """A polynomial in `arity` variables of total degree `degree`.

    One of degree 2 is a sum over inputs, or over pairs of them.
    """

    @property
    def arity(self) -> int: ...
    @property
    def degree(self) -> int: ...

    def evaluate(self, field: Field, rows: Vector) -> Vector:
        """Return one value for each row of inputs; of a sum, any even number of inputs may be given."""


@dataclass(frozen=True)
class ProductSum:
    """The sum of `count` products of two inputs."""

    count: int
    degree = 2

    @property
    def arity(self) -> int:
        return 2 * self.count

    def evaluate(self, field: Field, rows: Vector) -> Vector:
        return field.sum_products(rows)


@dataclass(frozen=True)
class Squares:
    """The sum of `count` squares."""

    count: int
    degree = 2

    @property
    def arity(self) -> int:
        return self.count

    def evaluate(self, field: Field, rows: Vector) -> Vector:
        return field.sum_squares(rows)


@dataclass(frozen=True)
class Polynomial:
    """One polynomial of one input, coefficients lowest first."""

    coefficients: tuple[int, ...]
    arity = 1

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1

    def evaluate(self, field: Field, rows: Vector) -> Vector:
        inputs = rows[:, 0]
        value = field.zeros(inputs.shape[0])
        for coefficient in reversed(self.coefficients):
            value = field.shift(field.multiply(value, inputs), coefficient)
        return value
