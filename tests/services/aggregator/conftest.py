"""A stage for rounds: the real application and worker over a real database, with a small registry beside them."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from tests.databases import prepare
from tests.shared.secagg.verifiers import UNCERTIFIED
from undersong.services.aggregator.contributions import parts
from undersong.services.aggregator.contributions.part_worker import PartWorker
from undersong.services.aggregator.driver.driver import RoundDriver
from undersong.services.aggregator.driver.maintenance import RoundMaintenance
from undersong.services.aggregator.settings import AggregatorSettings
from undersong.services.aggregator.wiring import Components, assemble, build_app, build_worker, install, open_database
from undersong.shared.clock import utc_now
from undersong.shared.database import Database
from undersong.shared.identity.authority import CertificateAuthority, Identity, Subject
from undersong.shared.identity.digests import content_digest
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.enrol import IdentityKeeper
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.verify import PartyVerifier, RevocationFeed
from undersong.shared.ids import RoundId, SiteId, digest_of, new_id
from undersong.shared.learning.tensors import Model, Schema, save
from undersong.shared.queues import Notifier, Streams
from undersong.shared.secagg.engine import ClientRound, Payload
from undersong.shared.secagg.engines import engine_named
from undersong.shared.secagg.payload import model_payload, sums_payload, train_payload, weight_of
from undersong.shared.secagg.quantise import plan_encoding, plan_sums
from undersong.shared.web.access import Grant, Principal, Role
from undersong.shared.web.trust import ServiceTrust
from undersong.shared.wire.manifest import (
    DataRef,
    ModelRef,
    RecipeRef,
    RoundKind,
    RoundManifest,
    SignedManifest,
    StrategyRef,
)
from undersong.shared.zk.pedersen import Opening
from undersong.shared.zk.samples import Committed, takes_commitments

FEDERATION = "fed_a"
JOB = "job_01k5z0000000000000000000aa"
MODEL = "mdl_01k5z0000000000000000000aa"


def make_manifest(kind: RoundKind = RoundKind.TRAIN, sites: int = 3, **changes: Any) -> RoundManifest:
    cohort = tuple(SiteId(f"site_{number:02d}") for number in range(sites))
    encoding = {
        RoundKind.INITIALISE: None,
        RoundKind.TRAIN: plan_encoding(summands=sites, max_weight=4, clip_norm=None, bound_value=8.0, modulus_bits=32),
    }.get(kind, plan_sums(summands=sites))
    fields: dict[str, Any] = {
        "federation_id": FEDERATION,
        "job_id": JOB,
        "round_id": new_id("rnd"),
        "number": 1,
        "attempt": 1,
        "kind": kind,
        "engine": "sealed",
        "recipe": RecipeRef(name="null", digest="0" * 64),
        "data": DataRef(dataset="d"),
        "model_id": MODEL,
        "encoding": encoding,
        "cohort": cohort,
        "min_cohort": min(2, sites),
        "target": sites,
        "strategy": StrategyRef(name="fedavg"),
        "seed": 1,
        "deadline_s": 600.0,
    }
    return RoundManifest(**{**fields, **changes})


def make_body(manifest: RoundManifest, opened: dict[str, Any], site: str, payload: Payload) -> bytes:
    public = opened["engine_public"]["document"]["public"]
    client = engine_named("sealed").client
    client_round = ClientRound(manifest, SiteId(site), public)
    return b"".join(
        bytes(part) for part in client.upload(client_round, client.begin(client_round, UNCERTIFIED), None, payload)[1]
    )


def make_update(
    manifest: RoundManifest, opened: dict[str, Any], site: str, delta: np.ndarray[Any, Any], **facts: Any
) -> bytes:
    facts = {"examples": 1, "loss": 0.5, "key": secrets.token_bytes(32), **facts}
    if takes_commitments(manifest):
        facts.setdefault("samples", committed(manifest, site, facts["examples"]))
    return make_body(manifest, opened, site, train_payload(manifest, delta.astype(np.float32), **facts))


def committed(manifest: RoundManifest, site: str, examples: int = 1) -> bytes:
    """The same bytes for the same site and count, as if a site had kept them."""
    weight, seed = weight_of(examples, manifest), hashlib.sha512(site.encode()).digest()
    opening = Opening.fresh(weight, uniform=seed)
    return Committed.make(manifest, SiteId(site), weight, opening=opening, entropy=seed[:32]).message


def make_sums(
    manifest: RoundManifest, opened: dict[str, Any], site: str, sums: np.ndarray[Any, Any], layout: Any = None
) -> bytes:
    return make_body(manifest, opened, site, sums_payload(manifest, sums.astype(np.float64), layout))


def make_first(manifest: RoundManifest, opened: dict[str, Any], site: str, model: bytes) -> bytes:
    return make_body(manifest, opened, site, model_payload(model))


class FakeRegistry:
    """Keeps what it is given, by the contract: blobs by digest, one version a (model, job, round)."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.versions: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.refuse_writes = False
        self.refuses = False
        self.lose_answers = 0
        self.app = FastAPI()
        self.app.add_api_route("/v1/blobs/{digest}", self.put_blob, methods=["PUT"])
        self.app.add_api_route("/v1/models/{model_id}/versions", self.post_version, methods=["POST"])
        self.app.add_api_route("/v1/versions/{version_id}/content", self.content, methods=["GET"])

    def seed(self, data: bytes) -> ModelRef:
        """Return a version that another party uploaded."""
        digest, version_id = digest_of(data), new_id("ver")
        self.blobs[digest] = data
        self.versions["seed", "", version_id] = {"id": version_id, "content_digest": digest}
        return ModelRef(version_id=version_id, digest=digest)

    async def put_blob(self, digest: str, request: Request) -> Response:
        body = await request.body()
        if self.refuse_writes:
            return Response(status_code=503)
        assert request.headers["content-digest"] == content_digest(body)
        assert digest_of(body) == digest
        assert request.query_params["federation_id"]
        self.blobs[digest] = body
        self.damaged.discard(digest)
        return Response(status_code=201)

    async def post_version(self, model_id: str, request: Request) -> Response:
        document = await request.json()
        if self.refuse_writes:
            return Response(status_code=503)
        if self.refuses:
            return JSONResponse({"title": "No.", "detail": "not this one"}, 422)
        lineage = document["lineage"]
        assert document["content_digest"] in self.blobs
        key = (model_id, lineage["job_id"], lineage["round_id"])
        made = {"id": new_id("ver"), "number": len(self.versions), **document}
        version = self.versions.setdefault(key, made)
        if self.lose_answers:
            self.lose_answers -= 1
            raise httpx.ReadError("the answer was lost")
        return JSONResponse(version, 201)

    async def content(self, version_id: str) -> Response:
        found = [v for v in self.versions.values() if v["id"] == version_id]
        if not found:
            return Response(status_code=404)
        if found[0]["content_digest"] in self.damaged:
            return JSONResponse({"type": "urn:undersong:problem:content-damaged", "title": "x", "detail": "y"}, 503)
        return Response(self.blobs[found[0]["content_digest"]])

    def published(self) -> list[dict[str, Any]]:
        return [version for key, version in self.versions.items() if key[0] != "seed"]


