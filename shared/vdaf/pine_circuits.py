"""The two validity circuits of PINE: the norm is what the client says, and everything else.

Source: draft-chen-cfrg-vdaf-pine-01; Rothblum, Omri, Chen, Talwar, PINE: Efficient Norm-Bound Verification for
Secret-Shared Vectors (USENIX Security 2024), figures 1 and 2, remark 3.2. Symbols: B the norm bound, r = num_wr_checks.
Shapes: an encoded measurement is the gradient [d], then `bits`: those of S = sum v**2, of B**2 - S, and for each of
the r wraparound checks those of its result + W - 1 and its success bit. The r check results are not sent.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

from undersong.shared.vdaf.bases import power_of_two
from undersong.shared.vdaf.circuits import Circuit
from undersong.shared.vdaf.field import Field, Vector
from undersong.shared.vdaf.gadgets import ProductSum, Squares

ALPHA = 8.7
NUM_WR_CHECKS = 100


@dataclass(frozen=True)
class Encoded:
    """An encoded measurement or a share of it: gradient [d], bits [bit_checked_length], check results [r]."""

    gradient: Vector
    bits: Vector
    results: Vector


@dataclass(frozen=True)
class PineParameters:
    """What is proved: vectors of `dimension` integers (units of 2**-num_frac_bits) with L2 norm <= l2_norm_bound units.

    A check result is in range from -wr_bound + 1 to wr_bound; `num_wr_successes` of the checks must be.
    """

    field: Field
    l2_norm_bound: int
    num_frac_bits: int
    dimension: int
    alpha: float = ALPHA
    num_wr_checks: int = NUM_WR_CHECKS
    num_wr_successes: int = NUM_WR_CHECKS

    def __post_init__(self) -> None:
        p, name = self.field.modulus, self.field.name
        if not 0 < self.l2_norm_bound <= 2**62 or not 0 <= self.num_frac_bits < 128 or self.dimension <= 0:
            raise ValueError("norm bound and dimension must be positive, fractional bits from 0 to 127")
        if not 0 < self.num_wr_successes <= self.num_wr_checks:
            raise ValueError("num_wr_successes must be between 1 and num_wr_checks")
        if p <= 3 * self.squared_bound + 2:
            raise ValueError(f"the squared norm bound is too large for {name}: lower bound or fractional bits")
        if p < max(self.wr_bound**2 // 4000, 2600 * self.wr_bound, 2 * self.num_wr_checks):
            raise ValueError(f"wraparound checks need a larger field than {name}: lower bound or fractional bits")

    @property
    def squared_bound(self) -> int:
        """B**2."""
        return self.l2_norm_bound**2

    @property
    def norm_bits(self) -> int:
        """Bits of a squared norm."""
        return self.squared_bound.bit_length()

    @cached_property
    def wr_bound(self) -> int:
        """W: a power of two, so that a number of `wr_bits` bits is in range whatever it is."""
        return power_of_two(math.ceil(self.alpha * self.l2_norm_bound) + 1)

    @property
    def wr_bits(self) -> int:
        """Bits of a check result."""
        return (2 * self.wr_bound - 1).bit_length()

    @property
    def bit_checked_length(self) -> int:
        """How many elements must be 0 or 1."""
        return 2 * self.norm_bits + (self.wr_bits + 1) * self.num_wr_checks

    @property
    def norm_length(self) -> int:
        """Length of gradient and norm bits, which the wraparound randomness depends on."""
        return self.dimension + 2 * self.norm_bits

    @property
    def measurement_length(self) -> int:
        """Length of what is shared."""
        return self.dimension + self.bit_checked_length


class _PineCircuit(Circuit):
    """Common to both: PINE encodes and truncates outside its circuits, in steps."""

    def __init__(self, parameters: PineParameters) -> None:
        self.parameters, self.field = parameters, parameters.field
        self.measurement_length = parameters.measurement_length + parameters.num_wr_checks
        self.output_length = parameters.dimension

    def encode(self, measurement: Any) -> NoReturn:
        raise NotImplementedError("PINE encodes in steps")

    def truncate(self, encoded: Vector) -> Vector:
        return encoded[: self.output_length]

    def decode(self, aggregate: Vector) -> NoReturn:
        raise NotImplementedError("PINE decodes by itself")

    def _number(self, bits: Vector) -> int:
        return self.field.dot(bits, self.field.powers(2, bits.shape[0]))


class NormEquality(_PineCircuit):
    """The squared norm of the gradient, in the field, is the number S that the client sent in bits."""

    def __init__(self, parameters: PineParameters, chunk_length: int) -> None:
        super().__init__(parameters)
        self.gadget = Squares(chunk_length)
        self.calls = -(-parameters.dimension // chunk_length)

    def inputs(self, wires: Vector, encoded: Encoded, joint_rand: Vector, shares: int) -> None:
        gradient, width = encoded.gradient, self.gadget.arity
        whole = gradient.shape[0] // width
        wires[:whole] = gradient[: whole * width].reshape(whole, width, *gradient.shape[1:])
        if whole < self.calls:
            rest = gradient[whole * width :]
            wires[whole, : rest.shape[0]] = rest

    def judge(self, encoded: Encoded, joint_rand: Vector, results: Vector, shares: int) -> list[int]:
        claimed = self._number(encoded.bits[: self.parameters.norm_bits])
        return [(claimed - self.field.total(results)) % self.field.modulus]


class RangeChecks(_PineCircuit):
    """All bits are bits, S and B**2 - S sum to B**2, and the wraparound checks are as the client says."""

    joint_rand_length = 3

    def __init__(self, parameters: PineParameters, chunk_length: int) -> None:
        super().__init__(parameters)
        self.gadget = ProductSum(chunk_length)
        self._bit_calls = -(-parameters.bit_checked_length // chunk_length)
        self.calls = self._bit_calls - (-parameters.num_wr_checks // chunk_length)

    def inputs(self, wires: Vector, encoded: Encoded, joint_rand: Vector, shares: int) -> None:
        field, parameters = self.field, self.parameters
        share = field.inverse(shares)
        r_bits, r_checks, _ = field.integers(joint_rand)
        bits = encoded.bits
        scaled = field.multiply(field.powers(r_bits, bits.shape[0]), bits)
        self._fill(wires[: self._bit_calls], scaled, field.shift(bits, -share))
        numbers, successes = self._checks(encoded)
        claimed = field.shift(numbers, -(parameters.wr_bound - 1) * share)
        wrong = field.subtract(encoded.results, claimed)
        weighted = field.multiply(field.powers(r_checks, wrong.shape[0]), wrong)
        self._fill(wires[self._bit_calls :], weighted, successes)

    def judge(self, encoded: Encoded, joint_rand: Vector, results: Vector, shares: int) -> list[int]:
        field, parameters, bits = self.field, self.parameters, self.parameters.norm_bits
        share = field.inverse(shares)
        r = field.integers(joint_rand)[2]
        norm = self._number(encoded.bits[:bits]) + self._number(encoded.bits[bits : 2 * bits])
        _, successes = self._checks(encoded)
        result = field.total(results[: self._bit_calls])
        result += r * (norm - parameters.squared_bound * share)
        result += r * r * field.total(results[self._bit_calls :])
        result += r**3 * (field.total(successes) - parameters.num_wr_successes * share)
        return [result % field.modulus]

    def _checks(self, encoded: Encoded) -> tuple[Vector, Vector]:
        """Return the claimed check results + W - 1, and the success bits: both [r]."""
        parameters = self.parameters
        bits = self.field.rows(encoded.bits[2 * parameters.norm_bits :], parameters.wr_bits + 1)
        weights = self.field.powers(2, parameters.wr_bits)
        numbers = self.field.combine(weights, bits[:, : parameters.wr_bits].swapaxes(0, 1).copy())
        return numbers, bits[:, parameters.wr_bits].copy()

    def _fill(self, wires: Vector, left: Vector, right: Vector) -> None:
        """Pairs of factors, filled with zeros to whole rows."""
        width = self.gadget.arity // 2
        wires[:, 0::2], wires[:, 1::2] = self.field.rows(left, width), self.field.rows(right, width)
