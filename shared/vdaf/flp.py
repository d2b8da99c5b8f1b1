"""Fully linear proofs: a validity circuit's measurement is valid, shown on additive shares of it and of the proof.

Source: Boneh, Boyle, Corrigan-Gibbs, Gilboa, Ishai (CRYPTO 2019), theorem 4.3, as in draft-irtf-cfrg-vdaf-18 to -20,
section "FLP Specification". The gadget polynomial's encoding is a `Basis`.
Shapes: a proof is [proof_length]: a seed for each wire, then the gadget polynomial; a verifier share is
[verifier_length]: the circuit's output, the wires at a random point t, the gadget polynomial at t.
"""

from typing import Any

from undersong.shared.vdaf.bases import Basis, power_of_two
from undersong.shared.vdaf.circuits import Circuit
from undersong.shared.vdaf.errors import VdafRejected
from undersong.shared.vdaf.field import Vector

_COLUMNS = 16  # wires transformed together, a whole number of summands: they stay in a core's cache


class Flp:
    """The proof system of one circuit in one encoding."""

    def __init__(self, circuit: Circuit, basis: Basis) -> None:
        self.circuit, self.basis, self.field = circuit, basis, circuit.field
        self._p = power_of_two(1 + circuit.calls)
        self._poly_length = circuit.gadget.degree * (self._p - 1) + 1
        self.prove_rand_length = circuit.gadget.arity
        self.query_rand_length = 1 + (circuit.outputs if circuit.outputs > 1 else 0)
        self.proof_length = circuit.gadget.arity + self._poly_length
        self.verifier_length = circuit.gadget.arity + 2

    def prove(self, encoded: Any, prove_rand: Vector, joint_rand: Vector, out: Vector) -> None:
        """Write the proof of an encoded measurement to out[proof_length]."""
        wires = self._wires(encoded, prove_rand, joint_rand, 1)
        values = self._gadget_values(wires)
        out[: self.prove_rand_length] = prove_rand
        out[self.prove_rand_length :] = self.basis.write(self.field, values, self._poly_length)

    def query(
        self, encoded: Any, proof: Vector, query_rand: Vector, joint_rand: Vector, shares: int, out: Vector
    ) -> None:
        """Write the verifier share of one share of measurement and proof to out[verifier_length]."""
        field, circuit = self.field, self.circuit
        seeds, polynomial = proof[: circuit.gadget.arity], proof[circuit.gadget.arity :]
        results = self.basis.outputs(field, polynomial, self._p)[1 : 1 + circuit.calls]
        outputs = circuit.judge(encoded, joint_rand, results, shares)
        point = field.integers(query_rand)[-1]
        if pow(point, self._p, field.modulus) == 1:
            raise VdafRejected("the query point is a root of unity: shard again")
        if circuit.outputs > 1:
            outputs = [field.dot(query_rand[:-1], field.vector(outputs))]
        out[0:1] = field.vector(outputs)
        wires = self._wires(encoded, seeds, joint_rand, shares)
        out[1:-1] = field.combine(field.evaluation_weights(point, self._p), wires)
        out[-1:] = field.vector([self.basis.at(field, polynomial, point)])

    def decide(self, verifier: Vector) -> bool:
        """Return whether the sum of all verifier shares accepts."""
        gadget, field = self.circuit.gadget, self.field
        wires = verifier[1:-1].reshape(1, *verifier[1:-1].shape)
        result, claimed = field.integers(gadget.evaluate(field, wires))[0], field.integers(verifier[-1:])[0]
        return field.integers(verifier[:1])[0] == 0 and result == claimed

    def _wires(self, encoded: Any, seeds: Vector, joint_rand: Vector, shares: int) -> Vector:
        """Return the values of all wires at the p-th roots of unity: [p, arity]; seeds, calls, zeros."""
        wires = self.field.zeros(self._p, self.circuit.gadget.arity)
        wires[0] = seeds
        self.circuit.inputs(wires[1 : 1 + self.circuit.calls], encoded, joint_rand, shares)
        return wires

    def _gadget_values(self, wires: Vector) -> Vector:
        """Return the gadget of the wire polynomials, at the n powers of the n-th root of unity: [n]."""
        field, gadget, p = self.field, self.circuit.gadget, self._p
        n, arity = power_of_two(self._poly_length), wires.shape[1]
        values = field.zeros(n)
        if n != 2 * p:
            padded = field.zeros(n, arity)
            padded[:p] = field.transform(wires, inverse=True)
            return gadget.evaluate(field, field.transform(padded))
        values[0::2] = gadget.evaluate(field, wires)
        odd = field.zeros(p)
        for start in range(0, arity, _COLUMNS):
            field.add_into(odd, gadget.evaluate(field, field.between(wires[:, start : start + _COLUMNS])))
        values[1::2] = odd
        return values
