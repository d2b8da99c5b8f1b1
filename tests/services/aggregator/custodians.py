"""Real custodians beside the aggregator's stage: three applications, each over a database and a key of its own.

The witness and the log are the keys service's rules over the stage's own certificates. Each address leads to its
application and can be cut off.
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from tests.databases import prepare
from tests.services.aggregator.conftest import Stage, committed, zeros
from tests.services.aggregator.two_servers import Net
from undersong.services.keys.custodian.rounds import CustodianRounds
from undersong.services.keys.custodian.settings import CustodianSettings
from undersong.services.keys.custodian.wiring import PACKAGE, assemble, build_app, install, open_database
from undersong.shared.identity.authority import Subject, public_bytes
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.enrol import IdentityKeeper
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.identity.verify import PartyVerifier, RevocationFeed
from undersong.shared.ids import SiteId
from undersong.shared.learning.tensors import load
from undersong.shared.secagg.engine import ClientRound
from undersong.shared.secagg.engines import engine_named
from undersong.shared.secagg.oneshot.messages import SetAsk, Witnessed
from undersong.shared.secagg.oneshot.sets import statement_to_sign
from undersong.shared.secagg.payload import sums_payload, train_payload
from undersong.shared.secagg.quantise import signed, unpack
from undersong.shared.secagg.transcript import nonce_commitment
from undersong.shared.transparency.documents import RoundRecord
from undersong.shared.transparency.records import check_record
from undersong.shared.web.trust import ServiceTrust
from undersong.shared.wire.manifest import RoundKind, RoundManifest, SignedManifest
from undersong.shared.zk.samples import takes_commitments

LENGTH, COUNT = 30, 3
URLS = tuple(f"http://127.0.0.1:{7006 + index}" for index in range(COUNT))
KEYS = "http://127.0.0.1:7003"


class Custodian:
    """One deployable; `restart` drops all that is only in memory."""

    def __init__(self, stage: Stage, folder: Path, index: int) -> None:
        self.stage, self.index = stage, index
        url = f"sqlite+aiosqlite:///{folder / 'custodian.sqlite'}"
        folder.mkdir(parents=True, exist_ok=True)
        prepare(url, PACKAGE)
        self.settings = CustodianSettings(database_url=url, data_dir=folder, number=index + 1)
        self.database = open_database(self.settings)
        self.identity = stage._make(Subject("service", self.settings.service))
        self.app: FastAPI
        self.rounds: CustodianRounds

    def restart(self) -> None:
        ca, http = self.identity.ca_certificate, self.stage.http
        feed, nonces = RevocationFeed(http, KEYS), SqlNonces(self.database)
        stand = ServiceTrust(
            identity=IdentityKeeper(self.identity, self.settings.identity_dir, http, KEYS),
            verifier=PartyVerifier(ca, self.settings.service, nonces, feed),
            revocations=feed,
            directory=CertificateDirectory(http, KEYS, ca),
            nonces=nonces,
            http=http,
        )
        self.app = build_app(self.settings)
        self.rounds = assemble(self.settings, self.database, stand)
        install(self.app, self.rounds, stand)


class Custodians:
    """The stage with three custodians, a witness and a log."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.witness = stage._make(Subject("service", "keys"))
        self.each = [Custodian(stage, folder / f"custodian-{index}", index) for index in range(COUNT)]
        self.nonces: dict[str, bytes] = {}
        self.records: dict[str, RoundRecord] = {}
        self.keys_app = FastAPI()
        self.keys_app.add_api_route("/v1/certificates/{keyid}", self._certificate, methods=["GET"])
        self.keys_app.add_api_route("/v1/rounds/{round_id}/witness", self._witness, methods=["POST"])
        self.keys_app.add_api_route("/v1/rounds/{round_id}/records", self._record, methods=["POST"])
        routes: dict[str, Callable[[], Any]] = {
            "7003": lambda: self.keys_app,
            "keys": lambda: self.keys_app,
            "registry": lambda: stage.registry.app,
            **{str(7006 + each.index): lambda each=each: each.app for each in self.each},
        }
        self.net = Net(routes, lambda port: self.each[int(port) - 7006].restart())
        stage.http = httpx.AsyncClient(transport=self.net)
        stage.settings = stage.settings.model_copy(update={"custodian_urls": " ".join(URLS)})
        for each in self.each:
            each.restart()
        stage.restart()

    async def close(self) -> None:
        for each in self.each:
            await each.database.close()

    async def _certificate(self, keyid: str) -> Response:
        own = (each.identity for each in self.each)
        for identity in (
            self.stage.coordinator,
            self.stage.aggregator,
            self.witness,
            *own,
            *self.stage.people.values(),
        ):
            if identity.keyid == keyid:
                return JSONResponse({"certificate_pem": identity.certificate.public_bytes(Encoding.PEM).decode()})
        return JSONResponse({"title": "Unknown.", "detail": "no such certificate"}, 404)

    async def _witness(self, round_id: str, request: Request) -> Response:
        question = msgpack.unpackb(await request.body(), raw=False)
        manifest = SignedManifest.model_validate_json(question["manifest"]).manifest
        nonce = self.nonces[round_id]
        statement = statement_to_sign(manifest, SetAsk.unpack(question["ask"]), nonce)
        said = Witnessed(nonce, bytes.fromhex(self.witness.keyid), self.witness.private_key.sign(statement))
        return Response(said.pack(), media_type="application/octet-stream")

    async def _record(self, round_id: str, request: Request) -> Response:
        record = RoundRecord.model_validate_json(await request.body())
        coordinator = public_bytes(self.stage.coordinator.private_key.public_key())
        check_record(record, public_bytes(self.witness.private_key.public_key()), coordinator)
        assert self.records.setdefault(round_id, record) == record
        return Response(status_code=201)

    async def begin(self, kind: RoundKind = RoundKind.TRAIN, sites: int = 3, **changes: Any) -> "OpenRound":
        return await self.opened(await self.plan(kind, sites, **changes))

    async def opened(self, manifest: RoundManifest) -> "OpenRound":
        return OpenRound(self, manifest, await self.stage.open(manifest))

    async def plan(self, kind: RoundKind = RoundKind.TRAIN, sites: int = 3, **changes: Any) -> RoundManifest:
        if kind is RoundKind.TRAIN:
            changes.setdefault("model", self.stage.registry.seed(zeros(LENGTH)))
        plain = self.stage.manifest(kind, sites, engine="oneshot", **changes)
        nonce = self.nonces[plain.round_id] = os.urandom(32)
        params = {"custodians": COUNT, "threshold": 2, "nonce_commitment": nonce_commitment(nonce).hex()}
        return plain.model_copy(update={"engine_params": {**params, **plain.engine_params}})


