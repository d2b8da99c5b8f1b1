"""The other parties of pairwise rounds for tests: aggregator, witness, log, and sites that answer by themselves."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.shared.secagg.verifiers import UNCERTIFIED
from undersong.shared.errors import Refusal
from undersong.shared.ids import Digest, SiteId, digest_of
from undersong.shared.merkle import proofs as merkle
from undersong.shared.secagg.engine import UPLOAD, ClientRound, ServerRound
from undersong.shared.secagg.pairwise import messages, roster, witness
from undersong.shared.secagg.pairwise.complaints import unpack_complaints
from undersong.shared.secagg.pairwise.engine import PAIRWISE, terms
from undersong.shared.secagg.pairwise.facts import STEPS
from undersong.shared.secagg.pairwise.messages import Survivors
from undersong.shared.secagg.pairwise.uploads import MaskSignatures
from undersong.shared.secagg.payload import opened_train, train_payload
from undersong.shared.secagg.quantise import DTYPES, unpack
from undersong.shared.transparency import records
from undersong.shared.wire.manifest import RoundManifest, SignedManifest
from undersong.shared.wire.updates import read_header

PARAMETERS = 4
SIGNING = MaskSignatures()


class Peer:
    """A site that answers every step at once."""

    def __init__(self, number: int) -> None:
        self.site_id, self.key = SiteId(f"site_peer{number}"), Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes_raw()
        self.delta = np.full(PARAMETERS, 0.25 * (number + 1), np.float32)
        self.state = b""
        self.client_round: ClientRound

    def begin(self, manifest: RoundManifest, witness_key: bytes) -> None:
        self.client_round = ClientRound(manifest, self.site_id, {}, self.key.sign, witness_key)
        self.state = PAIRWISE.client.begin(self.client_round, UNCERTIFIED)

    def say(self, step: str, answer: bytes | None) -> bytes:
        if step != UPLOAD:
            self.state, message = PAIRWISE.client.message(self.client_round, self.state, step, answer)
            return message
        payload = train_payload(self.client_round.manifest, self.delta, examples=10, loss=0.5, key=os.urandom(32))
        self.state, pieces = PAIRWISE.client.upload(self.client_round, self.state, answer, payload)
        body = b"".join(pieces)
        self.client_round = replace(self.client_round, body=hashlib.sha256(body).digest())
        self.signature = SIGNING.sign(self.client_round, self.state, hashlib.sha256(body).digest())
        return body


class PairwiseRound:
    """One round at the aggregator. Every step waits for all sites that are still in it."""

    def __init__(self, platform: Any, manifest: RoundManifest, nonce: bytes, peers: Iterable[Peer] = ()) -> None:
        self.platform, self.manifest, self.nonce = platform, manifest, nonce
        self.peers = {peer.site_id: peer for peer in peers}
        self.server_round = ServerRound(manifest, PAIRWISE.server.open(manifest).secret, {})
        self.said: dict[str, dict[SiteId, bytes]] = {step: {} for step in STEPS}
        self.signatures: dict[SiteId, bytes] = {}  # over the bodies, as they came with them
        self.heard: list[tuple[str, SiteId, bytes]] = []  # everything that agents sent, refused or not
        self.answers: dict[str, dict[SiteId, bytes]] = {}
        self.lost: dict[str, set[SiteId]] = {}  # from this step on, these sites are out
        self.bend: dict[str, Any] = {}  # step: a change of its answers
        self.faults: dict[SiteId, str] = {}  # what the record says of sites
        self.held: set[str] = set()  # steps whose answers are not given out
        self.ended: str | None = None
        self.total: Any = None
        self.logged: records.LoggedRecord | None = None
        self._lock = threading.RLock()
        for peer in self.peers.values():
            peer.begin(manifest, platform.witness_key)
        self._peers_speak()

    @property
    def step(self) -> str | None:
        """The open step."""
        return next((step for step in STEPS if step not in self.answers), None)

    def out(self, site: SiteId, step: str) -> bool:
        """Return whether the site dropped out before or in this step."""
        return any(site in sites for at, sites in self.lost.items() if STEPS.index(at) <= STEPS.index(step))

    def say(self, site: SiteId, step: str, message: bytes, signature: bytes = b"") -> str | None:
        """Take a message; the slug of the refusal, if it is refused."""
        with self._lock:
            earlier = self.said[step].get(site)
            if earlier is not None:
                return None if earlier == message else "step-differs"
            if self.ended or self.out(site, step):
                return self.ended or "site-fell-out"
            if step != self.step:
                return "step-closed"
            if step == UPLOAD:
                SIGNING.check(self.server_round, site, hashlib.sha256(message).digest(), signature)
                self.signatures[site] = signature
            self.said[step][site] = message
            self._peers_speak()
        return None

    async def answer(self, site: SiteId, step: str, wait_s: float = 1.0) -> bytes | str | None:
        """The answer, None while there is none, or the slug of the refusal."""
        for _ in range(int(wait_s / 0.02)):
            if self.ended or self.out(site, step):
                return f"!{self.ended or 'site-fell-out'}"
            if step in self.answers and step not in self.held:
                found = self.answers[step].get(site)
                return found if found is not None else "!site-fell-out"
            await asyncio.sleep(0.02)
        return None

    def _peers_speak(self) -> None:
        """Let the peers answer the open step, and close it as often as everyone has answered."""
        while not self.ended and (step := self.step) is not None:
            place = STEPS.index(step)
            before = self.answers[STEPS[place - 1]] if place else {}
            sites = set(before) if place else set(self.manifest.cohort)
            for site in sorted(sites & self.peers.keys() - self.said[step].keys()):
                if not self.out(site, step):
                    self.said[step][site] = self.peers[site].say(step, before.get(site))
                    if step == UPLOAD:
                        self.signatures[site] = self.peers[site].signature
            if {site for site in sites if not self.out(site, step)} - self.said[step].keys():
                return
            self._close(step)

    def _close(self, step: str) -> None:
        said = self.said[step]
        if step == UPLOAD:
            said = {site: hashlib.sha256(body).digest() + self.signatures[site] for site, body in said.items()}
        keys = {**{p.site_id: p.public for p in self.peers.values()}, **self.platform.site_keys}
        self.server_round = replace(self.server_round, site_keys=keys)
        try:
            closed = PAIRWISE.server.close(self.server_round, step, said)
            if closed.asks:
                closed = PAIRWISE.server.close(
                    self.server_round, step, said, {0: self._witness(closed.asks.asks[0].body, keys)}
                )
        except Refusal as refusal:
            self.ended = refusal.slug()
            return
        self.server_round = replace(self.server_round, secret=closed.secret)
        bend = self.bend.get(step)
        self.answers[step] = bend(dict(closed.answers)) if bend else dict(closed.answers)
        if step == STEPS[-1]:
            self._publish()

    def _witness(self, body: bytes, keys: dict[SiteId, bytes]) -> bytes:
        ask, fixed = witness.read_ask(body), terms(self.manifest, self.platform.witness_key)
        sign = self.platform.keys.private_key.sign
        if isinstance(ask, witness.RosterAsk):
            frozen, statement = witness.roster_statement(ask, fixed, self.nonce, frozenset(self.manifest.cohort), keys)
            self.roster = replace(frozen, signature=sign(statement))
            return messages.pack_list([self.nonce, self.roster.signature])
        self.sharers = ask.sharers
        self.survivors = Survivors(ask.members, ask.root, sign(witness.survivors_statement(ask, fixed, self.roster)))
        return self.survivors.signature

    def _publish(self) -> None:
        bodies = self.said[UPLOAD]
        total = np.zeros(len(self._words(next(iter(bodies.values())))), DTYPES[self._bits])
        for body in bodies.values():
            total += self._words(body)
        PAIRWISE.server.unmask_sum(self.server_round, total)
        self.total = opened_train(self.manifest, total, len(bodies))
        commitments = {site: said[-64:].hex() for site, said in self.said["commit"].items()}
        committed = {site: read_header(body)[0].samples for site, body in bodies.items()}
        record = records.RoundRecord(
            manifest=self._signed(), engine="pairwise", roster=self.roster.pack().hex(), sharers=self.sharers.hex(),
            survivors=self.survivors.pack().hex(), bodies={s: digest_of(body) for s, body in bodies.items()},
            upload_signatures={site: self.signatures[site].hex() for site in bodies},
            commitments=commitments, sum_digest=digest_of(total.tobytes()), transcript="0" * 64,
            result=records.RoundResult(values_digest=Digest("1" * 64)), contributors=len(bodies),
            faults=self.faults,
            complaints={s: said.hex() for s, said in self.said["check"].items() if unpack_complaints(said)},
            samples={site: message[:32].hex() for site, message in committed.items() if message},
        )  # fmt: skip
        head = records.transcript_of(record)[-1].hex()
        self.logged = self.platform.log.add(record.model_copy(update={"transcript": head}))

    @property
    def _bits(self) -> int:
        assert self.manifest.encoding is not None
        return self.manifest.encoding.modulus_bits

    def _words(self, body: bytes) -> Any:
        _, start = read_header(body)
        return unpack(body[start:], self._bits)

    def _signed(self) -> SignedManifest:
        signer = self.platform.coordinator
        signature = signer.private_key.sign(self.manifest.statement()).hex()
        return SignedManifest(manifest=self.manifest, keyid=signer.keyid, signature=signature)


class Log:
    """A transparency log of records and filler."""

    def __init__(self, keys: Any) -> None:
        self.keys, self.documents = keys, [self._filler()]

    @property
    def leaves(self) -> list[bytes]:
        return [records.leaf_of(document) for document in self.documents]

    @staticmethod
    def _filler() -> dict[str, Any]:
        return {"type": "restored", "epoch": 0, "noticed_at": os.urandom(8).hex()}

    def issue(self, party: str, public_key: bytes, keyid: str) -> None:
        key = public_key.hex()
        self.documents.append({"type": "certificate-issued", "keyid": keyid, "party": party, "public_key": key})

    def entries(self, start: int, end: int) -> list[dict[str, Any]]:
        found = list(enumerate(self.documents))[start:end]
        return [{"index": i, "type": doc["type"], "subject": "", "document": doc} for i, doc in found]

    def add(self, record: records.RoundRecord) -> records.LoggedRecord:
        self.documents += [record.leaf_document(), self._filler()]
        index, size = len(self.leaves) - 2, len(self.leaves)
        path = merkle.inclusion_proof(index, size, merkle.stored(self.leaves))
        proof = records.InclusionProof(index=index, size=size, path=tuple(Digest(p.hex()) for p in path))
        return records.LoggedRecord(record=record, index=index, proof=proof, head=self.head())

    def head(self) -> records.LogHead:
        root = merkle.root(self.leaves)
        bare = {"size": len(self.leaves), "root": root.hex(), "timestamp_ms": 1, "keyid": self.keys.keyid}
        head = records.LogHead.model_validate({**bare, "signature": "0" * 128})
        return head.model_copy(update={"signature": self.keys.private_key.sign(head.statement()).hex()})

    def consistency(self, first: int, second: int) -> records.ConsistencyProof:
        path = merkle.consistency_proof(first, second, merkle.stored(self.leaves[:second]))
        return records.ConsistencyProof(first=first, second=second, path=tuple(Digest(p.hex()) for p in path))


def commitment(nonce: bytes) -> str:
    """What the manifest holds of the nonce."""
    return roster.nonce_commitment(nonce).hex()
