"""Sites of a pairwise round, driven with the real client engine, and a small keys service beside the stage."""

import os
from dataclasses import replace
from typing import Any

import httpx
import msgpack
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from tests.services.aggregator.conftest import Stage, committed, zeros
from tests.shared.secagg.verifiers import UNCERTIFIED
from undersong.services.aggregator.driver.closing import Closing
from undersong.services.aggregator.driver.records import Records
from undersong.services.aggregator.peers.keys import Keys
from undersong.services.aggregator.peers.parties import Parties
from undersong.shared.errors import Refusal
from undersong.shared.identity.authority import public_bytes
from undersong.shared.identity.digests import content_digest
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.ids import SiteId, digest_of
from undersong.shared.secagg.engine import UPLOAD, ClientRound, Payload
from undersong.shared.secagg.engines import engine_named
from undersong.shared.secagg.facts import WITNESS
from undersong.shared.secagg.pairwise import messages, roster
from undersong.shared.secagg.pairwise.terms import terms
from undersong.shared.secagg.pairwise.uploads import MaskSignatures
from undersong.shared.secagg.pairwise.witness import (
    RosterAsk,
    WitnessRefused,
    read_ask,
    roster_statement,
    survivors_statement,
)
from undersong.shared.secagg.payload import sums_payload, train_payload
from undersong.shared.transparency.documents import RoundRecord
from undersong.shared.transparency.records import check_record
from undersong.shared.wire.manifest import RoundKind, RoundManifest, SignedManifest
from undersong.shared.zk.samples import takes_commitments

BEFORE = ("advertise", "share", "check")
AFTER = ("commit", "unmask")
LENGTH = 40