class NoTokens:
    """One scientist, one owner."""

    async def lookup(self, token: str) -> Principal | None:
        grants = {"scientist": Role.SCIENTIST, "owner": Role.OWNER}
        return Principal("usr_x", "x", (Grant(grants[token], FEDERATION),)) if token in grants else None


class Stage:
    """What a test of the aggregator needs. `restart` drops all that is only in memory."""

    def __init__(self, settings: AggregatorSettings, database: Database, make: Callable[[Subject], Identity]) -> None:
        self.settings, self.database, self._make = settings, database, make
        self.coordinator = make(Subject("service", "coordinator"))
        self.aggregator = make(Subject("service", "aggregator"))
        self.registry = FakeRegistry()
        self.people: dict[str, Identity] = {}
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.registry.app))
        self.components: Components
        self.driver: RoundDriver
        self.maintenance: RoundMaintenance
        self.part_worker: PartWorker
        self.app: FastAPI
        self.restart()

    def restart(self) -> None:
        """As after a crash: new process, same database and disk."""
        keeper = IdentityKeeper(self.aggregator, self.settings.identity_dir, self.http, "http://keys")
        feed = RevocationFeed(self.http, "http://keys")
        nonces, ca = SqlNonces(self.database), self.aggregator.ca_certificate
        stand = ServiceTrust(
            identity=keeper,
            verifier=PartyVerifier(ca, "aggregator", nonces, feed),
            revocations=feed,
            directory=CertificateDirectory(self.http, "http://keys", ca),
            nonces=nonces,
            http=self.http,
        )
        self.notifier = Notifier(Streams(self.settings.redis), ["aggregator.updates", "aggregator.steps"])
        self.components = assemble(self.settings, self.database, stand, self.notifier)
        self.maintenance, self.driver, self.part_worker = build_worker(
            self.settings, self.components, stand, self.notifier
        )
        self.app = build_app(self.settings)
        install(self.app, self.components, stand, NoTokens())

    def site(self, name: str) -> Identity:
        if name not in self.people:
            self.people[name] = self._make(Subject("site", name, FEDERATION))
        return self.people[name]

    def client(self, identity: Identity | None) -> httpx.AsyncClient:
        auth = None if identity is None else SigningAuth(identity, "aggregator")
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://aggregator", auth=auth)

    async def open(self, manifest: RoundManifest) -> dict[str, Any]:
        answer = await self.put_round(manifest)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def put_round(self, manifest: RoundManifest, signer: Identity | None = None) -> httpx.Response:
        signature = (signer or self.coordinator).private_key.sign(manifest.statement()).hex()
        signed = SignedManifest(manifest=manifest, keyid=self.coordinator.keyid, signature=signature)
        async with self.client(self.coordinator) as http:
            return await http.put(
                f"/v1/rounds/{manifest.round_id}",
                content=signed.model_dump_json(),
                headers={"content-type": "application/json"},
            )

    async def send(self, round_id: str, site: str, body: bytes, **headers: str) -> httpx.Response:
        async with self.client(self.site(site)) as http:
            return await http.put(
                f"/v1/rounds/{round_id}/updates",
                content=body,
                headers={"content-type": "application/octet-stream", "content-digest": content_digest(body), **headers},
            )

    async def post(self, round_id: str, command: str) -> httpx.Response:
        async with self.client(self.coordinator) as http:
            return await http.post(f"/v1/rounds/{round_id}/{command}")

    async def state(self, round_id: str) -> dict[str, Any]:
        async with self.client(self.coordinator) as http:
            answer = await http.get(f"/v1/rounds/{round_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    manifest = staticmethod(make_manifest)
    body = staticmethod(make_body)
    update = staticmethod(make_update)
    sums = staticmethod(make_sums)
    first = staticmethod(make_first)

    async def drive(self, round_id: str) -> dict[str, Any]:
        """Let a worker do what is to be done, until the round ends."""
        await self.driver.drive(RoundId(round_id))
        return await self.state(round_id)


@pytest.fixture
def by_another(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stage], list[int]]:
    """Has each round of a stage shared from two waiting updates on; another worker folds the first part.

    The function gives a list, to which the number of updates in each sharing is added that others have folded.
    """

    def begin(stage: Stage) -> list[int]:
        folded: list[int] = []
        monkeypatch.setattr(parts, "_FEWEST_UPDATES", 1)
        shares: Any = stage.driver._parts
        shares._min_updates, shares._min_bytes = 2, 0
        stage.part_worker._worker_id = "another"
        offer, gather = shares.offer, shares.gather

        async def offered(*arguments: Any) -> Any:
            shared = await offer(*arguments)
            assert await stage.part_worker.fold_next()
            return shared

        async def gathered(shared: Any) -> bool:
            again: bool = await gather(shared)
            if not again:
                folded.append(shared.by_others)
            return again

        shares.offer, shares.gather = offered, gathered
        return folded

    return begin


