"""Fiat-Shamir over the whole statement, and nonces that a broken random source cannot spoil.

Source: Fiat and Shamir (CRYPTO 1986) with the whole statement hashed, as Bernhard, Pereira and Warinschi (ASIACRYPT
2012) show is needed; nonces hash the secret, fresh randomness and the statement, as in draft-irtf-cfrg-det-sigs-with-
noise. Every field goes in with its length, so no two statements share their bytes.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from undersong.shared.errors import Invalid
from undersong.shared.zk.group import Point, Scalar

ENTROPY_SIZE: Final = 32


class ProofInvalid(Invalid):
    """The proof does not hold for this statement."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is proved: the protocol's name, the context that it is proved in, and every public value of it."""

    label: bytes
    context: bytes
    values: tuple[bytes, ...]

    @classmethod
    def of(cls, label: bytes, context: bytes, *values: Point | bytes) -> "Statement":
        """Points by their encodings."""
        return cls(label, context, tuple(v.encoded if isinstance(v, Point) else v for v in values))

    def challenge(self, *commitments: Point) -> Scalar:
        """Return the verifier's challenge, after the prover's first message."""
        fields = (b"challenge", *self._fields(), *(point.encoded for point in commitments))
        return Scalar.reduce(_hash(fields))

    def nonces(self, *secrets: Scalar, entropy: bytes | None = None) -> Iterator[Scalar]:
        """Yield as many secret nonces as are needed. `entropy`: 32 bytes, fresh unless a test repeats a run."""
        fresh = os.urandom(ENTROPY_SIZE) if entropy is None else entropy
        if len(fresh) != ENTROPY_SIZE:
            raise ValueError(f"entropy has {len(fresh)} bytes, not {ENTROPY_SIZE}")
        seed = _hash((b"nonce", *(secret.encoded for secret in secrets), fresh, *self._fields()))
        count = 0
        while True:
            yield Scalar.reduce(_hash((seed, count.to_bytes(8, "little"))))
            count += 1

    def _fields(self) -> tuple[bytes, ...]:
        return self.label, self.context, *self.values


def scalars(proof: bytes, count: int) -> list[Scalar]:
    """Return a proof's scalars; raises `ProofInvalid` for another length and `ScalarInvalid`."""
    if len(proof) != 32 * count:
        raise ProofInvalid(f"the proof has {len(proof)} bytes, not {32 * count}")
    return [Scalar.decode(proof[at : at + 32]) for at in range(0, len(proof), 32)]


def _hash(fields: tuple[bytes, ...]) -> bytes:
    running = hashlib.sha512()
    for field in fields:
        running.update(len(field).to_bytes(8, "little") + field)
    return running.digest()
