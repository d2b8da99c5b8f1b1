"""The published operations of a verifiable distributed aggregation function (VDAF).

Source: draft-irtf-cfrg-vdaf-18 to -20, section "Definition of VDAFs"; names follow it.
Shapes: every message is bytes as on the published wire; output and aggregate shares are vectors of the scheme's field.
Randomness, keys, nonces and the application context are arguments. All schemes here verify in one round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from undersong.shared.vdaf.errors import VdafMalformed
from undersong.shared.vdaf.field import Field, Vector

NONCE_SIZE: Final = 16
Octets = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class VerifyState:
    """What an aggregator keeps between its two steps: its output share, and the joint randomness seeds it computed."""

    out_share: Vector
    seeds: bytes


class Vdaf(Protocol):
    """One scheme with its parameters; every method is pure."""

    ID: int
    SHARES: int
    NONCE_SIZE: int
    RAND_SIZE: int
    VERIFY_KEY_SIZE: int
    field: Field

    def shard(self, ctx: bytes, measurement: Any, nonce: bytes, rand: bytes) -> tuple[bytes, list[bytes]]:
        """Return the public share, and one input share for each aggregator (the leader's first)."""

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
        """Return an aggregator's state and its verifier share."""

    def verifier_shares_to_message(self, ctx: bytes, agg_param: None, shares: Sequence[bytes]) -> bytes:
        """Decide from all aggregators' verifier shares; raises `VdafRejected`."""

    def verify_next(self, ctx: bytes, state: VerifyState, message: bytes) -> Vector:
        """Return the output share of an accepted report; raises `VdafRejected`."""

    def agg_init(self, agg_param: None) -> Vector:
        """Return an empty aggregate share."""

    def agg_update(self, agg_share: Vector, out_share: Vector) -> None:
        """Add an output share to an aggregate share, in place."""

    def merge(self, agg_param: None, agg_shares: Sequence[Vector]) -> Vector:
        """Return the sum of aggregate shares."""

    def unshard(self, agg_param: None, agg_shares: Sequence[Vector], num_measurements: int) -> Any:
        """Return the aggregate result from all aggregators' shares."""


def check_size(name: str, data: Octets, size: int) -> None:
    """Raise `VdafMalformed` unless `data` has `size` bytes."""
    if len(data) != size:
        raise VdafMalformed(f"the {name} has {len(data)} bytes, it must have {size}")


def split_seeds(data: Octets, size: int) -> list[bytes]:
    """Consecutive seeds of `size` bytes."""
    return [bytes(data[at : at + size]) for at in range(0, len(data), size)]
