"""One round of any engine, driven through the seam as the services drive it: state as bytes, one step after another."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.contracts.parties import CUSTODIANS, Party, Signer, derived_from, parties
from tests.contracts.threshold import CUSTODIAN
from tests.shared.secagg.verifiers import Certified, NotCertified
from undersong.services.aggregator.peers.parties import Parties, Stage
from undersong.services.aggregator.peers.peer import AskRefused
from undersong.shared.errors import Refusal, Unavailable
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg.engine import (
    UPLOAD,
    Ask,
    Asks,
    BodySource,
    ClientRound,
    Closed,
    Payload,
    Replies,
    ServerRound,
    UpdateRefused,
    check_header,
)
from undersong.shared.secagg.engines import engine_facts, engine_named
from undersong.shared.secagg.facts import PlanRequest
from undersong.shared.secagg.fold import BytesSource, RunningSum
from undersong.shared.secagg.pairwise.graph import plan
from undersong.shared.secagg.payload import sums_payload, train_payload
from undersong.shared.secagg.quantise import plan_encoding, plan_norm, plan_sums, unpack
from undersong.shared.secagg.transcript import nonce_commitment
from undersong.shared.transparency.records import RoundFacts, check_record, named_voucher, transcript_of
from undersong.shared.wire.custodian import custodian_service
from undersong.shared.wire.helper import HELPER
from undersong.shared.wire.manifest import RoundKind, RoundManifest, SignedManifest
from undersong.shared.wire.records import RoundRecord
from undersong.shared.wire.updates import UpdateHeader, read_header, write_header

SITES = tuple(SiteId(f"site_{i}") for i in range(7))
MODEL = 40
VALUES = 9
SERVICES = ("coordinator", "keys", HELPER, CUSTODIAN, *map(custodian_service, range(CUSTODIANS)))
NONCE = os.urandom(32)
SIGNERS = {name: Signer() for name in SERVICES}
KEYS = {site: Ed25519PrivateKey.generate() for site in SITES}
PUBLIC = {site: key.public_key().public_bytes_raw() for site, key in KEYS.items()}
CERTIFIED = Certified({(name, signer.keyid): signer.public for name, signer in SIGNERS.items()})


def manifest_of(engine: str, kind: RoundKind = RoundKind.TRAIN, **changes: Any) -> RoundManifest:
    facts, count = engine_facts(engine), len(SITES)
    if kind is not RoundKind.TRAIN:
        encoding = plan_sums(summands=count)
    elif facts.weighted:
        encoding = plan_encoding(summands=count, max_weight=8, clip_norm=2.0, bound_value=None, modulus_bits=32)
    else:
        encoding = plan_norm(summands=count, clip_norm=2.0)
    params = facts.plan(PlanRequest(kind, count))
    if facts.commits_nonce:
        params |= {"nonce_commitment": nonce_commitment(NONCE).hex()}
    document = {
        "federation_id": "fed_1", "job_id": "job_1", "round_id": "rnd_1", "number": 1, "attempt": 1, "kind": kind,
        "engine": engine, "recipe": {"name": "null", "digest": "0" * 64}, "data": {"dataset": "d"},
        "engine_params": params, "model": {"version_id": "ver_1", "digest": "1" * 64}, "model_id": "mdl_1",
        "encoding": encoding, "cohort": list(SITES), "min_cohort": 3, "target": count,
        "strategy": {"name": "fedavg"}, "seed": 1, "deadline_s": 9,
    }  # fmt: skip
    return RoundManifest.model_validate({**document, **changes})


Replaced = Mapping[tuple[str, int], Callable[[], bytes]]


class Reached:
    """A party of a round, as far as it can be reached."""

    def __init__(self, round_: "Round", name: str, index: int, party: Party) -> None:
        self._round, self._place, self._party = round_, (name, index), party

    async def answer(self, stage: Stage, signed: SignedManifest, ask: Ask) -> bytes:
        if self._place in self._round.absent:
            raise Unavailable("the party is away")
        if self._place in self._round.instead:
            return self._round.instead[self._place]()
        try:
            return self._party.answer(stage, self._round.manifest, ask.body)
        except Refusal as refusal:
            raise AskRefused(refusal.detail) from refusal


class Round:
    """Both sides of one round. `absent`: parties (name, index) that do not answer now; `instead`: what they say."""

    def __init__(
        self, manifest: RoundManifest, absent: Collection[tuple[str, int]] = (), instead: Replaced | None = None
    ) -> None:
        self.manifest, self.engine = manifest, engine_named(manifest.engine)
        self.facts, self.server, self.client = self.engine.facts, self.engine.server, self.engine.client
        self.parties = parties(SIGNERS, NONCE, PUBLIC)
        self.absent, self.instead = absent, instead or {}
        self.answers: dict[SiteId, bytes | None] = {}
        self.bodies: dict[SiteId, bytes] = {}
        self.signatures: dict[SiteId, bytes] = {}
        self.vouched: list[Replies] = []
        words = VALUES * (2 if manifest.privacy is None else 1)
        self.length = words if manifest.kind is not RoundKind.TRAIN else MODEL + self.facts.tail_words
        opened = self.server.open(manifest, derive=derived_from(b"leader"))
        self.asked_to_begin = bool(opened.asks)
        if opened.asks:
            opened = self.server.begun(ServerRound(manifest, opened.secret), opened, self.ask("begin", opened.asks))
        self.server_round = ServerRound(manifest, opened.secret, PUBLIC, length=self.length, body=self._opened)
        self.client_rounds = {site: self.client_round(site, opened.public) for site in SITES}
        self.states: dict[SiteId, bytes] = {}

    def client_round(self, site: SiteId, public: Mapping[str, Any]) -> ClientRound:
        keyid = hashlib.sha256(PUBLIC[site]).hexdigest()
        return ClientRound(self.manifest, site, public, KEYS[site].sign, SIGNERS["keys"].public, keyid=keyid)

    def ask(self, stage: Stage, asks: Asks) -> dict[int, bytes]:
        """The answers of those parties that are there, as the aggregator asks them."""
        signed: Any = None
        known = {
            name: [Reached(self, name, index, party) for index, party in enumerate(parties)]
            for name, parties in self.parties.items()
        }
        return asyncio.run(Parties(known).ask(stage, signed, asks))

    def begin(self) -> None:
        self.states = {
            site: self.client.begin(client_round, CERTIFIED) for site, client_round in self.client_rounds.items()
        }
        self.answers = dict.fromkeys(SITES)

    def close(self, step: str, said: Mapping[SiteId, bytes]) -> None:
        closed = self.server.close(self.server_round, step, said)
        while closed.asks:
            replies = self.ask("close", closed.asks)
            self.vouched += [replies] if step == UPLOAD else []
            closed = self.server.close(replace(self.server_round, secret=closed.secret), step, said, replies)
        self._closed(closed)

    def _closed(self, closed: Closed) -> None:
        self.server_round, self.answers = replace(self.server_round, secret=closed.secret), dict(closed.answers)

    def step(self, step: str, lost: frozenset[SiteId]) -> None:
        """Run one step: every site that has not dropped out sends its message, or its update."""
        there = self.answers.keys() - lost
        if step == UPLOAD:
            for site in sorted(there):
                self.hand_in(site)
            self.close(UPLOAD, self.uploads(self.bodies))
            return
        said = {}
        for site in sorted(there):
            self.states[site], said[site] = self.client.message(
                self.client_rounds[site], self.states[site], step, self.answers[site]
            )
        self.close(step, said)

    def payload(self, site: SiteId) -> Payload:
        rng, key = np.random.default_rng(SITES.index(site)), hashlib.sha256(site.encode()).digest()
        if self.manifest.kind is RoundKind.TRAIN:
            delta = rng.normal(0, 0.1, MODEL).astype(np.float32)
            return train_payload(self.manifest, delta, examples=2 + SITES.index(site), loss=0.5, key=key)
        return sums_payload(self.manifest, rng.normal(0, 100, VALUES), key=key)

    def expected(self, sites: Mapping[SiteId, bytes]) -> np.ndarray:
        words = [unpack(self.payload(site).data, self.payload(site).modulus_bits)[: self.length] for site in sites]
        return np.sum(words, axis=0, dtype=words[0].dtype)

    def body(self, site: SiteId) -> tuple[bytes, bytes]:
        """A site's update, and its signature over that where the engine has bodies signed."""
        state, pieces = self.client.upload(
            self.client_rounds[site], self.states[site], self.answers[site], self.payload(site)
        )
        body = b"".join(bytes(piece) for piece in pieces)
        digest = hashlib.sha256(body).digest()
        self.states[site], self.client_rounds[site] = state, replace(self.client_rounds[site], body=digest)
        signing = self.engine.signing
        return body, b"" if signing is None else signing.sign(self.client_rounds[site], state, digest)

    def hand_in(self, site: SiteId) -> None:
        body, signature = self.body(site)
        self.accept(site, body, signature)
        self.bodies[site], self.signatures[site] = body, signature

    def accept(self, site: SiteId, body: bytes, signature: bytes) -> None:
        """All that is checked of an update before it is in the sum; raises a Refusal."""
        header, offset = read_header(body)
        payload, digest = memoryview(body)[offset:], hashlib.sha256(body).digest()
        check_header(header, self.manifest, site, length=self.length)
        if len(payload) != self.server.body_size(self.manifest, header):
            raise UpdateRefused("the body has another size")
        if self.engine.signing is not None:
            self.engine.signing.check(self.server_round, site, digest, signature)
        if self.facts.second_server:
            helper: Any = self.parties[HELPER][0]
            helper.verify(self.server_round, header, payload, digest, KEYS[site].public_key())
        RunningSum(header.modulus_bits, self.server.sum_length(self.manifest, header),
                   modulus=self.server.modulus(self.manifest)).fold(
            lambda: self.server.open_payload(self.server_round, header, BytesSource(payload)))  # fmt: skip

    def uploads(self, sites: Mapping[SiteId, bytes]) -> dict[SiteId, bytes]:
        return {site: hashlib.sha256(self.bodies[site]).digest() + self.signatures[site] for site in sites}

    def run(self, lost: Mapping[str, frozenset[SiteId]] = {}, until: str | None = None) -> None:
        """Every step, or those before `until`; `lost` drop out at a step."""
        self.begin()
        for step in self.facts.steps:
            if step == until:
                return
            self.step(step, lost.get(step, frozenset()))

    def total(self, sites: Mapping[SiteId, bytes]) -> np.ndarray:
        """The plain sum over these sites' bodies."""
        if asks := self.server.sum_asks(self.server_round):
            self.server_round = replace(self.server_round, shares=self.ask("sum", asks))
        total: RunningSum | None = None
        for site in sites:
            header, offset = read_header(self.bodies[site])
            total = total or RunningSum(
                header.modulus_bits,
                self.server.sum_length(self.manifest, header),
                modulus=self.server.modulus(self.manifest),
            )
            payload = memoryview(self.bodies[site])[offset:]
            total.fold(lambda h=header, p=payload: self.server.open_payload(self.server_round, h, BytesSource(p)))
        assert total is not None
        return self.server.unmask_sum(self.server_round, total.total)

    @contextmanager
    def _opened(self, site: SiteId) -> Iterator[tuple[UpdateHeader, BodySource]]:
        header, offset = read_header(self.bodies[site])
        yield header, BytesSource(memoryview(self.bodies[site])[offset:])

    def record(self, sites: Mapping[SiteId, bytes]) -> RoundRecord:
        """Return what the aggregator submits for the log."""
        found, coordinator = self.server.evidence(self.server_round), SIGNERS["coordinator"]
        signature = coordinator.private.sign(self.manifest.statement()).hex()
        record = RoundRecord.model_validate(
            {
                "manifest": SignedManifest(
                    manifest=self.manifest, keyid=Digest(coordinator.keyid), signature=signature
                ),
                "engine": self.manifest.engine,
                "roster": _hex(found.roster),
                "sharers": _hex(found.sharers),
                "survivors": _hex(found.survivors),
                "bodies": {site: hashlib.sha256(self.bodies[site]).hexdigest() for site in sites},
                "upload_signatures": {site: each.hex() for site, each in found.upload_signatures.items()},
                "commitments": {site: each.hex() for site, each in found.commitments.items()},
                "complaints": {site: each.hex() for site, each in found.complaints.items()},
                "faults": dict(found.faults),
                "sum_digest": "5" * 64,
                "transcript": "0" * 64,
                "result": {"values_digest": "7" * 64},
                "contributors": len(sites),
            }
        )
        return record.model_copy(update={"transcript": Digest(transcript_of(record)[-1].hex())})

    def check(self, record: RoundRecord) -> RoundFacts:
        """As the log and every site check it: with the key of the certificate that the record names, if it does."""
        service, named = self.facts.vouched_by, named_voucher(record)
        if named is not None and named not in CERTIFIED.keys:
            raise NotCertified(f"no {named[0]} has the certificate {named[1]}")
        voucher = SIGNERS[service].public if service is not None else b""
        return check_record(record, voucher, SIGNERS["coordinator"].public)

    @property
    def summed_length(self) -> int:
        """How many words the sum has, which may be more than a payload's."""
        header, _ = read_header(next(iter(self.bodies.values())))
        return self.server.sum_length(self.manifest, header)

    @property
    def tolerated(self) -> int:
        """How many sites may drop out in all."""
        if "corrupt" not in self.manifest.engine_params:
            return len(SITES) - self.manifest.min_cohort
        params: Any = self.manifest.engine_params
        topology = plan(len(SITES), params["corrupt"], params["dropout"], trusted_witness=not params["quorum"])
        return len(SITES) - max(topology.threshold, self.manifest.min_cohort)


def readdressed(body: bytes, manifest: RoundManifest, site: SiteId) -> bytes:
    """The same payload under a header that says it is of another round or site."""
    header, offset = read_header(body)
    changed = replace(header, round_id=manifest.round_id, manifest_digest=manifest.digest(), site_id=site)
    return write_header(changed) + body[offset:]


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()
