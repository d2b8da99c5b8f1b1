"""Pedersen commitments C = v G + r H: knowledge of what is in one, and that two hold the same.

Source: Pedersen, Non-Interactive and Information-Theoretic Secure Verifiable Secret Sharing (CRYPTO 1991); opening:
Okamoto, Provably Secure and Practical Identification Schemes (CRYPTO 1992); equality: the AND of two openings with one
response for the value (Camenisch and Stadler 1997). A commitment hides v unconditionally as long as r is
uniform; it binds under the discrete logarithm assumption. Opening proofs are 96 bytes (c, s_v, s_r), equality 128.
"""

import os
from dataclasses import dataclass
from typing import Final, Self

from undersong.shared.zk.group import Point, Scalar, base, second_generator
from undersong.shared.zk.transcript import ProofInvalid, Statement, scalars

OPENING_SIZE: Final = 96
EQUALITY_SIZE: Final = 128
_OPENING: Final = b"undersong/pedersen-opening/1"
_EQUALITY: Final = b"undersong/pedersen-equality/1"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a commitment hides: the value and its blinding. Secret."""

    value: Scalar
    blinding: Scalar

    @classmethod
    def fresh(cls, value: int, *, uniform: bytes | None = None) -> Self:
        """Return a value under a new blinding; `uniform`: 64 bytes, fresh unless a test repeats a run."""
        return cls(Scalar.of(value), Scalar.reduce(os.urandom(64) if uniform is None else uniform))

    @property
    def commitment(self) -> Point:
        """C = v G + r H."""
        return commit(self.value, self.blinding)


def commit(value: Scalar, blinding: Scalar) -> Point:
    """Return the commitment v G + r H."""
    return base(value) + blinding * second_generator()


def check_opening(commitment: Point, opening: Opening) -> None:
    """Check that the opened commitment is this one; raises `ProofInvalid`, `PointInvalid` or `ScalarInvalid`."""
    Point.decode(commitment.encoded)
    for part in (opening.value, opening.blinding):
        Scalar.decode(part.encoded)
    if opening.commitment != commitment:
        raise ProofInvalid("the commitment holds another value")


def prove_opening(opening: Opening, context: bytes, *, entropy: bytes | None = None) -> bytes:
    """Knowledge of v and r."""
    statement = _opening_statement(opening.commitment, context)
    nonces = statement.nonces(opening.value, opening.blinding, entropy=entropy)
    value, blinding = next(nonces), next(nonces)
    challenge = statement.challenge(commit(value, blinding))
    responses = value + challenge * opening.value, blinding + challenge * opening.blinding
    return b"".join(each.encoded for each in (challenge, *responses))


def verify_opening(commitment: Point, context: bytes, proof: bytes) -> None:
    """Verify knowledge of an opening; raises `ProofInvalid`, `PointInvalid` or `ScalarInvalid`."""
    Point.decode(commitment.encoded)
    challenge, value, blinding = scalars(proof, 3)
    first = commit(value, blinding) - challenge * commitment
    if _opening_statement(commitment, context).challenge(first) != challenge:
        raise ProofInvalid("the prover does not know what the commitment holds")


def prove_equal(one: Opening, other: Opening, context: bytes, *, entropy: bytes | None = None) -> bytes:
    """Both commitments hold one value, under blindings that may differ; `ProofInvalid` where they do not."""
    if one.value != other.value:
        raise ProofInvalid("the two commitments hold different values")
    statement = _equality_statement(one.commitment, other.commitment, context)
    nonces = statement.nonces(one.value, one.blinding, other.blinding, entropy=entropy)
    value, first, second = next(nonces), next(nonces), next(nonces)
    challenge = statement.challenge(commit(value, first), commit(value, second))
    pairs = (value, one.value), (first, one.blinding), (second, other.blinding)
    return challenge.encoded + b"".join((nonce + challenge * secret).encoded for nonce, secret in pairs)


def verify_equal(one: Point, other: Point, context: bytes, proof: bytes) -> None:
    """Check it; raises `ProofInvalid`, `PointInvalid` or `ScalarInvalid`."""
    Point.decode(one.encoded)
    Point.decode(other.encoded)
    challenge, value, first, second = scalars(proof, 4)
    commitments = commit(value, first) - challenge * one, commit(value, second) - challenge * other
    if _equality_statement(one, other, context).challenge(*commitments) != challenge:
        raise ProofInvalid("the two commitments are not proved to hold one value")


def _opening_statement(commitment: Point, context: bytes) -> Statement:
    return Statement.of(_OPENING, context, second_generator(), commitment)


def _equality_statement(one: Point, other: Point, context: bytes) -> Statement:
    return Statement.of(_EQUALITY, context, second_generator(), one, other)
