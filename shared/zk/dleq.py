"""Equality of discrete logarithms, for one pair or many at once: D[i] = k C[i] for the k with B = k A.

Source: RFC 9497 section 2.2 (Chaum and Pedersen 1992, batched by random composites). A proof is c || s, 64 bytes.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Final

from undersong.shared.zk.group import IDENTITY, Point, Scalar, hash_to_scalar
from undersong.shared.zk.transcript import ProofInvalid, scalars

SIZE: Final = 64


class NothingToProve(ProofInvalid):
    """The lists of points are empty, too long, or of different lengths."""


def prove(
    secret: Scalar,
    a: Point,
    b: Point,
    c: Sequence[Point],
    d: Sequence[Point],
    context: bytes,
    *,
    nonce: Scalar | None = None,
) -> bytes:
    """RFC 9497 GenerateProof; `nonce` is its r, fresh unless a vector gives it. `context` is its contextString."""
    r = _fresh_nonce(secret, context) if nonce is None else nonce
    weights = _weights(b, c, d, context)
    m = _sum(weights, c)
    z = secret * m
    challenge = _challenge((b, m, z, r * a, r * m), context)
    return challenge.encoded + (r - challenge * secret).encoded


def verify(a: Point, b: Point, c: Sequence[Point], d: Sequence[Point], context: bytes, proof: bytes) -> None:
    """RFC 9497 VerifyProof; raises `ProofInvalid`, `PointInvalid`, `IdentityRefused` or `ScalarInvalid`."""
    for point in (a, b, *c, *d):
        Point.element(point.encoded)
    challenge, response = scalars(proof, 2)
    weights = _weights(b, c, d, context)
    m, z = _sum(weights, c), _sum(weights, d)
    first, second = response * a + challenge * b, response * m + challenge * z
    if _challenge((b, m, z, first, second), context) != challenge:
        raise ProofInvalid("the points are not proved to share one logarithm")


def framed(data: bytes) -> bytes:
    """Bytes after their length in two bytes, big-endian."""
    return len(data).to_bytes(2, "big") + data


def _weights(b: Point, c: Sequence[Point], d: Sequence[Point], context: bytes) -> list[Scalar]:
    """Return what ComputeComposites gives each pair."""
    if len(c) != len(d) or not 0 < len(c) < 1 << 16:
        raise NothingToProve(f"{len(c)} and {len(d)} points are no pairs to prove something of")
    seed = hashlib.sha512(framed(b.encoded) + framed(b"Seed-" + context)).digest()
    tag = b"HashToScalar-" + context
    return [
        hash_to_scalar(
            framed(seed) + index.to_bytes(2, "big") + framed(one.encoded) + framed(two.encoded) + b"Composite", tag
        )
        for index, (one, two) in enumerate(zip(c, d, strict=True))
    ]


def _sum(weights: Sequence[Scalar], points: Sequence[Point]) -> Point:
    total = IDENTITY
    for weight, point in zip(weights, points, strict=True):
        total = weight * point + total
    return total


def _challenge(points: Sequence[Point], context: bytes) -> Scalar:
    return hash_to_scalar(
        b"".join(framed(point.encoded) for point in points) + b"Challenge", b"HashToScalar-" + context
    )


def _fresh_nonce(secret: Scalar, context: bytes) -> Scalar:
    """Random, and hashed with the secret, so that a random source that fails does not give the key away."""
    return hash_to_scalar(secret.encoded + os.urandom(64), b"undersong/dleq-nonce/1" + context)
