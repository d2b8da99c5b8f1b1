"""What Prio3 and PINE share: sizes, aggregation, and the end of verification.

Source: draft-irtf-cfrg-vdaf-18 to -20, section "Prio3"; the usage numbers above 7 from draft-chen-cfrg-vdaf-pine-01.
"""

import hmac
from collections.abc import Sequence
from enum import IntEnum

from undersong.shared.vdaf.errors import VdafMalformed, VdafRejected
from undersong.shared.vdaf.field import Field, Vector
from undersong.shared.vdaf.vdaf import NONCE_SIZE, Octets, VerifyState, check_size, split_seeds
from undersong.shared.vdaf.xof import Xof


class Usage(IntEnum):
    """What a stream is for: the end of every domain separation tag."""

    MEAS_SHARE = 1
    PROOF_SHARE = 2
    JOINT_RANDOMNESS = 3
    PROVE_RANDOMNESS = 4
    QUERY_RANDOMNESS = 5
    JOINT_RAND_SEED = 6
    JOINT_RAND_PART = 7
    WR_JOINT_RANDOMNESS = 8
    WR_JOINT_RAND_SEED = 9
    WR_JOINT_RAND_PART = 10


class Scheme:
    """One scheme over one field, verified in one round by `shares` aggregators."""

    ID: int
    RAND_SIZE: int
    NONCE_SIZE = NONCE_SIZE

    def __init__(self, field: Field, xof: type[Xof], shares: int, output_length: int) -> None:
        if not 2 <= shares <= 255:
            raise ValueError("there are 2 to 255 aggregators")
        self.field, self.xof, self.SHARES = field, xof, shares
        self.VERIFY_KEY_SIZE = xof.SEED_SIZE
        self._output_length = output_length

    def verify_next(self, ctx: bytes, state: VerifyState, message: bytes) -> Vector:
        """Return the output share of an accepted report; raises `VdafRejected`."""
        check_size("verifier message", message, self._seeds_size)
        if not hmac.compare_digest(message, state.seeds):
            raise VdafRejected("the joint randomness is not the one that the client proved with")
        return state.out_share

    def agg_init(self, agg_param: None) -> Vector:
        """Return an empty aggregate share."""
        return self.field.zeros(self._output_length)

    def agg_update(self, agg_share: Vector, out_share: Vector) -> None:
        """Add an output share to an aggregate share, in place."""
        self.field.add_into(agg_share, out_share)

    def merge(self, agg_param: None, agg_shares: Sequence[Vector]) -> Vector:
        """Return the sum of aggregate shares."""
        total = self.agg_init(agg_param)
        for share in agg_shares:
            self.field.add_into(total, share)
        return total

    def encode_agg_share(self, agg_share: Vector) -> bytes:
        """As on the wire."""
        return self.field.encode(agg_share)

    def decode_agg_share(self, data: Octets) -> Vector:
        """Check it; raises `VdafMalformed`."""
        check_size("aggregate share", data, self.field.size * self._output_length)
        return self.field.decode(data)

    encode_out_share, decode_out_share = encode_agg_share, decode_agg_share

    def encode_state(self, state: VerifyState) -> bytes:
        """Return the state as bytes, for a server that keeps it between its steps."""
        return state.seeds + self.field.encode(state.out_share)

    def decode_state(self, data: Octets) -> VerifyState:
        """Check it; raises `VdafMalformed`."""
        check_size("verification state", data, self._seeds_size + self.field.size * self._output_length)
        return VerifyState(self.decode_out_share(data[self._seeds_size :]), bytes(data[: self._seeds_size]))

    @property
    def _seeds_size(self) -> int:
        """Bytes of the joint randomness seeds in a state and in the verifier message."""
        raise NotImplementedError

    def _check_init(self, verify_key: bytes, agg_id: int, nonce: bytes) -> None:
        check_size("verification key", verify_key, self.VERIFY_KEY_SIZE)
        check_size("nonce", nonce, self.NONCE_SIZE)
        if not 0 <= agg_id < self.SHARES:
            raise VdafMalformed(f"there is no aggregator {agg_id}")

    def _sum_verifiers(self, shares: Sequence[bytes], length: int, parts: int) -> tuple[Vector, list[list[bytes]]]:
        """Return the sum of verifier shares [length], and for each kind the joint randomness parts in aggregators'
        order.
        """
        if len(shares) != self.SHARES:
            raise VdafMalformed(f"there are {len(shares)} verifier shares for {self.SHARES} aggregators")
        total, tails = self.field.zeros(length), []
        size = self.field.size * length
        for share in shares:
            check_size("verifier share", share, size + parts * self.xof.SEED_SIZE)
            self.field.add_into(total, self.field.decode(share[:size]))
            tails.append(split_seeds(share[size:], self.xof.SEED_SIZE))
        return total, [[tail[kind] for tail in tails] for kind in range(parts)]

    def _derive(self, ctx: bytes, usage: Usage, seed: bytes, *binder: Octets) -> bytes:
        return self.xof.derive_seed(seed, self._tag(ctx, usage), *binder)

    def _tag(self, ctx: bytes, usage: Usage) -> bytes:
        raise NotImplementedError