class OpenRound:
    """One open round, as its sites see it."""

    def __init__(self, custodians: Custodians, manifest: RoundManifest, opened: dict[str, Any]) -> None:
        self.custodians, self.stage, self.manifest = custodians, custodians.stage, manifest
        self.public = opened["engine_public"]["document"]["public"]
        self.engine = engine_named("oneshot")

    async def submit(self, site: str, values: Any) -> Any:
        """Send a site's update and return the integers in it."""
        who = self.stage.site(site)
        client_round = ClientRound(self.manifest, SiteId(site), self.public, who.private_key.sign, keyid=who.keyid)
        if self.manifest.kind is RoundKind.TRAIN:
            delta, key = np.asarray(values, np.float32), secrets.token_bytes(32)
            samples = committed(self.manifest, site) if takes_commitments(self.manifest) else None
            payload = train_payload(self.manifest, delta, examples=1, loss=0.5, key=key, samples=samples)
        else:
            payload = sums_payload(self.manifest, np.asarray(values, np.float64))
        body = b"".join(bytes(part) for part in self.engine.client.upload(client_round, b"", None, payload)[1])
        assert self.engine.signing is not None
        signature = self.engine.signing.sign(client_round, b"", hashlib.sha256(body).digest())
        answer = await self.stage.send(self.manifest.round_id, site, body, **{"update-signature": signature.hex()})
        assert answer.status_code == 201, answer.text
        return signed(unpack(payload.data, payload.modulus_bits), payload.modulus_bits)[:LENGTH]

    async def drive(self) -> dict[str, Any]:
        return await self.stage.drive(self.manifest.round_id)

    def model(self, state: dict[str, Any]) -> Any:
        """What the round made of a model of zeros: the mean, float32."""
        return np.array(load(self.stage.registry.blobs[state["result"]["digest"]]).tensors["w"])

    def mean(self, integers: list[Any]) -> Any:
        encoding = self.manifest.encoding
        assert encoding is not None
        return (np.sum(np.stack(integers), axis=0) * (1.0 / (encoding.scale * len(integers)))).astype(np.float32)