def zeros(length: int) -> bytes:
    """A model of one tensor."""
    tensors = {"w": np.zeros(length, np.float32)}
    return save(Model(Schema.of(tensors), tensors))


@pytest.fixture(scope="session")
def make_identity() -> Callable[[Subject], Identity]:
    authority = CertificateAuthority.create(utc_now())

    def make(subject: Subject) -> Identity:
        key, now = Ed25519PrivateKey.generate(), utc_now()
        certificate = authority.issue(key.public_key(), subject, now + timedelta(days=1), now=now)
        return Identity(key, certificate, authority.certificate)

    return make


@asynccontextmanager
async def staged(url: str, redis_url: str, folder: Path, make: Callable[[Subject], Identity]) -> AsyncIterator[Stage]:
    prepare(url, "aggregator")
    settings = AggregatorSettings(
        database_url=url, redis_url=redis_url, data_dir=folder, registry_url="http://registry", worker_lease_s=60.0
    )
    database = open_database(settings)
    stage = Stage(settings, database, make)
    try:
        yield stage
    finally:
        await stage.driver.stop()
        await stage.http.aclose()
        await database.close()


@pytest.fixture
async def stage(
    database_url: str, redis_url: str, tmp_path: Path, make_identity: Callable[[Subject], Identity]
) -> AsyncIterator[Stage]:
    async with staged(database_url, redis_url, tmp_path / "data", make_identity) as made:
        yield made


@pytest.fixture
async def quick_stage(
    sqlite_url: str, redis_url: str, tmp_path: Path, make_identity: Callable[[Subject], Identity]
) -> AsyncIterator[Stage]:
    async with staged(sqlite_url, redis_url, tmp_path / "data", make_identity) as made:
        yield made
