"""Prio3: sums and counts whose inputs are proved to be in range.

Source: draft-irtf-cfrg-vdaf-18 to -20, section "Prio3" (version byte 18, which all three share); Lagrange encoding.
Shapes: a leader's input share is measurement share, proof shares and blind; a helper's is a seed and its blind. Where
the circuit uses no joint randomness there are no blinds, no public share and an empty verifier message.
"""

from collections.abc import Sequence
from typing import Any

from undersong.shared.vdaf.bases import Lagrange
from undersong.shared.vdaf.circuits import Circuit, Count, HistogramCircuit, MultihotCountVec, Sum, SumVec
from undersong.shared.vdaf.errors import VdafRejected
from undersong.shared.vdaf.field import FIELD128, Field, Vector
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.vdaf.flp import Flp
from undersong.shared.vdaf.scheme import Scheme, Usage
from undersong.shared.vdaf.vdaf import Octets, VerifyState, check_size, split_seeds
from undersong.shared.vdaf.xof import Xof, XofTurboShake128

_VERSION = 18


class Prio3(Scheme):
    """Prio3 over any circuit."""

    def __init__(
        self, algorithm: int, circuit: Circuit, shares: int, proofs: int = 1, xof: type[Xof] = XofTurboShake128
    ) -> None:
        super().__init__(circuit.field, xof, shares, circuit.output_length)
        if not 1 <= proofs <= 255:
            raise ValueError("there are 1 to 255 proofs")
        self.ID, self.PROOFS, self.circuit = algorithm, proofs, circuit
        self._flp = Flp(circuit, Lagrange())
        self._joint = circuit.joint_rand_length > 0
        self.RAND_SIZE = shares * xof.SEED_SIZE * (2 if self._joint else 1)

    @property
    def leader_share_size(self) -> int:
        """Bytes of the leader's input share."""
        numbers = self.circuit.measurement_length + self.PROOFS * self._flp.proof_length
        return self.field.size * numbers + (self.xof.SEED_SIZE if self._joint else 0)

    def shard(self, ctx: bytes, measurement: Any, nonce: bytes, rand: bytes) -> tuple[bytes, list[bytes]]:
        """Return the public share and one input share for each aggregator; raises `InputOutOfRange`."""
        check_size("nonce", nonce, self.NONCE_SIZE)
        check_size("randomness", rand, self.RAND_SIZE)
        encoded = self.circuit.encode(measurement)
        helpers, (*blinds, prove_seed) = self._seeds(rand)
        leader = encoded
        parts = [b""]
        for agg_id, (seed, *blind) in enumerate(helpers, 1):
            share = self._measurement_share(ctx, agg_id, seed)
            leader = self.field.subtract(leader, share)
            if self._joint:
                parts.append(self._joint_part(ctx, agg_id, blind[0], nonce, share))
        if self._joint:
            parts[0] = self._joint_part(ctx, 0, blinds[0], nonce, leader)
        proofs = self._prove(ctx, encoded, prove_seed, b"".join(parts))
        for agg_id, (seed, *_) in enumerate(helpers, 1):
            proofs = self.field.subtract(proofs, self._proofs_share(ctx, agg_id, seed))
        first = self.field.encode(leader) + self.field.encode(proofs) + b"".join(blinds)
        return b"".join(parts), [first, *(b"".join(seeds) for seeds in helpers)]

    def _seeds(self, rand: bytes) -> tuple[list[list[bytes]], list[bytes]]:
        """Return each helper's seeds; then the leader's blind, if any, and the prover's seed."""
        seeds, each = split_seeds(rand, self.xof.SEED_SIZE), 2 if self._joint else 1
        mine = (self.SHARES - 1) * each
        return [seeds[at : at + each] for at in range(0, mine, each)], seeds[mine:]

    def _prove(self, ctx: bytes, encoded: Vector, prove_seed: bytes, parts: bytes) -> Vector:
        flp = self._flp
        prove_rands = self._expand(ctx, Usage.PROVE_RANDOMNESS, prove_seed, b"", self.PROOFS * flp.prove_rand_length)
        joint_rands = self._joint_rands(ctx, self._joint_seed(ctx, parts))
        proofs = self.field.zeros(self.PROOFS * flp.proof_length)
        for k in range(self.PROOFS):
            flp.prove(
                encoded,
                part(prove_rands, k, flp.prove_rand_length),
                part(joint_rands, k, self.circuit.joint_rand_length),
                part(proofs, k, flp.proof_length),
            )
        return proofs

    def verify_init(
        self,
        verify_key: bytes,
        ctx: bytes,
        agg_id: int,
        agg_param: None,
        nonce: bytes,
        public_share: bytes,
        input_share: Octets,
    ) -> tuple[VerifyState, bytes]:
        """Return an aggregator's state and verifier share; raises `VdafMalformed` for bytes that no client sends."""
        size = self.xof.SEED_SIZE
        self._check_init(verify_key, agg_id, nonce)
        check_size("public share", public_share, size * self.SHARES if self._joint else 0)
        encoded, proofs, blind = self._open(ctx, agg_id, input_share)
        seed, own = b"", b""
        if self._joint:
            own = self._joint_part(ctx, agg_id, blind, nonce, encoded)
            seed = self._joint_seed(ctx, public_share[: agg_id * size] + own + public_share[(agg_id + 1) * size :])
        flp, circuit = self._flp, self.circuit
        joint_rands = self._joint_rands(ctx, seed)
        query_rands = self._expand(ctx, Usage.QUERY_RANDOMNESS, verify_key, nonce, self.PROOFS * flp.query_rand_length)
        verifier = self.field.zeros(self.PROOFS * flp.verifier_length)
        for k in range(self.PROOFS):
            flp.query(
                encoded,
                part(proofs, k, flp.proof_length),
                part(query_rands, k, flp.query_rand_length),
                part(joint_rands, k, circuit.joint_rand_length),
                self.SHARES,
                part(verifier, k, flp.verifier_length),
            )
        return VerifyState(circuit.truncate(encoded), seed), self.field.encode(verifier) + own

    def _open(self, ctx: bytes, agg_id: int, input_share: Octets) -> tuple[Vector, Vector, bytes]:
        """Measurement share, proof shares and blind out of an input share."""
        blind_size = self.xof.SEED_SIZE if self._joint else 0
        share, blind = input_share[: len(input_share) - blind_size], bytes(input_share[len(input_share) - blind_size :])
        if agg_id > 0:
            check_size("input share", input_share, self.xof.SEED_SIZE + blind_size)
            seed = bytes(share)
            return self._measurement_share(ctx, agg_id, seed), self._proofs_share(ctx, agg_id, seed), blind
        length = self.circuit.measurement_length
        check_size("input share", share, self.field.size * (length + self.PROOFS * self._flp.proof_length))
        numbers = self.field.decode(share)
        return numbers[:length], numbers[length:], blind

    def out_share(self, ctx: bytes, agg_id: int, input_share: Octets) -> Vector:
        """Return the output share of a report that was accepted, made again from its input share."""
        return self.circuit.truncate(self._open(ctx, agg_id, input_share)[0])

    def verifier_shares_to_message(self, ctx: bytes, agg_param: None, shares: Sequence[bytes]) -> bytes:
        """Decide from all aggregators' verifier shares; raises `VdafRejected`."""
        verifier, parts = self._sum_verifiers(shares, self.PROOFS * self._flp.verifier_length, 1 if self._joint else 0)
        for k in range(self.PROOFS):
            if not self._flp.decide(part(verifier, k, self._flp.verifier_length)):
                raise VdafRejected("the proof does not hold")
        return self._joint_seed(ctx, b"".join(parts[0])) if self._joint else b""

    @property
    def _seeds_size(self) -> int:
        return self.xof.SEED_SIZE if self._joint else 0

    def _joint_seed(self, ctx: bytes, parts: bytes) -> bytes:
        return self._derive(ctx, Usage.JOINT_RAND_SEED, bytes(self.xof.SEED_SIZE), parts) if self._joint else b""

    def _joint_part(self, ctx: bytes, agg_id: int, blind: bytes, nonce: bytes, share: Vector) -> bytes:
        return self._derive(ctx, Usage.JOINT_RAND_PART, blind, bytes([agg_id]) + nonce, self.field.encode(share))

    def _joint_rands(self, ctx: bytes, seed: bytes) -> Vector:
        length = self.circuit.joint_rand_length * self.PROOFS
        return self._expand(ctx, Usage.JOINT_RANDOMNESS, seed, b"", length) if self._joint else self.field.zeros(0)

    def _measurement_share(self, ctx: bytes, agg_id: int, seed: bytes) -> Vector:
        tag = self._tag(ctx, Usage.MEAS_SHARE)
        return self.xof.expand_into_vec(self.field, seed, tag, bytes([agg_id]), self.circuit.measurement_length)

    def _proofs_share(self, ctx: bytes, agg_id: int, seed: bytes) -> Vector:
        length = self.PROOFS * self._flp.proof_length
        return self._expand(ctx, Usage.PROOF_SHARE, seed, bytes([agg_id]), length)

    def _expand(self, ctx: bytes, usage: Usage, seed: bytes, binder: bytes, length: int) -> Vector:
        return self.xof.expand_into_vec(self.field, seed, self._tag(ctx, usage), bytes([self.PROOFS]) + binder, length)

    def _tag(self, ctx: bytes, usage: Usage) -> bytes:
        return bytes([_VERSION, 0]) + self.ID.to_bytes(4, "big") + usage.to_bytes(2, "big") + ctx

    def unshard(self, agg_param: None, agg_shares: Sequence[Vector], num_measurements: int) -> Any:
        """Return the aggregate result from all aggregators' shares."""
        return self.circuit.decode(self.merge(agg_param, agg_shares))


