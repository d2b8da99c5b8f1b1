"""Proof of possession of a key that does not sign: knowledge of x with X = x G.

Source: Schnorr, Efficient Identification and Signatures for Smart Cards (CRYPTO 1989); key-prefixed, R sent, as in
RFC 8032 and RFC 8235, so that many proofs can be checked at once. A proof is R || s, 64 bytes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from undersong.shared.zk.group import IDENTITY, Point, Scalar, base
from undersong.shared.zk.transcript import ProofInvalid, Statement

SIZE: Final = 64
_LABEL: Final = b"undersong/schnorr/1"
_WEIGHT_BYTES: Final = 16  # a false proof passes a batch with probability 2**-128


@dataclass(frozen=True, slots=True)
class Possession:
    """One proof to check: the key, where it was made, whose challenge it answers, and the proof."""

    key: Point
    context: bytes
    challenge: bytes
    proof: bytes


def prove(secret: Scalar, context: bytes, challenge: bytes, *, entropy: bytes | None = None) -> bytes:
    """Answer the enrolling party's challenge for the key x G."""
    key = base(secret)
    statement = _statement(key, context, challenge)
    nonce = next(statement.nonces(secret, entropy=entropy))
    first = base(nonce)
    return first.encoded + (nonce + statement.challenge(first) * secret).encoded


def verify(key: Point, context: bytes, challenge: bytes, proof: bytes) -> None:
    """Check it; raises `ProofInvalid`, `PointInvalid`, `ScalarInvalid` or `IdentityRefused`."""
    first, response = _parts(key, proof)
    if base(response) != first + _statement(key, context, challenge).challenge(first) * key:
        raise ProofInvalid("the prover does not hold the key")


def verify_batch(proofs: Sequence[Possession]) -> None:
    """Check all at once under random weights: `ProofInvalid` does not say which one fails."""
    left, right = Scalar.of(0), IDENTITY
    for each in proofs:
        first, response = _parts(each.key, each.proof)
        weight = Scalar.of(int.from_bytes(os.urandom(_WEIGHT_BYTES), "little"))
        challenge = _statement(each.key, each.context, each.challenge).challenge(first)
        left += weight * response
        right += weight * (first + challenge * each.key)
    if base(left) != right:
        raise ProofInvalid("one of these proofs does not hold")


def _statement(key: Point, context: bytes, challenge: bytes) -> Statement:
    return Statement.of(_LABEL, context, challenge, key)


def _parts(key: Point, proof: bytes) -> tuple[Point, Scalar]:
    Point.element(key.encoded)
    if len(proof) != SIZE:
        raise ProofInvalid(f"the proof has {len(proof)} bytes, not {SIZE}")
    return Point.decode(proof[:32]), Scalar.decode(proof[32:])