class FakeKeys:
    """A witness that signs each thing once, and a log that checks records; by the contract."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.key = stage, Ed25519PrivateKey.generate()
        self.nonces: dict[str, bytes] = {}
        self.rosters: dict[str, roster.Roster] = {}
        self.replies: dict[tuple[str, bool], tuple[bytes, bytes]] = {}
        self.records: dict[str, RoundRecord] = {}
        self.asked: list[bytes] = []
        self.away = False
        self.lose_answers = 0
        self.app = FastAPI()
        self.app.add_api_route("/v1/rounds/{round_id}/witness", self.witness, methods=["POST"])
        self.app.add_api_route("/v1/rounds/{round_id}/records", self.record, methods=["POST"])

    @property
    def public(self) -> bytes:
        return public_bytes(self.key.public_key())

    def commit(self, round_id: str) -> str:
        self.nonces[round_id] = os.urandom(32)
        return roster.nonce_commitment(self.nonces[round_id]).hex()

    async def witness(self, round_id: str, request: Request) -> Response:
        if self.away:
            return Response(status_code=503)
        question = msgpack.unpackb(await request.body(), raw=False)
        signed = SignedManifest.model_validate_json(question["manifest"])
        self.stage.coordinator.private_key.public_key().verify(
            bytes.fromhex(signed.signature), signed.manifest.statement()
        )
        self.asked.append(question["ask"])
        ask = read_ask(question["ask"])
        place = (round_id, isinstance(ask, RosterAsk))
        if place not in self.replies:
            try:
                self.replies[place] = (question["ask"], self.answer(round_id, signed.manifest, ask))
            except (Refusal, WitnessRefused) as refusal:
                return JSONResponse({"title": refusal.title(), "detail": refusal.detail}, refusal.status)
        asked, reply = self.replies[place]
        if asked != question["ask"]:
            return JSONResponse({"title": "Already.", "detail": "another question was answered"}, 409)
        if self.lose_answers:
            self.lose_answers -= 1
            raise httpx.ReadError("the answer was lost")
        return Response(reply, media_type="application/octet-stream")

    def answer(self, round_id: str, manifest: RoundManifest, ask: Any) -> bytes:
        fixed = terms(manifest, self.public)
        if not isinstance(ask, RosterAsk):
            return self.key.sign(survivors_statement(ask, fixed, self.rosters[round_id]))
        certified = {name: public_bytes(who.private_key.public_key()) for name, who in self.stage.people.items()}
        nonce = self.nonces[round_id]
        frozen, statement = roster_statement(ask, fixed, nonce, frozenset(manifest.cohort), certified)
        self.rosters[round_id] = replace(frozen, signature=self.key.sign(statement))
        return messages.pack_list([nonce, self.rosters[round_id].signature])

    async def record(self, round_id: str, request: Request) -> Response:
        if self.away:
            return Response(status_code=503)
        found = RoundRecord.model_validate_json(await request.body())
        check_record(found, self.public, public_bytes(self.stage.coordinator.private_key.public_key()))
        assert self.records.setdefault(round_id, found) == found
        return Response(status_code=201)


class Sites:
    """A pairwise round at a stage: what its sites hold, and what they do."""

    def __init__(self, stage: Stage, keys: FakeKeys, manifest: RoundManifest) -> None:
        self.stage, self.keys, self.manifest = stage, keys, manifest
        self.engine = engine_named("pairwise").client
        self.client_rounds: dict[str, ClientRound] = {}
        self.states: dict[str, bytes] = {}
        self.answers: dict[str, bytes | None] = {}
        self.said: dict[tuple[str, str], bytes] = {}
        self.signatures: dict[str, bytes] = {}
        self.aborted: dict[str, str] = {}

    @classmethod
    async def open(cls, stage: Stage, *, kind: RoundKind = RoundKind.TRAIN, sites: int = 5, **changes: Any) -> "Sites":
        keys = attach(stage)
        if kind is not RoundKind.STATISTICS:
            changes.setdefault("model", stage.registry.seed(zeros(LENGTH)))
        plain = stage.manifest(kind, sites, engine="pairwise", min_cohort=3, **changes)
        params = {"corrupt": 0.3, "dropout": 0.2, "quorum": True, "nonce_commitment": keys.commit(plain.round_id)}
        manifest = plain.model_copy(update={"engine_params": {**params, **plain.engine_params}})
        made = cls(stage, keys, manifest)
        await stage.open(manifest)
        for site in manifest.cohort:
            client_round = ClientRound(manifest, SiteId(site), {}, stage.site(site).private_key.sign, keys.public)
            made.client_rounds[site], made.states[site], made.answers[site] = (
                client_round,
                made.engine.begin(client_round, UNCERTIFIED),
                None,
            )
        return made

    def terms(self) -> roster.Terms:
        return terms(self.manifest, self.keys.public)

    @property
    def id(self) -> str:
        return self.manifest.round_id

    def vector(self, site: str) -> np.ndarray[Any, Any]:
        return np.arange(LENGTH, dtype=np.float32) / (self.manifest.cohort.index(SiteId(site)) + 9)

    async def put(self, site: str, step: str, message: bytes, wait_s: float = 0) -> httpx.Response:
        async with self.stage.client(self.stage.site(site)) as http:
            headers = {"content-type": "application/octet-stream", "content-digest": content_digest(message)}
            path = f"/v1/rounds/{self.id}/steps/{step}"
            return await http.put(path, content=message, headers=headers, params={"wait_s": wait_s})

    async def get(self, site: str, step: str, wait_s: float = 0) -> httpx.Response:
        async with self.stage.client(self.stage.site(site)) as http:
            return await http.get(f"/v1/rounds/{self.id}/steps/{step}/answer", params={"wait_s": wait_s})

    async def lose(self, *sites: str) -> httpx.Response:
        async with self.stage.client(self.stage.coordinator) as http:
            return await http.post(f"/v1/rounds/{self.id}/lost", json={"sites": list(sites)})

    async def say(self, site: str, step: str, wait_s: float = 0) -> httpx.Response:
        if (site, step) not in self.said:
            self.states[site], self.said[site, step] = self.engine.message(
                self.client_rounds[site], self.states[site], step, self.answers[site]
            )
        return await self.put(site, step, self.said[site, step], wait_s)

    def payload(self, site: str) -> Payload:
        if self.manifest.kind is RoundKind.TRAIN:
            samples = committed(self.manifest, site) if takes_commitments(self.manifest) else None
            vector = self.vector(site)
            return train_payload(self.manifest, vector, examples=1, loss=0.5, key=bytes(32), samples=samples)
        return sums_payload(self.manifest, self.vector(site).astype(np.float64), None)

    async def upload(self, site: str) -> httpx.Response:
        if (site, UPLOAD) not in self.said:
            self.states[site], pieces = self.engine.upload(
                self.client_rounds[site], self.states[site], self.answers[site], self.payload(site)
            )
            body = b"".join(bytes(piece) for piece in pieces)
            self.said[site, UPLOAD] = body
            self.client_rounds[site] = replace(self.client_rounds[site], body=bytes.fromhex(digest_of(body)))
        if site not in self.signatures:
            digest = bytes.fromhex(digest_of(self.said[site, UPLOAD]))
            self.signatures[site] = MaskSignatures().sign(self.client_rounds[site], self.states[site], digest)
        signature = {"update-signature": self.signatures[site].hex()}
        return await self.stage.send(self.id, site, self.said[site, UPLOAD], **signature)

    async def step(self, step: str, *, without: tuple[str, ...] = (), close: bool = True) -> None:
        """All who are still there do one step; the worker closes it; they hear the answer."""
        self.present = [site for site in self.answers if site not in without]
        self.answers = {site: self.answers[site] for site in self.present}
        for site in self.present:
            answer = await (self.upload(site) if step == UPLOAD else self.say(site, step))
            assert answer.status_code in (200, 201, 202), answer.text
        if without:
            assert (await self.lose(*without)).status_code == 200
        if close:
            await self.close()
            await self.hear(step)

    async def hear(self, step: str) -> None:
        for site in self.present:
            answer = await self.get(site, step)
            if answer.status_code == 200:
                self.answers[site] = answer.content

    async def close(self) -> None:
        """Let the worker do what it can do now, and stop where it would wait."""
        await turn_to_rest(self.stage, self.id)

    async def run(self, *, lost: dict[str, str] | None = None) -> dict[str, Any]:
        """The whole round, one site leaving before each step named in `lost`."""
        for step in (*BEFORE, UPLOAD, *AFTER):
            gone = tuple(site for site, last in (lost or {}).items() if last == step)
            await self.step(step, without=gone)
        return await self.stage.state(self.id)

    def expected(self, sites: list[str]) -> np.ndarray[Any, Any]:
        return np.sum([self.vector(site) for site in sites], axis=0) / len(sites)


def attach(stage: Stage) -> FakeKeys:
    """Put a keys service beside the stage, once; the worker of now speaks to it."""
    keys: FakeKeys | None = getattr(stage, "fake_keys", None)
    if keys is None:
        keys = FakeKeys(stage)
        stage.fake_keys = keys  # type: ignore[attr-defined]
    http = httpx.AsyncClient(transport=httpx.ASGITransport(keys.app))
    client = Keys(http, SigningAuth(stage.aggregator, "keys"), "http://keys")
    driver: Any = stage.driver
    closing: Closing = driver._closing
    closing._parties = Parties({WITNESS: [client]})
    records: Records = driver._records
    records._keys = client
    return keys


async def turn_to_rest(stage: Stage, round_id: Any) -> None:
    """One worker's turns until it would wait."""

    class Rest(Exception):
        pass

    class Tired:
        async def wait(self, timeout_s: float) -> bool:
            raise Rest

    driver: Any = stage.driver
    hold = await driver.claim(round_id)
    if hold is None:
        return
    from undersong.services.aggregator.driver.publication import RoundFailed

    try:
        while await driver.turn(hold, Tired()):
            pass
    except Rest:
        pass
    except RoundFailed as error:
        await stage.components.rounds.fail(round_id, error.reason, error.faults)
    finally:
        await driver._release(hold, 0.0, failed=False)
    for task in list(driver._handing_in):
        await task
