"""Parties of a round in one process: real keys, real messages, repeatable randomness."""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undersong.shared.secagg import transcript
from undersong.shared.secagg.pairwise import contexts, messages, roster, witness
from undersong.shared.secagg.pairwise.client import ClientState
from undersong.shared.secagg.pairwise.complaints import Complaint, check_complaints, refused_dealers, tolerated
from undersong.shared.secagg.pairwise.masks import apply_mask
from undersong.shared.secagg.pairwise.server import ServerState, Unmasking


class Stream:
    """Repeatable bytes."""

    def __init__(self, seed: bytes) -> None:
        self.state = hashlib.shake_256(seed)
        self.at = 0

    def __call__(self, count: int) -> bytes:
        self.at += count
        return self.state.digest(self.at)[-count:] if count else b""


@dataclass
class Round:
    """n clients, a server and a witness; attributes can be bent before each step."""

    n: int
    seed: bytes = b"round"
    dropout: float = 0.3
    corrupt: float = 1 / 3
    quorum: bool = True
    bits: int = 32
    attempt: int = 1
    d: int = 12
    models: dict[int, bytes] = field(default_factory=dict)
    complaints: dict[int, tuple[Complaint, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.witness = self.key(b"witness")
        self.nonce = hashlib.sha256(self.seed + b"nonce").digest()
        self.identities = [self.key(b"id%d" % i) for i in range(self.n)]
        self.streams = [Stream(self.seed + b"s%d" % i + bytes([self.attempt])) for i in range(self.n)]
        self.clients = [
            ClientState.begin(self.terms(self.models.get(i, b"model")), f"site{i:03}", self.streams[i])
            for i in range(self.n)
        ]

    def key(self, label: bytes) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(self.seed + label).digest())

    def terms(self, model: bytes = b"model") -> roster.Terms:
        manifest = hashlib.sha256(self.seed).digest()
        ctx0 = contexts.context_zero(manifest, hashlib.sha256(model).digest(), self.attempt)
        return roster.Terms(
            ctx0, manifest, self.attempt, 3, self.corrupt, self.dropout, self.quorum,
            roster.nonce_commitment(self.nonce), self.witness.public_key().public_bytes_raw(), self.bits,
        )  # fmt: skip

    def members(self) -> list[roster.Member]:
        return [
            roster.Member(c.site_id, k.public_key().public_bytes_raw(), c.advertise(k.sign))
            for c, k in zip(self.clients, self.identities, strict=True)
        ]

    def freeze(self, members: list[roster.Member] | None = None) -> roster.Roster:
        bare = roster.Roster(tuple(members or self.members()), self.nonce, bytes(64))
        statement = roster.roster_statement(self.terms().ctx0, len(bare.members), bare.root, self.nonce)
        return replace(bare, signature=self.witness.sign(statement))

    def serving(self) -> ServerState:
        return ServerState(self.terms(), self.frozen)

    def share(self, frozen: roster.Roster | None = None) -> None:
        self.frozen = frozen or self.freeze()
        self.server = self.serving()
        self.envelopes = {
            i: c.share(self.frozen, self.identities[i].sign, self.streams[i]) for i, c in enumerate(self.clients)
        }

    def deliver(self, sharers: frozenset[int]) -> None:
        """Each opens its envelopes and complains; U2 is then fixed without those about whom too many complain."""
        dealings = {i: self.clients[i].dealing for i in sharers}
        self.complaints = {}
        for i in sharers:
            promised = self.server.promised(i, dealings, sharers)
            self.clients[i].receive(self.server.deliver(i, self.envelopes, sharers), promised)
            self.complaints[i] = self.clients[i].complain(self.identities[i].sign)
            check_complaints(self.server.frame, i, self.complaints[i])
        self.refused = frozenset(refused_dealers(self.complaints, tolerated(self.n, self.corrupt)))
        self.sharers = self.server.reachable(sharers - self.refused, self.lacking)
        for i in self.sharers:
            self.clients[i].settle(transcript.bitmap(self.sharers, self.n))

    @property
    def lacking(self) -> dict[int, frozenset[int]]:
        return {i: frozenset(each.dealer for each in said) for i, said in self.complaints.items()}

    def vector(self, i: int) -> np.ndarray:
        return np.frombuffer(Stream(self.seed + b"v%d" % i)(4 * self.d), np.uint32) >> 8

    def mask(self, who: frozenset[int]) -> dict[int, np.ndarray]:
        self.masked = {}
        for i in who:
            self.masked[i] = self.vector(i).copy()
            self.clients[i].mask(self.masked[i])
        return self.masked

    def survivors(self, who: frozenset[int], key: Ed25519PrivateKey | None = None) -> messages.Survivors:
        root = transcript.body_root({i: hashlib.sha256(self.masked[i].tobytes()).digest() for i in who})
        bits = transcript.bitmap(who, self.n)
        statement = roster.survivors_statement(self.server.ctx, self.attempt, bits, root)
        return messages.Survivors(bits, root, (key or self.witness).sign(statement))

    def signatures(self, who: frozenset[int]) -> dict[int, bytes]:
        """What each site signs about its masked body, for these and no other sharers."""
        return {
            i: self.clients[i].sign_masked(hashlib.sha256(self.masked[i].tobytes()).digest(), self.identities[i].sign)
            for i in who
        }

    def question(self, who: frozenset[int], signatures: dict[int, bytes]) -> witness.SurvivorsAsk:
        """What the aggregator asks the witness about these survivors."""
        digests = {i: hashlib.sha256(self.masked[i].tobytes()).digest() for i in who}
        uploads = tuple(digests[i] + signatures.get(i, bytes(64)) for i in sorted(who))
        sharers = transcript.bitmap(self.sharers, self.n)
        return witness.SurvivorsAsk(transcript.bitmap(who, self.n), transcript.body_root(digests), sharers, uploads)

    def commit(self, said: messages.Survivors, who: frozenset[int]) -> dict[int, bytes]:
        return {i: self.clients[i].commit(said, self.identities[i].sign) for i in who}

    def open(self, said: messages.Survivors, who: frozenset[int]) -> dict[int, messages.OpeningShares]:
        commitments = self.commit(said, who) if self.quorum else {}
        return {i: self.clients[i].open(said, commitments) for i in who}

    def total(self, openings: dict[int, messages.OpeningShares], who: frozenset[int]) -> np.ndarray:
        total = np.zeros(self.d, np.uint32)
        for i in who:
            total += self.masked[i]
        for correction in self.unmask(openings, who).corrections:
            apply_mask(total, correction.seed, correction.sign, self.bits)
        return total

    def unmask(self, openings: dict[int, messages.OpeningShares], who: frozenset[int]) -> Unmasking:
        dealings = {i: client.dealing for i, client in enumerate(self.clients)}
        return self.server.unmask(openings, self.sharers, who, dealings, self.lacking)

    def plain(self, who: frozenset[int]) -> np.ndarray:
        total = np.zeros(self.d, np.uint32)
        for i in who:
            total += self.vector(i)
        return total
