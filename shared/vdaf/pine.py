"""PINE: sums of vectors whose L2 norm is proved to be bounded, and nothing else about them is shown.

Source: draft-chen-cfrg-vdaf-pine-01; Rothblum, Omri, Chen, Talwar (USENIX Security 2024). Monomial proof encoding.
Shapes: a leader's input share is measurement share, proof shares and two blinds; a helper's is four seeds. The public
share is every aggregator's wraparound part, then every aggregator's verification part.
Departs: the domain separation tag ends with `ctx`, as in VDAF drafts 13 and later; the published vectors are those of
an empty one. Integers are accepted as well as floats (`shard_integers`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.shared.vdaf.bases import Monomial
from undersong.shared.vdaf.errors import FreshRandomnessNeeded, InputNotFinite, InputOutOfRange, VdafRejected
from undersong.shared.vdaf.field import Vector
from undersong.shared.vdaf.flp import Flp
from undersong.shared.vdaf.pine_circuits import Encoded, NormEquality, PineParameters, RangeChecks
from undersong.shared.vdaf.scheme import Scheme, Usage
from undersong.shared.vdaf.vdaf import Octets, VerifyState, check_size, split_seeds
from undersong.shared.vdaf.xof import Xof, XofHmacSha256Aes128

_VERSION: Final = 1
TEST_ID: Final = 0xFFFFFFFF
"""The algorithm's number in the draft's own test vectors."""
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Seeds:
    measurement: bytes
    proofs: bytes
    wr_blind: bytes
    vf_blind: bytes

    def encode(self) -> bytes:
        return self.measurement + self.proofs + self.wr_blind + self.vf_blind


class Pine(Scheme):
    """PINE over any field and XOF; parameters are named and counted as in the published vectors."""

    def __init__(
        self,
        parameters: PineParameters,
        *,
        chunk_length: int,
        chunk_length_norm_equality: int,
        num_proofs: int,
        num_proofs_norm_equality: int = 1,
        num_shares: int = 2,
        xof: type[Xof] = XofHmacSha256Aes128,
        algorithm: int = TEST_ID,
    ) -> None:
        super().__init__(parameters.field, xof, num_shares, parameters.dimension)
        if not 1 <= num_proofs <= 255 or not 1 <= num_proofs_norm_equality <= 255:
            raise ValueError("there are 1 to 255 proofs of each kind")
        self.ID, self.parameters = algorithm, parameters
        self.PROOFS, self.PROOFS_NORM_EQUALITY = num_proofs, num_proofs_norm_equality
        self._norm = Flp(NormEquality(parameters, chunk_length_norm_equality), Monomial())
        self._rest = Flp(RangeChecks(parameters, chunk_length), Monomial())
        self._flps = [self._norm] * num_proofs_norm_equality + [self._rest] * num_proofs
        self.RAND_SIZE = (1 + 2 * (num_shares - 1) + 2 * num_shares) * xof.SEED_SIZE

    # Client

    def quantise(self, measurement: Sequence[float] | npt.NDArray[np.float64]) -> Integers:
        """Floats to the nearest integers in units of 2**-num_frac_bits; raises `InputNotFinite`, `InputOutOfRange`."""
        values = np.asarray(measurement, np.float64)
        if not np.isfinite(values).all():
            raise InputNotFinite("the measurement holds a value that is not a finite number")
        if ((values != 0) & (np.abs(values) < np.finfo(np.float64).tiny)).any():
            raise InputOutOfRange("the measurement holds a subnormal number: round it to zero")
        scaled = np.rint(values * 2.0**self.parameters.num_frac_bits)
        if scaled.size and np.abs(scaled).max() > self.parameters.l2_norm_bound:
            raise InputOutOfRange("a coordinate alone is larger than the norm bound")
        return scaled.astype(np.int64)

    def shard(
        self, ctx: bytes, measurement: Sequence[float] | npt.NDArray[np.float64], nonce: bytes, rand: bytes
    ) -> tuple[bytes, list[bytes]]:
        """Shard a float vector [d]; raises `InputNotFinite`, `InputOutOfRange`, `FreshRandomnessNeeded`."""
        return self.shard_integers(ctx, self.quantise(measurement), nonce, rand)

    def shard_integers(self, ctx: bytes, vector: Integers, nonce: bytes, rand: bytes) -> tuple[bytes, list[bytes]]:
        """Shard int64[d] with ||vector|| <= l2_norm_bound; raises `InputOutOfRange`, `FreshRandomnessNeeded`."""
        check_size("nonce", nonce, self.NONCE_SIZE)
        check_size("randomness", rand, self.RAND_SIZE)
        squared = self._squared_norm(vector)
        field, parameters = self.field, self.parameters
        d, head = parameters.dimension, parameters.norm_length
        helpers, wr_blind, vf_blind, prove_seed = self._seeds(rand)
        masks = [self._measurement_share(ctx, j, seeds.measurement) for j, seeds in enumerate(helpers, 1)]
        measurement = field.zeros(parameters.measurement_length)
        measurement[:d] = field.signed(vector)
        measurement[d:head] = field.vector(self._norm_bits(squared))
        leader = measurement[:head]
        for mask in masks:
            leader = field.subtract(leader, mask[:head])
        wr_blinds = [wr_blind, *(seeds.wr_blind for seeds in helpers)]
        wr_parts = self._parts(ctx, Usage.WR_JOINT_RAND_PART, wr_blinds, nonce, [leader, *masks])
        results = self._project(ctx, b"".join(wr_parts), measurement[:d])
        measurement[head:] = field.vector(self._check_bits(field.integers(results)))
        rest = measurement[head:]
        for mask in masks:
            rest = field.subtract(rest, mask[head:])
        leader = np.concatenate([leader, rest])
        vf_blinds = [vf_blind, *(seeds.vf_blind for seeds in helpers)]
        vf_parts = self._parts(ctx, Usage.JOINT_RAND_PART, vf_blinds, nonce, [leader, *masks])
        encoded = Encoded(measurement[:d], measurement[d:], results)
        proofs = self._prove(ctx, encoded, prove_seed, self._joint_seed(ctx, Usage.JOINT_RAND_SEED, vf_parts))
        for j, seeds in enumerate(helpers, 1):
            proofs = field.subtract(proofs, self._proofs_share(ctx, j, seeds.proofs))
        first = b"".join([field.octets(leader), field.octets(proofs), wr_blind, vf_blind])
        return b"".join(wr_parts + vf_parts), [first, *(seeds.encode() for seeds in helpers)]

    def _squared_norm(self, vector: Integers) -> int:
        parameters = self.parameters
        if vector.shape != (parameters.dimension,):
            raise InputOutOfRange(f"the vector has shape {vector.shape}, the task {parameters.dimension} coordinates")
        squared = self.field.squared_norm(vector)
        if squared > parameters.squared_bound:
            norm, bound = math.sqrt(squared), parameters.l2_norm_bound
            raise InputOutOfRange(f"the vector's norm is {norm:.9g} units, the bound is {bound}")
        return squared

    def _norm_bits(self, squared: int) -> list[int]:
        """Return the bits of S and of B**2 - S."""
        bits, bound = self.parameters.norm_bits, self.parameters.squared_bound
        return _bits(squared, bits) + _bits(bound - squared, bits)

    def _seeds(self, rand: bytes) -> tuple[list[_Seeds], bytes, bytes, bytes]:
        """Return each helper's seeds; the leader's blinds; the prover's seed."""
        seeds = split_seeds(rand, self.xof.SEED_SIZE)
        mine = 4 * (self.SHARES - 1)
        helpers = [_Seeds(*seeds[at : at + 4]) for at in range(0, mine, 4)]
        return helpers, seeds[mine], seeds[mine + 1], seeds[mine + 2]

    def _check_bits(self, results: Sequence[int]) -> list[int]:
        """For each check the bits of its result + W - 1 and its success bit."""
        parameters, p, successes = self.parameters, self.field.modulus, 0
        bits: list[int] = []
        for result in results:
            number = (result + parameters.wr_bound - 1) % p
            success = number < 2 * parameters.wr_bound and successes < parameters.num_wr_successes
            successes += success
            bits += [*_bits(number if number < 2 * parameters.wr_bound else 0, parameters.wr_bits), int(success)]
        if successes != parameters.num_wr_successes:
            raise FreshRandomnessNeeded("too few wraparound checks are in range: shard again with fresh randomness")
        return bits

    def _prove(self, ctx: bytes, encoded: Encoded, prove_seed: bytes, joint_seed: bytes) -> Vector:
        prove_rands = self._expand(
            ctx, Usage.PROVE_RANDOMNESS, prove_seed, b"", sum(flp.prove_rand_length for flp in self._flps)
        )
        joint_rands = self._joint_rands(ctx, joint_seed)
        proofs = self.field.zeros(self._proofs_length)
        at_proof = at_rand = at_joint = 0
        for flp in self._flps:
            joint = flp.circuit.joint_rand_length
            flp.prove(
                encoded,
                prove_rands[at_rand : at_rand + flp.prove_rand_length],
                joint_rands[at_joint : at_joint + joint],
                proofs[at_proof : at_proof + flp.proof_length],
            )
            at_proof, at_rand, at_joint = at_proof + flp.proof_length, at_rand + flp.prove_rand_length, at_joint + joint
        return proofs

    # Aggregators

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
        """Return an aggregator's state and verifier share; the leader's out share may be a view of `input_share`.

        Raises `VdafMalformed` for bytes that no client sends.
        """
        self._check_init(verify_key, agg_id, nonce)
        check_size("public share", public_share, 2 * self.SHARES * self.xof.SEED_SIZE)
        parts = split_seeds(public_share, self.xof.SEED_SIZE)
        wr_parts, vf_parts = parts[: self.SHARES], parts[self.SHARES :]
        share, proofs, wr_blind, vf_blind = self._open(ctx, agg_id, input_share)
        d, head = self.parameters.dimension, self.parameters.norm_length
        wr_parts[agg_id] = self._part(ctx, Usage.WR_JOINT_RAND_PART, agg_id, wr_blind, nonce, share[:head])
        vf_parts[agg_id] = self._part(ctx, Usage.JOINT_RAND_PART, agg_id, vf_blind, nonce, share)
        encoded = Encoded(share[:d], share[d:], self._project(ctx, b"".join(wr_parts), share[:d]))
        joint_seed = self._joint_seed(ctx, Usage.JOINT_RAND_SEED, vf_parts)
        verifier = self._query(ctx, encoded, proofs, joint_seed, verify_key, nonce)
        seeds = self._joint_seed(ctx, Usage.WR_JOINT_RAND_SEED, wr_parts) + joint_seed
        return VerifyState(share[:d], seeds), self.field.encode(verifier) + wr_parts[agg_id] + vf_parts[agg_id]

    def _open(self, ctx: bytes, agg_id: int, input_share: Octets) -> tuple[Vector, Vector, bytes, bytes]:
        """Measurement share, proof shares and the two blinds out of an input share."""
        size = self.xof.SEED_SIZE
        if agg_id > 0:
            check_size("input share", input_share, 4 * size)
            seeds = _Seeds(*split_seeds(input_share, size))
            share = self._measurement_share(ctx, agg_id, seeds.measurement)
            return share, self._proofs_share(ctx, agg_id, seeds.proofs), seeds.wr_blind, seeds.vf_blind
        length = self.parameters.measurement_length
        numbers_size = self.field.size * (length + self._proofs_length)
        check_size("input share", input_share, numbers_size + 2 * size)
        numbers = self.field.decode(memoryview(input_share)[:numbers_size])
        wr_blind, vf_blind = split_seeds(input_share[numbers_size:], size)
        return numbers[:length], numbers[length:], wr_blind, vf_blind

    def _query(
        self, ctx: bytes, encoded: Encoded, proofs: Vector, joint_seed: bytes, verify_key: bytes, nonce: bytes
    ) -> Vector:
        query_rands = self._expand(
            ctx, Usage.QUERY_RANDOMNESS, verify_key, nonce, sum(flp.query_rand_length for flp in self._flps)
        )
        joint_rands = self._joint_rands(ctx, joint_seed)
        verifier = self.field.zeros(self._verifiers_length)
        at_proof = at_joint = at_out = 0
        for number, flp in enumerate(self._flps):
            joint = flp.circuit.joint_rand_length
            flp.query(
                encoded,
                proofs[at_proof : at_proof + flp.proof_length],
                query_rands[number : number + 1],
                joint_rands[at_joint : at_joint + joint],
                self.SHARES,
                verifier[at_out : at_out + flp.verifier_length],
            )
            at_proof, at_joint, at_out = at_proof + flp.proof_length, at_joint + joint, at_out + flp.verifier_length
        return verifier

    def verifier_shares_to_message(self, ctx: bytes, agg_param: None, shares: Sequence[bytes]) -> bytes:
        """Decide from all aggregators' verifier shares; raises `VdafRejected`."""
        verifier, (wr_parts, vf_parts) = self._sum_verifiers(shares, self._verifiers_length, 2)
        at = 0
        for flp in self._flps:
            if not flp.decide(verifier[at : at + flp.verifier_length]):
                what = "of the norm" if flp is self._norm else "of ranges and wraparound"
                raise VdafRejected(f"the proof {what} does not hold")
            at += flp.verifier_length
        wr_seed = self._joint_seed(ctx, Usage.WR_JOINT_RAND_SEED, wr_parts)
        return wr_seed + self._joint_seed(ctx, Usage.JOINT_RAND_SEED, vf_parts)

    @property
    def leader_share_size(self) -> int:
        """Bytes of the leader's input share."""
        return self.field.size * (self.parameters.measurement_length + self._proofs_length) + 2 * self.xof.SEED_SIZE

    def out_share(self, ctx: bytes, agg_id: int, input_share: Octets) -> Vector:
        """Return the output share of a report that was accepted: what `verify_next` gave then, made again."""
        return self._open(ctx, agg_id, input_share)[0][: self.parameters.dimension]

    # Collector

    def unshard(self, agg_param: None, agg_shares: Sequence[Vector], num_measurements: int) -> npt.NDArray[np.float64]:
        """Return the sum of all measurements, float64[d]."""
        scale = 2.0**-self.parameters.num_frac_bits
        return np.array(self.unshard_integers(agg_shares), np.float64) * scale

    def unshard_integers(self, agg_shares: Sequence[Vector]) -> Integers:
        """Return the sum of all integer vectors, int64[d]; sums of more than p / (2 B) vectors could wrap."""
        total, p = self.merge(None, agg_shares), self.field.modulus
        return np.array([value - p if value > p // 2 else value for value in self.field.integers(total)], np.int64)

    # What both sides derive

    @property
    def _seeds_size(self) -> int:
        return 2 * self.xof.SEED_SIZE

    @property
    def _proofs_length(self) -> int:
        return sum(flp.proof_length for flp in self._flps)

    @property
    def _verifiers_length(self) -> int:
        return sum(flp.verifier_length for flp in self._flps)

    def _project(self, ctx: bytes, wr_parts: bytes, gradient: Vector) -> Vector:
        """Return the wraparound checks' results: [num_wr_checks]."""
        size = self.xof.SEED_SIZE
        seed = self._joint_seed(ctx, Usage.WR_JOINT_RAND_SEED, split_seeds(wr_parts, size))
        stream = self.xof(seed, self._tag(ctx, Usage.WR_JOINT_RANDOMNESS))
        checks, width = self.parameters.num_wr_checks, -(-self.parameters.dimension // 4)
        return self.field.project(gradient, stream.fill(checks * width).reshape(checks, width))

    def _parts(
        self, ctx: bytes, usage: Usage, blinds: Sequence[bytes], nonce: bytes, shares: Sequence[Vector]
    ) -> list[bytes]:
        """Return every aggregator's joint randomness part; of each share only as much counts as the leader's has."""
        length = shares[0].shape[0]
        return [
            self._part(ctx, usage, agg_id, blind, nonce, share[:length])
            for agg_id, (blind, share) in enumerate(zip(blinds, shares, strict=True))
        ]

    def _part(self, ctx: bytes, usage: Usage, agg_id: int, blind: bytes, nonce: bytes, share: Vector) -> bytes:
        return self._derive(ctx, usage, blind, bytes([agg_id]) + nonce, self.field.octets(share))

    def _joint_seed(self, ctx: bytes, usage: Usage, parts: Sequence[bytes]) -> bytes:
        return self._derive(ctx, usage, bytes(self.xof.SEED_SIZE), b"".join(parts))

    def _joint_rands(self, ctx: bytes, seed: bytes) -> Vector:
        length = self.PROOFS * self._rest.circuit.joint_rand_length
        tag = self._tag(ctx, Usage.JOINT_RANDOMNESS)
        return self.xof.expand_into_vec(self.field, seed, tag, bytes([self.PROOFS]), length)

    def _measurement_share(self, ctx: bytes, agg_id: int, seed: bytes) -> Vector:
        tag = self._tag(ctx, Usage.MEAS_SHARE)
        return self.xof.expand_into_vec(self.field, seed, tag, bytes([agg_id]), self.parameters.measurement_length)

    def _proofs_share(self, ctx: bytes, agg_id: int, seed: bytes) -> Vector:
        return self._expand(ctx, Usage.PROOF_SHARE, seed, bytes([agg_id]), self._proofs_length)

    def _expand(self, ctx: bytes, usage: Usage, seed: bytes, binder: bytes, length: int) -> Vector:
        counts = bytes([self.PROOFS_NORM_EQUALITY, self.PROOFS])
        return self.xof.expand_into_vec(self.field, seed, self._tag(ctx, usage), counts + binder, length)

    def _tag(self, ctx: bytes, usage: Usage) -> bytes:
        return bytes([_VERSION]) + self.ID.to_bytes(4, "big") + usage.to_bytes(2, "big") + ctx


def _bits(number: int, length: int) -> list[int]:
    return [number >> bit & 1 for bit in range(length)]
