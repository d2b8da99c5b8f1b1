"""A client's side of one secure-aggregation round, R0 to R4.

Source: Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning (CCS 2017), section 4,
with the sparse graph of Bell et al. (CCS 2020) above 512 clients; names follow them.
Departs: masks come from AES-CTR under HKDF keys; a client also holds a share of its own secrets; every key is bound
to the manifest, the model as received, the roster and a nonce of keys; survivors are signed once by keys and, in
quorum mode, by the survivors themselves.

Pure: randomness and the identity's signature are arguments. The state is a value that can be stored between steps,
because a client that dies must neither draw new keys nor answer twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from undersong.shared.secagg import transcript
from undersong.shared.secagg.engine import NO_FLOORS, Floors
from undersong.shared.secagg.pairwise import messages, roster
from undersong.shared.secagg.pairwise.complaints import COMMITMENT, ENVELOPE, SHARE, Complaint, complaint_statement
from undersong.shared.secagg.pairwise.masks import ModVector, apply_mask
from undersong.shared.secagg.pairwise.messages import Advertisement, Delivery, OpeningShares, Survivors
from undersong.shared.secagg.pairwise.opening import COMMITMENT_BYTES, share_commitments
from undersong.shared.secagg.pairwise.roster import Frame, Roster, RoundAborted, Terms
from undersong.shared.secagg.pairwise.shares import SHARE_BYTES, Random, split, well_formed
from undersong.shared.secagg.pairwise.survivors import UnsafeSurvivors

NO_SHARE = b"\xff" * SHARE_BYTES
"""What a client sends in R4 in place of a share that it complained about: no values of the field."""

Sign = Callable[[bytes], bytes]


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """Return the X25519 secret of two clients, 32 bytes. A key of low order raises RoundAborted."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise RoundAborted("a client advertised a key of low order") from error


def derive(secret: bytes, ctx: bytes, label: bytes, i: int, j: int) -> bytes:
    """HKDF-SHA256 of an agreed secret: 32 bytes."""
    info = label + i.to_bytes(4, "little") + j.to_bytes(4, "little")
    return HKDF(hashes.SHA256(), 32, salt=ctx, info=info).derive(secret)


def pair_seed(private: X25519PrivateKey, public: bytes, ctx: bytes, i: int, j: int) -> bytes:
    """Return the seed of the mask that i and j share."""
    return derive(agree(private, public), ctx, b"pair", min(i, j), max(i, j))


