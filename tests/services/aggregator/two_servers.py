"""A real helper beside the aggregator's stage, sites that report to both, and sites that cheat.

The helper is the real application over a real database of its own; between the two is a network that can be cut, and
each of them can be killed at a named point (`undersong.shared.faults`) and begun again over what it has committed.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from tests.databases import prepare
from tests.services.aggregator.conftest import Stage, zeros
from undersong.services.keys.helper.settings import HelperSettings
from undersong.services.keys.helper.wiring import PACKAGE, assemble, build_app, install, open_database
from undersong.shared.identity.authority import Identity, Subject, public_bytes
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.enrol import IdentityKeeper
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.identity.verify import PartyVerifier, RevocationFeed
from undersong.shared.ids import SiteId
from undersong.shared.learning.tensors import load
from undersong.shared.secagg.engine import ClientRound, Payload, header_for
from undersong.shared.secagg.payload import sums_payload, train_payload
from undersong.shared.secagg.quantise import plan_norm
from undersong.shared.secagg.twoserver.engine import TWOSERVER, sign_report, vector_of
from undersong.shared.secagg.twoserver.report import context, seal, share_info
from undersong.shared.secagg.twoserver.roles import HELPER, LEADER, NONCE_BYTES
from undersong.shared.secagg.twoserver.schemes import norm_bound, scheme_for
from undersong.shared.transparency.documents import RoundRecord
from undersong.shared.transparency.records import check_record
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.vdaf.pine_instances import Pine64HmacSha256Aes128
from undersong.shared.web.trust import ServiceTrust
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.updates import write_header

LENGTH = 30
CLIP = 4.0
KEYS = "http://127.0.0.1:7003"
HELPER_URL = "http://127.0.0.1:7005"


class Killed(BaseException):
    """The process is no more."""


class Net(httpx.AsyncBaseTransport):
    """Leads each address to its application; what is `away` cannot be reached."""

    def __init__(self, routes: dict[str, Callable[[], Any]], died: Callable[[str], None]) -> None:
        self.routes, self._died = routes, died
        self.away: set[str] = set()
        self.seen: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        port = str(request.url.port or request.url.host)
        if port in self.away:
            raise httpx.ConnectError("connection refused")
        self.seen.append(await request.aread())
        try:
            answer = await httpx.ASGITransport(self.routes[port]()).handle_async_request(request)
        except Killed:
            if not port.startswith("70"):
                raise
            self._died(port)
            raise httpx.ReadError("the process died") from None
        self.seen.append(await answer.aread())
        return answer


class Servers:
    """The stage with its helper."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        url = f"sqlite+aiosqlite:///{folder / 'helper.sqlite'}"
        folder.mkdir(parents=True, exist_ok=True)
        prepare(url, PACKAGE)
        self.settings = HelperSettings(database_url=url, data_dir=folder)
        self.database = open_database(self.settings)
        self.identity = stage._make(Subject("service", "helper"))
        self.records: dict[str, RoundRecord] = {}
        self.directory_app = FastAPI()
        self.directory_app.add_api_route("/v1/certificates/{keyid}", self._certificate, methods=["GET"])
        self.directory_app.add_api_route("/v1/rounds/{round_id}/records", self._record, methods=["POST"])
        routes: dict[str, Callable[[], Any]] = {
            "7003": lambda: self.directory_app,
            "keys": lambda: self.directory_app,
            "7005": lambda: self.app,
            "registry": lambda: stage.registry.app,
        }
        self.net = Net(routes, lambda _: self.restart_helper())
        stage.http = httpx.AsyncClient(transport=self.net)
        self.restart_helper()
        stage.restart()

    def restart_helper(self) -> None:
        """As after a crash: a new process, the same database."""
        ca = self.identity.ca_certificate
        feed, nonces = RevocationFeed(self.stage.http, KEYS), SqlNonces(self.database)
        stand = ServiceTrust(
            identity=IdentityKeeper(self.identity, self.settings.identity_dir, self.stage.http, KEYS),
            verifier=PartyVerifier(ca, "helper", nonces, feed),
            revocations=feed,
            directory=CertificateDirectory(self.stage.http, KEYS, ca),
            nonces=nonces,
            http=self.stage.http,
        )
        self.app = build_app(self.settings)
        self.rounds = assemble(self.settings, self.database, stand)
        install(self.app, self.rounds, stand)

    async def close(self) -> None:
        await self.database.close()

    async def _certificate(self, keyid: str) -> Response:
        known = [self.stage.coordinator, self.stage.aggregator, self.identity, *self.stage.people.values()]
        for identity in known:
            if identity.keyid == keyid:
                pem = identity.certificate.public_bytes(Encoding.PEM).decode()
                return JSONResponse({"certificate_pem": pem})
        return JSONResponse({"title": "Unknown.", "detail": "no such certificate"}, 404)

    async def _record(self, round_id: str, request: Request) -> Response:
        record = RoundRecord.model_validate_json(await request.body())
        check_record(record, _public(self.identity), _public(self.stage.coordinator))
        assert self.records.setdefault(round_id, record) == record
        return Response(status_code=201)

    def manifest(self, kind: RoundKind = RoundKind.TRAIN, sites: int = 3, **changes: Any) -> RoundManifest:
        if kind is RoundKind.TRAIN:
            changes.setdefault("model", self.stage.registry.seed(zeros(LENGTH)))
            changes.setdefault("encoding", plan_norm(summands=sites, clip_norm=CLIP))
        return self.stage.manifest(kind, sites, engine="twoserver", **changes)

    async def begin(self, manifest: RoundManifest) -> "Round":
        return Round(self, manifest, await self.stage.open(manifest))


