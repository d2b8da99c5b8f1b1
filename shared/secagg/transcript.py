"""Domain-separated hashing and the round's transcript.

H(label, a, b, ...) is SHA-256 over the label and each field, every one behind its length (8 bytes,
little-endian), so no two different lists of fields hash the same bytes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from undersong.shared.merkle import proofs as merkle


def tagged_hash(label: str, *fields: bytes) -> bytes:
    """H(label, fields...): 32 bytes."""
    digest = hashlib.sha256()
    for part in (label.encode(), *fields):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def nonce_commitment(nonce: bytes) -> bytes:
    """Return what the keys service commits to in the manifest, before it is known who takes part."""
    return tagged_hash("nonce", nonce)


@dataclass(frozen=True, slots=True)
class Transcript:
    """T0..T4: 32 bytes that two clients compare to see whether they were shown the same round."""

    head: bytes

    @classmethod
    def begin(cls, manifest_digest: bytes) -> Self:
        """T0 = H(manifest)."""
        return cls(tagged_hash("T0", manifest_digest))

    def roster(self, roster_root: bytes, keys_nonce: bytes) -> Self:
        """Add T1: the frozen roster."""
        return replace(self, head=tagged_hash("T1", self.head, roster_root, keys_nonce))

    def sharers(self, bitmap: bytes) -> Self:
        """Add T2: U2, the clients that submitted envelopes."""
        return replace(self, head=tagged_hash("T2", self.head, bitmap))

    def survivors(self, bitmap: bytes, root: bytes) -> Self:
        """Add T3: U3, the clients that submitted a masked update, and the root of those updates' hashes."""
        return replace(self, head=tagged_hash("T3", self.head, bitmap, root))

    def total(self, sum_digest: bytes) -> Self:
        """Add T4: the opened sum."""
        return replace(self, head=tagged_hash("T4", self.head, sum_digest))


def bitmap(members: frozenset[int], n: int) -> bytes:
    """Return positions 0..n-1 as bits, position 0 the lowest bit of the first byte: ceil(n/8) bytes."""
    if any(not 0 <= member < n for member in members):
        raise ValueError("a member is outside the roster")
    return sum(1 << member for member in members).to_bytes((n + 7) // 8, "little")


def members(data: bytes, n: int) -> frozenset[int]:
    """Return the inverse of `bitmap`; bits beyond n are refused."""
    value = int.from_bytes(data, "little")
    if len(data) != (n + 7) // 8 or value >> n:
        raise ValueError("a bitmap of another roster")
    return frozenset(i for i in range(n) if value >> i & 1)


def body_leaf(position: int, digest: bytes) -> bytes:
    """Return the leaf of one update: the SHA-256 of its body, bound to its site's position."""
    return merkle.leaf_hash(tagged_hash("y", position.to_bytes(4, "little"), digest))


def body_root(digests: Mapping[int, bytes]) -> bytes:
    """Return the Merkle root over the updates' SHA-256, in the order of their positions."""
    return merkle.root([body_leaf(i, digests[i]) for i in sorted(digests)])