@dataclass
class ClientState:
    """One client in one attempt at one round. Secrets stay in here and end with it."""

    terms: Terms
    site_id: str
    c: bytes = field(repr=False)
    s: bytes = field(repr=False)
    b: bytes = field(repr=False)
    frame: Frame | None = field(default=None, repr=False)
    own_shares: tuple[bytes, bytes] | None = field(default=None, repr=False)
    sharers: frozenset[int] = frozenset()
    received: dict[int, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)
    committed: bytes | None = None
    failed: dict[int, str] = field(default_factory=dict)
    settled: bool = False
    dealing: bytes = b""
    _agreements: dict[int, bytes] = field(default_factory=dict, repr=False)

    @cached_property
    def _c_key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.c)

    @cached_property
    def _s_key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.s)

    @classmethod
    def begin(cls, terms: Terms, site_id: str, random: Random) -> Self:
        """Fresh keys for this attempt; none of them outlives it."""
        return cls(terms, site_id, random(32), random(32), random(32))

    def advertise(self, sign: Sign) -> Advertisement:
        """R0: public keys and the commitment to b, signed."""
        c, s = (key.public_key().public_bytes_raw() for key in (self._c_key, self._s_key))
        b = transcript.tagged_hash("b", self.terms.ctx0, self.b)
        statement = roster.advertisement_statement(self.terms.ctx0, self.site_id, c, s, b)
        return Advertisement(c, s, b, sign(statement))

    def share(self, frozen: Roster, sign: Sign, random: Random, floors: Floors = NO_FLOORS) -> bytes:
        """R1: check the roster, then envelopes with shares of b and s for every neighbour, in roster order.

        `dealing` then holds the commitments to the shares in them, in the same order. Raises RoundAborted, also where
        the round of this roster is below the site's floors.
        """
        frozen.check(self.terms)
        me = frozen.position(self.site_id)
        if frozen.members[me].advertisement != self.advertise(sign):
            raise RoundAborted("the roster holds another key for this client")
        if self.frame is not None and self.frame.roster != frozen:
            raise RoundAborted("a second roster was shown for one attempt")
        frame = Frame.of(frozen, self.terms)
        self._check_floors(frame, floors)
        self.frame = frame
        holders = roster.holders(me, frame.around[me])
        dealt = dict(zip(holders, split([self.b, self.s], len(holders), frame.topology.threshold, random), strict=True))
        self.own_shares = (dealt[me][0], dealt[me][1])
        self.dealing = b"".join(share_commitments(frame.ctx, me, j, dealt[j]) for j in holders if j != me)
        return b"".join(self._seal(me, j, b"".join(dealt[j])) for j in holders if j != me)

    def receive(self, delivery: Delivery, dealt: bytes | None = None) -> None:
        """R2, first: learn who shared, and open the envelopes; `failed` then names the dealers of useless ones.

        dealt: what the dealers of these envelopes committed to, in their order.
        """
        frame, me = self._in_round()
        sharers = _members(delivery.sharers, len(frame.roster.members))
        if me not in sharers:
            raise RoundAborted("this client's envelopes are said to be missing")
        senders = [j for j in frame.around[me] if j in sharers]
        if len(senders) + 1 < frame.topology.threshold:
            raise RoundAborted("too few neighbours submitted their shares")
        if self.sharers and self.sharers != sharers:
            raise RoundAborted("a second list of sharers was shown for one attempt")
        parts = messages.slices(delivery.envelopes, messages.ENVELOPE_BYTES, len(senders))
        promised = [None] * len(parts) if dealt is None else messages.slices(dealt, 2 * COMMITMENT_BYTES, len(parts))
        self.received, self.failed = {}, {}
        for j, part, promise in zip(senders, parts, promised, strict=True):
            opened = self._open(me, j, part, promise)
            if isinstance(opened, str):
                self.failed[j] = opened
            else:
                self.received[j] = opened
        self.sharers = sharers

    def complain(self, sign: Sign) -> tuple[Complaint, ...]:
        """R2, second: a signed complaint about each dealer of shares that this client cannot use."""
        frame, _ = self._in_round()
        return tuple(
            Complaint(j, what, sign(complaint_statement(frame.ctx, j, what))) for j, what in sorted(self.failed.items())
        )

    def settle(self, sharers: bytes) -> None:
        """R2, third: learn U2, those who shared and were not found to have dealt useless shares."""
        frame, me = self._in_round()
        settled = _members(sharers, len(frame.roster.members))
        if me not in settled:
            raise RoundAborted("this client is said to be left out")
        if not settled <= self.sharers or (self.settled and settled != self.sharers):
            raise RoundAborted("a second list of sharers was shown for one attempt")
        if 1 + len(settled.intersection(frame.around[me])) < frame.topology.threshold:
            raise RoundAborted("too few neighbours are left")
        self.sharers, self.settled = settled, True

    def mask(self, vector: ModVector) -> None:
        """R2: add the masks to the quantised update, in place. A wrong model or roster makes them not cancel."""
        frame, me = self._in_round()
        if not self.sharers:
            raise RoundAborted("masks need the list of sharers")
        apply_mask(vector, self.b, 1, self.terms.modulus_bits)
        for j in self.sharers.intersection(frame.around[me]):
            seed = pair_seed(self._s_key, frame.roster.members[j].advertisement.s, frame.ctx, me, j)
            apply_mask(vector, seed, 1 if j > me else -1, self.terms.modulus_bits)

    def sign_masked(self, body_digest: bytes, sign: Sign) -> bytes:
        """R2: the signature over the masked body's SHA-256; the witness takes no survivor without one."""
        frame, _ = self._in_round()
        sharers = transcript.bitmap(self.sharers, len(frame.roster.members))
        return sign(roster.masked_statement(frame.ctx, sharers, body_digest))

    def commit(self, survivors: Survivors, sign: Sign) -> bytes:
        """R3: check keys' signature and the survivor set; sign the same. Only one set per attempt."""
        statement = self._checked_survivors(survivors)
        if self.committed is not None and self.committed != statement:
            raise RoundAborted("a second survivor set was shown for one attempt")
        self.committed = statement
        return sign(statement)

    def open(self, survivors: Survivors, commitments: Mapping[int, bytes]) -> OpeningShares:
        """R4: shares of b for survivors, of s for dropouts; never both for one client.

        The caller keeps, durably and over all attempts, that this (job, round) was answered: see `answered once`
        in the agent. commitments are survivors' signatures by position (quorum mode).
        """
        statement = self._checked_survivors(survivors)
        if self.committed is None and not self.terms.quorum:
            self.committed = statement
        if self.committed != statement:
            raise RoundAborted("the survivor set differs from the one this client committed to")
        frame, me = self._in_round()
        alive = _members(survivors.members, len(frame.roster.members))
        if self.terms.quorum:
            self._check_quorum(statement, commitments, alive)
        held = dict(self.received) | dict.fromkeys(self.failed, (NO_SHARE, NO_SHARE))
        if self.own_shares is not None:
            held[me] = self.own_shares
        held = {j: shares for j, shares in held.items() if j in self.sharers}
        return OpeningShares(
            b"".join(held[j][0] for j in sorted(held) if j in alive),
            b"".join(held[j][1] for j in sorted(held) if j not in alive),
        )

    def _check_floors(self, frame: Frame, floors: Floors) -> None:
        n, threshold = frame.topology.n, frame.topology.threshold
        if threshold < floors.min_threshold:
            raise RoundAborted(
                f"{threshold} sites could open this round of {n}, the policy asks for {floors.min_threshold} "
                "(pairwise.min_threshold)"
            )
        if n <= floors.quorum_up_to and not self.terms.quorum:
            raise RoundAborted(
                f"the survivors of this round of {n} do not sign their set, the policy asks for it (pairwise.quorum)"
            )

    def _check_quorum(self, statement: bytes, commitments: Mapping[int, bytes], alive: frozenset[int]) -> None:
        frame, _ = self._in_round()
        needed = frame.topology.quorum
        committed = [position for position in sorted(commitments) if position in alive][:needed]
        if len(committed) < needed:
            raise RoundAborted(f"{len(committed)} of {needed} survivors committed to this survivor set")
        for position in committed:
            identity = frame.roster.members[position].identity
            roster.verify(identity, commitments[position], statement, "a survivor's commitment")

    def _checked_survivors(self, survivors: Survivors) -> bytes:
        frame, me = self._in_round()
        alive = _members(survivors.members, len(frame.roster.members))
        if me not in alive:
            raise RoundAborted("this client's update is said to be missing")
        try:
            frame.check_survivors(self.sharers, alive, self.terms.min_cohort)
        except UnsafeSurvivors as error:
            raise RoundAborted(str(error)) from error
        statement = roster.survivors_statement(frame.ctx, self.terms.attempt, survivors.members, survivors.root)
        roster.verify(self.terms.witness_key, survivors.signature, statement, "the survivor set")
        return statement

    def _in_round(self) -> tuple[Frame, int]:
        if self.frame is None:
            raise RoundAborted("the roster is not known yet")
        return self.frame, self.frame.roster.position(self.site_id)

    def _agreed(self, other: int) -> bytes:
        """Return the secret of this client and another's envelope keys, which serves both directions."""
        if other not in self._agreements:
            frame, _ = self._in_round()
            self._agreements[other] = agree(self._c_key, frame.roster.members[other].advertisement.c)
        return self._agreements[other]

    def _seal(self, me: int, to: int, shares: bytes) -> bytes:
        frame, _ = self._in_round()
        key = derive(self._agreed(to), frame.ctx, b"env", me, to)
        return AESGCM(key).encrypt(bytes(12), shares, _envelope_data(frame.ctx, me, to))

    def _open(self, me: int, sender: int, envelope: bytes, promise: bytes | None) -> tuple[bytes, bytes] | str:
        """Return the shares in an envelope, or what is wrong with them."""
        frame, _ = self._in_round()
        key = derive(self._agreed(sender), frame.ctx, b"env", sender, me)
        try:
            plain = AESGCM(key).decrypt(bytes(12), envelope, _envelope_data(frame.ctx, sender, me))
        except InvalidTag:
            return ENVELOPE
        shares = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
        if not all(map(well_formed, shares)):
            return SHARE
        if promise is not None and promise != share_commitments(frame.ctx, sender, me, shares):
            return COMMITMENT
        return shares

    def dump(self) -> bytes:
        """Return the state as bytes, secrets included: for the client's own durable store, erased with the round."""
        frozen = None if self.frame is None else self.frame.roster.pack()
        own = None if self.own_shares is None else list(self.own_shares)
        received = [[j, *pair] for j, pair in self.received.items()]
        failed = [[j, what] for j, what in self.failed.items()]
        told = [sorted(self.sharers), received, self.committed, failed, self.settled]
        state = [self.c, self.s, self.b, frozen, own, *told]
        return bytes(msgpack.packb(state, use_bin_type=True))

    @classmethod
    def load(cls, terms: Terms, site_id: str, data: bytes) -> Self:
        """Return the inverse of `dump`."""
        c, s, b, frozen, own, sharers, received, committed, failed, settled = msgpack.unpackb(data, raw=False)
        frame = None if frozen is None else Frame.of(Roster.unpack(frozen), terms)
        shares = None if own is None else (own[0], own[1])
        opened = {j: (first, second) for j, first, second in received}
        complained = {j: str(what) for j, what in failed}
        return cls(
            terms, site_id, c, s, b, frame, shares, frozenset(sharers), opened, committed, complained, bool(settled)
        )


def _envelope_data(ctx: bytes, i: int, j: int) -> bytes:
    return ctx + i.to_bytes(4, "little") + j.to_bytes(4, "little")


def _members(data: bytes, n: int) -> frozenset[int]:
    try:
        return transcript.members(data, n)
    except ValueError as error:
        raise RoundAborted(str(error)) from error
