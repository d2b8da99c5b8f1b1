"""The pairwise engine through the seam that the services use, with a real witness, stored state and lost sites."""

import hashlib
import os
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.shared.secagg.verifiers import UNCERTIFIED
from undersong.shared.errors import Refusal
from undersong.shared.ids import SiteId
from undersong.shared.secagg.engine import UPLOAD, ClientRound, Payload, ServerRound, UpdateRefused
from undersong.shared.secagg.pairwise import messages, roster, witness
from undersong.shared.secagg.pairwise.engine import PAIRWISE, terms
from undersong.shared.secagg.pairwise.server import NotEnoughShares
from undersong.shared.secagg.quantise import DTYPES, pack, unpack
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.updates import read_header

SITES = tuple(SiteId(f"site_{i}") for i in range(5))
LENGTH = 1000


def manifest(nonce: bytes, **changes: object) -> RoundManifest:
    document = {
        "federation_id": "fed_1", "job_id": "job_1", "round_id": "rnd_1", "number": 1, "attempt": 1, "kind": "train",
        "engine": "pairwise", "recipe": {"name": "null", "digest": "0" * 64}, "data": {"dataset": "d"},
        "engine_params": {
            "corrupt": 0.3, "dropout": 0.2, "quorum": True, "nonce_commitment": roster.nonce_commitment(nonce).hex(),
        },
        "model": {"version_id": "ver_1", "digest": "1" * 64}, "model_id": "mdl_1",
        "encoding": {"modulus_bits": 32, "max_summands": 5, "bound": 1000, "scale": 1.0, "max_weight": 10},
        "cohort": list(SITES), "min_cohort": 3, "target": 5, "strategy": {"name": "fedavg"}, "seed": 1, "deadline_s": 9,
    }  # fmt: skip
    return RoundManifest.model_validate({**document, **changes})


class BytesSource:
    """A body in memory, read as the aggregator reads files."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, size: int) -> memoryview:
        part = self.data[self.at : self.at + size]
        self.at += len(part)
        return part


@dataclass
class Parties:
    """The services' shape of a round: state as bytes, one step after the other."""

    changes: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = PAIRWISE
        self.nonce = os.urandom(32)
        self.manifest = manifest(self.nonce, **self.changes)
        self.keys = {site: Ed25519PrivateKey.generate() for site in SITES}
        self.public = {site: key.public_key().public_bytes_raw() for site, key in self.keys.items()}
        self.witness = Ed25519PrivateKey.generate()
        opened = self.engine.server.open(self.manifest)
        self.server_round = ServerRound(self.manifest, opened.secret, self.public)
        self.client_rounds = {
            site: ClientRound(self.manifest, site, opened.public, self.keys[site].sign, self.witness_key)
            for site in SITES
        }
        self.states = {
            site: self.engine.client.begin(client_round, UNCERTIFIED)
            for site, client_round in self.client_rounds.items()
        }
        self.answers: dict[SiteId, bytes] = {}
        self.bodies: dict[SiteId, bytes] = {}
        self.frozen: roster.Roster | None = None

    @property
    def witness_key(self) -> bytes:
        return self.witness.public_key().public_bytes_raw()

    def reply(self, body: bytes) -> bytes:
        ask = witness.read_ask(body)
        fixed = terms(self.manifest, self.witness_key)
        if isinstance(ask, witness.RosterAsk):
            cohort = frozenset(map(str, SITES))
            frozen, statement = witness.roster_statement(ask, fixed, self.nonce, cohort, self.public)
            self.frozen = replace(frozen, signature=self.witness.sign(statement))
            return messages.pack_list([self.nonce, self.frozen.signature])
        assert self.frozen is not None
        return self.witness.sign(witness.survivors_statement(ask, fixed, self.frozen))

    def close(self, step: str, said: dict[SiteId, bytes]) -> None:
        closed = self.engine.server.close(self.server_round, step, said)
        if closed.asks:
            assert closed.secret == self.server_round.secret, "nothing is stored before the witness has spoken"
            closed = self.engine.server.close(self.server_round, step, said, {0: self.reply(closed.asks.asks[0].body)})
        self.server_round = replace(self.server_round, secret=closed.secret)
        self.answers = dict(closed.answers)

    def step(self, step: str, lost: frozenset[SiteId] = frozenset()) -> None:
        said = {}
        for site in (self.answers or self.client_rounds).keys() - lost:
            answer = self.answers.get(site)
            self.states[site], said[site] = self.engine.client.message(
                self.client_rounds[site], self.states[site], step, answer
            )
        self.close(step, said)

    def vector(self, site: SiteId) -> np.ndarray:
        return np.random.default_rng(SITES.index(site)).integers(0, 9000, LENGTH).astype(np.uint32)

    def upload(self, lost: frozenset[SiteId] = frozenset()) -> None:
        uploads = {}
        for site in self.answers.keys() - lost:
            payload = Payload(self.manifest.kind, LENGTH, 32, pack(self.vector(site), 32))
            client_round = self.client_rounds[site]
            self.states[site], pieces = self.engine.client.upload(
                client_round, self.states[site], self.answers[site], payload
            )
            self.bodies[site] = b"".join(pieces)
            digest = hashlib.sha256(self.bodies[site]).digest()
            uploads[site] = digest + self.signed(site, digest)
            self.client_rounds[site] = replace(client_round, body=digest)
        self.close(UPLOAD, uploads)

    def signed(self, site: SiteId, digest: bytes) -> bytes:
        """The site's signature over its body, as the aggregator accepts it."""
        assert self.engine.signing is not None
        signature = self.engine.signing.sign(self.client_rounds[site], self.states[site], digest)
        self.engine.signing.check(self.server_round, site, digest, signature)
        return signature

    def total(self) -> np.ndarray:
        total = np.zeros(LENGTH, DTYPES[32])
        for body in self.bodies.values():
            header, start = read_header(body)
            words = b"".join(self.engine.server.open_payload(self.server_round, header, BytesSource(body[start:])))
            assert len(words) == self.engine.server.body_size(self.manifest, header)
            total += unpack(words, 32)
        self.engine.server.unmask_sum(self.server_round, total)
        return total


