"""The frozen roster of a round, what the keys service signs about it, and what follows from it for everyone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from undersong.shared.errors import Forbidden
from undersong.shared.merkle import proofs as merkle
from undersong.shared.secagg import transcript
from undersong.shared.secagg.pairwise import contexts
from undersong.shared.secagg.pairwise.graph import Neighbours, Topology, neighbours, plan
from undersong.shared.secagg.pairwise.messages import Advertisement, MalformedStep
from undersong.shared.secagg.pairwise.survivors import check_survivors
from undersong.shared.secagg.transcript import nonce_commitment as nonce_commitment

DIGEST_BYTES = 32


class RoundAborted(Forbidden):
    """The secure-aggregation round was left, because going on could show more than the sum."""


def verify(public_key: bytes, signature: bytes, statement: bytes, what: str) -> None:
    """Check an Ed25519 signature; raises RoundAborted naming `what`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
    except (InvalidSignature, ValueError) as error:
        raise RoundAborted(f"{what} does not carry a valid signature") from error


@dataclass(frozen=True, slots=True)
class Terms:
    """What the signed manifest fixes for one attempt at one round.

    corrupt, dropout: planned shares of clients that collude with the server, or drop out.
    """

    ctx0: bytes
    manifest_digest: bytes
    attempt: int
    min_cohort: int
    corrupt: float
    dropout: float
    quorum: bool
    nonce_commitment: bytes
    witness_key: bytes
    modulus_bits: int


@dataclass(frozen=True, slots=True)
class Member:
    """One client of the roster: its id, its certified identity key, and what it advertised."""

    site_id: str
    identity: bytes
    advertisement: Advertisement

    def leaf(self) -> bytes:
        """Return the member as a leaf of the roster's tree."""
        a = self.advertisement
        return merkle.leaf_hash(transcript.tagged_hash("member", self.site_id.encode(), self.identity, a.c, a.s, a.b))


def refuse_low_order(*public_keys: bytes) -> None:
    """Raise RoundAborted for an X25519 key whose agreement with anybody is the same known secret."""
    probe = X25519PrivateKey.generate()  # whichever it is, the outcome is the same
    for key in public_keys:
        try:
            probe.exchange(X25519PublicKey.from_public_bytes(key))
        except ValueError as error:
            raise RoundAborted("a client advertised a key of low order") from error


def advertisement_statement(ctx0: bytes, site_id: str, c: bytes, s: bytes, b: bytes) -> bytes:
    """Return what a client's identity key signs in R0."""
    return transcript.tagged_hash("R0", ctx0, site_id.encode(), c, s, b)


def roster_statement(ctx0: bytes, n: int, root: bytes, nonce: bytes) -> bytes:
    """Return what the keys service signs once when it freezes the roster."""
    return transcript.tagged_hash("witness-roster", ctx0, n.to_bytes(8, "little"), root, nonce)


def survivors_statement(ctx: bytes, attempt: int, members: bytes, root: bytes) -> bytes:
    """Return what the keys service signs once, and every survivor signs too in quorum mode, when the survivors are
    fixed.
    """
    return transcript.tagged_hash("R3", ctx, attempt.to_bytes(4, "little"), members, root)


def masked_statement(ctx: bytes, sharers: bytes, body_digest: bytes) -> bytes:
    """Return what a client signs about its masked update in R2: the SHA-256 of its body, under ctx and the sharers
    (U2).
    """
    return transcript.tagged_hash("mask", ctx, sharers, body_digest)


@dataclass(frozen=True)
class Roster:
    """The clients of the round, sorted by id; positions in it name them from here on."""

    members: tuple[Member, ...]
    nonce: bytes
    signature: bytes

    @cached_property
    def root(self) -> bytes:
        """The Merkle root over the members."""
        return merkle.root([member.leaf() for member in self.members])

    def position(self, site_id: str) -> int:
        """Return a client's position; raises RoundAborted where it has none."""
        try:
            return self._positions[site_id]
        except KeyError:
            raise RoundAborted("this client is not in the roster") from None

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {member.site_id: i for i, member in enumerate(self.members)}

    def check(self, terms: Terms) -> None:
        """Check what every client must see before it gives a share away; raises RoundAborted."""
        ids = [member.site_id for member in self.members]
        if ids != sorted(set(ids)):
            raise RoundAborted("the roster is not sorted or names a client twice")
        if len(ids) < max(terms.min_cohort, 3):
            raise RoundAborted(f"the roster holds {len(ids)} clients, fewer than the minimum cohort")
        if nonce_commitment(self.nonce) != terms.nonce_commitment:
            raise RoundAborted("keys opened another nonce than it had committed to")
        statement = roster_statement(terms.ctx0, len(ids), self.root, self.nonce)
        verify(terms.witness_key, self.signature, statement, "the roster")

    def pack(self) -> bytes:
        """Return the roster as bytes."""
        entries = [[m.site_id, m.identity, m.advertisement.pack()] for m in self.members]
        return bytes(msgpack.packb([entries, self.nonce, self.signature], use_bin_type=True))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read strictly."""
        try:
            entries, nonce, signature = msgpack.unpackb(data, raw=False)
            return cls(tuple(_member(*entry) for entry in entries), nonce, signature)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise MalformedStep("the roster is malformed") from error


def _member(site_id: Any, identity: Any, advertisement: Any) -> Member:
    if not isinstance(site_id, str) or not isinstance(identity, bytes) or len(identity) != 32:
        raise ValueError("a member of another shape")
    return Member(site_id, identity, Advertisement.unpack(advertisement))


@dataclass(frozen=True, slots=True)
class Frame:
    """What follows from terms and a frozen roster, worked out once: ctx, the graph, the threshold."""

    roster: Roster
    ctx: bytes
    topology: Topology
    around: Neighbours

    @classmethod
    def of(cls, roster: Roster, terms: Terms) -> Self:
        """Return the frame of one attempt at one round."""
        ctx = contexts.context(terms.ctx0, roster.root, roster.nonce)
        topology = plan(len(roster.members), terms.corrupt, terms.dropout, trusted_witness=not terms.quorum)
        return cls(roster, ctx, topology, neighbours(topology, ctx))

    def check_survivors(self, sharers: frozenset[int], survivors: frozenset[int], min_cohort: int) -> None:
        """Raise UnsafeSurvivors unless the sum over these survivors may be opened."""
        check_survivors(self.topology, self.around, sharers, survivors, min_cohort)


def holders(position: int, around: Sequence[int]) -> tuple[int, ...]:
    """Return who holds shares of a client's secrets: its neighbours and itself, ascending; points are 1, 2, ..."""
    return tuple(sorted({position, *around}))