class Prio3Count(Prio3):
    """How many measurements are 1; each is 0 or 1."""

    def __init__(self, shares: int = 2) -> None:
        super().__init__(1, Count(FIELD64), shares)


class Prio3Sum(Prio3):
    """The sum of numbers from 0 to `max_measurement`."""

    def __init__(self, shares: int = 2, *, max_measurement: int) -> None:
        super().__init__(2, Sum(FIELD64, max_measurement), shares)


class Prio3SumVec(Prio3):
    """The sums of vectors of `length` numbers from 0 to `max_measurement`."""

    def __init__(self, shares: int = 2, *, length: int, max_measurement: int, chunk_length: int) -> None:
        super().__init__(3, SumVec(FIELD128, length, max_measurement, chunk_length), shares)


class Prio3SumVecWithMultiproof(Prio3):
    """`Prio3SumVec` with another field and several proofs; an experiment of the draft without an identifier."""

    def __init__(
        self,
        shares: int = 2,
        *,
        field: Field = FIELD64,
        num_proofs: int = 3,
        length: int,
        max_measurement: int,
        chunk_length: int,
    ) -> None:
        super().__init__(0xFFFFFFFF, SumVec(field, length, max_measurement, chunk_length), shares, num_proofs)


class Prio3Histogram(Prio3):
    """How many measurements fall in each of `length` buckets."""

    def __init__(self, shares: int = 2, *, length: int, chunk_length: int) -> None:
        super().__init__(4, HistogramCircuit(FIELD128, length, chunk_length), shares)


class Prio3MultihotCountVec(Prio3):
    """How often each of `length` flags is set; each measurement sets at most `max_weight`."""

    def __init__(self, shares: int = 2, *, length: int, max_weight: int, chunk_length: int) -> None:
        super().__init__(5, MultihotCountVec(FIELD128, length, max_weight, chunk_length), shares)


def part(vector: Vector, number: int, length: int) -> Vector:
    """Return the number-th stretch of `length` elements."""
    return vector[number * length : (number + 1) * length]