def test_nothing_is_revealed_before_the_survivors_opened_it() -> None:
    party = Parties()
    party.step("advertise")
    party.step("share")
    party.step("check")
    party.upload()
    with pytest.raises(NotEnoughShares):
        party.total()


def test_another_body_in_a_sites_place_is_noticed_by_the_site() -> None:
    party = Parties()
    party.step("advertise")
    party.step("share")
    party.step("check")
    party.upload()
    site = SITES[1]
    party.client_rounds[site] = replace(party.client_rounds[site], body=hashlib.sha256(b"mine").digest())
    with pytest.raises(roster.RoundAborted, match="another update"):
        party.engine.client.message(party.client_rounds[site], party.states[site], "commit", party.answers[site])


def test_too_few_sites_end_the_round_with_a_reason() -> None:
    party = Parties()
    party.step("advertise")
    party.step("share")
    party.step("check")
    with pytest.raises(NotEnoughShares, match="2 survivors are fewer than the 4"):
        party.upload(lost=frozenset(SITES[2:]))


@pytest.mark.parametrize(
    ("bend", "reason"),
    [
        (lambda p, m: (m[0], m[0], *m[1:]), "twice"),
        (lambda p, m: m[:2], "minimum cohort"),
        (lambda p, m: (replace(m[0], identity=bytes(32)), *m[1:]), "no valid certificate"),
        (lambda p, m: (replace(m[0], site_id="site_"), *m[1:]), "not in the manifest"),
        (lambda p, m: (replace(m[0], advertisement=m[1].advertisement), *m[1:]), "valid signature"),
    ],
)
def test_the_witness_refuses_a_bent_roster(bend: object, reason: str) -> None:
    party = Parties()
    said = {
        site: party.engine.client.message(party.client_rounds[site], party.states[site], "advertise", None)[1]
        for site in SITES
    }
    closed = party.engine.server.close(party.server_round, "advertise", said)
    assert closed.asks
    ask = witness.read_ask(closed.asks.asks[0].body)
    assert isinstance(ask, witness.RosterAsk)
    bent = witness.RosterAsk(replace(ask.roster, members=bend(party, ask.roster.members)))  # type: ignore[operator]
    fixed = terms(party.manifest, party.witness_key)
    with pytest.raises(witness.WitnessRefused, match=reason):
        witness.roster_statement(bent, fixed, party.nonce, frozenset(map(str, SITES)), party.public)
    with pytest.raises(witness.WitnessRefused, match="commitment"):
        witness.roster_statement(ask, fixed, bytes(32), frozenset(map(str, SITES)), party.public)


def test_garbage_in_any_step_is_a_named_refusal() -> None:
    party = Parties()
    with pytest.raises(Refusal):
        party.engine.server.close(party.server_round, "advertise", dict.fromkeys(SITES, b"garbage"))
    party.step("advertise")
    with pytest.raises(Refusal):
        party.engine.server.close(party.server_round, "share", dict.fromkeys(SITES, b"garbage"))
    with pytest.raises(UpdateRefused):
        party.engine.server.close(party.server_round, "no such step", {})
    for data in (b"", b"\x80", b"\xc1", b"\x81\xa4what\xa5other"):
        with pytest.raises(messages.MalformedStep):
            witness.read_ask(data)


def test_a_client_without_witness_key_or_with_bad_parameters_never_begins() -> None:
    party = Parties()
    with pytest.raises(UpdateRefused, match="witness"):
        party.engine.client.begin(replace(party.client_rounds[SITES[0]], witness=None), UNCERTIFIED)
    bad = manifest(
        party.nonce, engine_params={"corrupt": 2, "dropout": 0, "quorum": True, "nonce_commitment": "0" * 64}
    )
    with pytest.raises(Refusal, match="corrupt"):
        terms(bad, party.witness_key)