class Round:
    """One open round, as its sites see it."""

    def __init__(self, servers: Servers, manifest: RoundManifest, opened: dict[str, Any]) -> None:
        self.servers, self.stage, self.manifest = servers, servers.stage, manifest
        self.public = opened["engine_public"]["document"]["public"]

    def client_round(self, site: str) -> ClientRound:
        who = self.stage.site(site)
        return ClientRound(self.manifest, SiteId(site), self.public, sign=who.private_key.sign, keyid=who.keyid)

    def payload(self, values: Any) -> Payload:
        if self.manifest.kind is RoundKind.TRAIN:
            delta = np.asarray(values, np.float32)
            return train_payload(self.manifest, delta, examples=1, loss=0.5, key=secrets.token_bytes(32))
        return sums_payload(self.manifest, np.asarray(values, np.float64))

    def body(self, site: str, values: Any) -> bytes:
        return self.bytes_of(site, self.payload(values))

    def bytes_of(self, site: str, payload: Payload) -> bytes:
        return b"".join(bytes(part) for part in TWOSERVER.client.upload(self.client_round(site), b"", None, payload)[1])

    async def honest(self, site: str, values: Any) -> Any:
        """Submit a report and return the integers that it holds."""
        payload = self.payload(values)
        answer = await self.stage.send(self.manifest.round_id, site, self.bytes_of(site, payload))
        assert answer.status_code == 201, answer.text
        return vector_of(self.manifest, payload)

    async def send(self, site: str, body: bytes) -> httpx.Response:
        return await self.stage.send(self.manifest.round_id, site, body)

    def forged(
        self,
        site: str,
        shares: tuple[bytes, bytes, bytes],
        report_id: bytes,
        *,
        signer: Identity | None = None,
        sealed_as: "Round | None" = None,
    ) -> bytes:
        """A well-formed, sealed and signed report over whatever shares (public, leader's, helper's)."""
        client_round, place = self.client_round(site), sealed_as or self
        if signer is not None:
            client_round = replace(client_round, sign=signer.private_key.sign)
        public, leader, helper = shares
        manifest, keys = place.manifest, place.public
        sealed = seal(
            leader, bytes.fromhex(keys["leader_key"]), share_info(manifest, client_round.site_id, report_id, LEADER)
        )
        mine = seal(
            helper, bytes.fromhex(keys["helper_key"]), share_info(manifest, client_round.site_id, report_id, HELPER)
        )
        report = sign_report(client_round, LENGTH, report_id, public, mine, sealed)
        kind = RoundKind.TRAIN
        header = header_for(client_round, "twoserver", Payload(kind, LENGTH, 64, memoryview(b"")), report.material())
        return write_header(header) + sealed

    def shares(self, vector: Any, report_id: bytes) -> tuple[bytes, bytes, bytes]:
        """An honest sharing of these integers."""
        scheme = scheme_for(self.manifest, LENGTH)
        return scheme.shard(context(self.manifest), np.asarray(vector, np.int64), report_id, os.urandom)

    def lies(self, vector: Any, report_id: bytes) -> tuple[bytes, bytes, bytes]:
        """A sharing by a prover who lies wherever it helps."""
        encoding = self.manifest.encoding
        assert encoding is not None
        liar = Liar.for_norm(float(norm_bound(encoding, LENGTH)), LENGTH, num_frac_bits=0)
        rand = secrets.token_bytes(liar.RAND_SIZE)
        public, (leader, helper) = liar.shard_integers(context(self.manifest), np.asarray(vector), report_id, rand)
        return public, leader, helper

    async def drive(self) -> dict[str, Any]:
        return await self.stage.drive(self.manifest.round_id)

    async def state(self) -> dict[str, Any]:
        return await self.stage.state(self.manifest.round_id)

    def model(self, state: dict[str, Any]) -> Any:
        """What the round made of a model of zeros: the mean, float32."""
        return np.array(load(self.stage.registry.blobs[state["result"]["digest"]]).tensors["w"])

    def mean(self, vectors: list[Any]) -> Any:
        """The exact mean of integer vectors, as the platform decodes it."""
        encoding = self.manifest.encoding
        assert encoding is not None
        total = np.sum(np.stack(vectors), axis=0)
        return (total * (1.0 / (encoding.scale * len(vectors)))).astype(np.float32)


class Liar(Pine64HmacSha256Aes128):
    """Proves what is not so: says that the norm is small, and that every check for wrap-around succeeded."""

    def _squared_norm(self, vector: Any) -> int:
        exact = sum(int(value) ** 2 for value in vector.tolist()) % FIELD64.modulus
        return min(exact, self.parameters.squared_bound)

    def _check_bits(self, results: Any) -> list[int]:
        bits: list[int] = []
        for result in results:
            number = (result + self.parameters.wr_bound - 1) % self.field.modulus
            number = number if number < 2 * self.parameters.wr_bound else 0
            bits += [*(number >> bit & 1 for bit in range(self.parameters.wr_bits)), 1]
        return bits


def new_id() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


def _public(identity: Identity) -> bytes:
    return public_bytes(identity.private_key.public_key())
