"""A registry through its real ASGI application, among parties with real certificates."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from pydantic import SecretStr

from tests.databases import prepare
from undersong.services.registry.settings import RegistrySettings
from undersong.services.registry.wiring import build_app
from undersong.shared.database import Database
from undersong.shared.errors import NotFound
from undersong.shared.identity.authority import CertificateAuthority, Holder, Identity, Subject
from undersong.shared.identity.digests import content_digest
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.verify import PartyVerifier
from undersong.shared.ids import Digest, ModelId, digest_of
from undersong.shared.learning import tensors
from undersong.shared.web.access import Grant, Principal, Role
from undersong.shared.wire.manifest import VERSION_CONTEXT, version_statement

FED, OTHER_FED = "fed_a", "fed_b"


class People:
    """A token directory: the token is the name."""

    principals: ClassVar = {
        "ust_scientist": Principal("usr_sci", "Scientist", (Grant(Role.SCIENTIST, FED),)),
        "ust_auditor": Principal("usr_aud", "Auditor", (Grant(Role.AUDITOR, FED),)),
        "ust_stranger": Principal("usr_str", "Stranger", (Grant(Role.SCIENTIST, OTHER_FED),)),
        "ust_admin": Principal("usr_adm", "Admin", (Grant(Role.ADMIN),)),
    }

    async def lookup(self, token: str) -> Principal | None:
        return self.principals.get(token)


class Parties:
    """The federation's authority, everybody's identity, and the certificate directory."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self._ca = CertificateAuthority.create(now)
        self._now = now
        self.holders: dict[str, Holder] = {}
        self.revoked_ids: set[str] = set()
        self.registry = self.make(Subject("service", "registry"))
        self.aggregator = self.make(Subject("service", "aggregator"))
        self.coordinator = self.make(Subject("service", "coordinator"))
        self.keys = self.make(Subject("service", "keys"))
        self.site = self.make(Subject("site", "site_1", FED))
        self.other_site = self.make(Subject("site", "site_2", OTHER_FED))

    @property
    def ca_certificate(self) -> Any:
        return self._ca.certificate

    def make(self, subject: Subject) -> Identity:
        key = Ed25519PrivateKey.generate()
        certificate = self._ca.issue(key.public_key(), subject, self._now + timedelta(days=1), now=self._now)
        identity = Identity(key, certificate, self._ca.certificate)
        self.holders[identity.keyid] = identity.holder
        return identity

    async def get(self, keyid: str) -> Holder:
        if keyid not in self.holders:
            raise NotFound("no certificate has this key id")
        return self.holders[keyid]

    def revoked(self, keyid: str) -> bool:
        return keyid in self.revoked_ids


@dataclasses.dataclass
class Standing:
    """What `undersong.shared.web.trust.Standing` offers, without a keys service."""

    parties: Parties
    verifier: PartyVerifier

    @property
    def directory(self) -> Parties:
        return self.parties

    @property
    def revocations(self) -> Parties:
        return self.parties

    def identity(self) -> Identity:
        return self.parties.registry

    def signing(self, audience: str) -> httpx.Auth:
        return SigningAuth(self.parties.registry, audience)


class World:
    """The running registry and clients for it."""

    def __init__(self, app: FastAPI, parties: Parties, settings: RegistrySettings) -> None:
        self.app, self.parties, self.settings = app, parties, settings
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://registry")

    async def ask(self, who: str | Identity | None, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request as a person (token), a party (identity), or anonymously."""
        headers = dict(options.pop("headers", {}))
        auth: httpx.Auth | None = None
        if isinstance(who, str):
            headers["authorization"] = f"Bearer {who}"
        elif who is not None:
            auth = SigningAuth(who, "registry")
            if "content" in options:
                headers["content-digest"] = content_digest(options["content"])
        return await self.http.request(method, f"/v1{path}", headers=headers, auth=auth, **options)

    async def model(self, name: str = "heart") -> ModelId:
        body = {"federation_id": FED, "name": name}
        answer = await self.ask("ust_scientist", "POST", "/models", json=body)
        assert answer.status_code == 201, answer.text
        return ModelId(answer.json()["id"])

    async def upload(
        self, data: bytes, who: str | Identity = "ust_scientist", federation_id: str | None = FED
    ) -> Digest:
        digest, params = digest_of(data), {"federation_id": federation_id} if federation_id else {}
        answer = await self.ask(who, "PUT", f"/blobs/{digest}", content=data, params=params)
        assert answer.status_code == 200, answer.text
        return digest

    def request(
        self, model_id: ModelId, digest: Digest, signer: Identity | None = None, **lineage: Any
    ) -> dict[str, Any]:
        """The body of a publication, signed by the aggregator unless told otherwise."""
        signer = signer or self.parties.aggregator
        document = {"kind": "train", "job_id": "job_1", "round_id": "rnd_1", "parents": [], **lineage}
        statement = version_statement(model_id, digest, document)
        signature = signer.sign(VERSION_CONTEXT, statement[len(VERSION_CONTEXT) :]).hex()
        return {
            "content_digest": digest,
            "lineage": document,
            "publisher_keyid": signer.keyid,
            "publisher_signature": signature,
        }

    async def publish(self, model_id: ModelId, data: bytes, **lineage: Any) -> dict[str, Any]:
        """Upload and publish as the aggregator."""
        digest = await self.upload(data, self.parties.aggregator)
        body = self.request(model_id, digest, **lineage)
        answer = await self.ask(self.parties.aggregator, "POST", f"/models/{model_id}/versions", json=body)
        assert answer.status_code == 201, answer.text
        version: dict[str, Any] = answer.json()
        return version


def model_file(seed: int = 0, rows: int = 3) -> bytes:
    """A small model with a parameter, a buffer and a fixed tensor."""
    numbers = np.random.default_rng(seed)
    arrays = {
        "weight": numbers.standard_normal((rows, 2)).astype(np.float32),
        "norm.mean": numbers.standard_normal(2).astype(np.float32),
        "steps": np.array([seed], np.int64),
    }
    return tensors.save(tensors.Model(tensors.Schema.of(arrays, buffers=["norm.mean"]), arrays))


@pytest.fixture
def registry_settings(database_url: str, tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(
        database_url=SecretStr(database_url),
        data_dir=tmp_path,
        blob_url=f"file://{tmp_path}/blobs",
        max_content_bytes=1 << 20,
    )


@pytest.fixture
async def world(registry_settings: RegistrySettings) -> AsyncIterator[World]:
    prepare(registry_settings.database, "registry")
    parties = Parties()

    @asynccontextmanager
    async def establish(_settings: RegistrySettings, database: Database) -> AsyncIterator[Any]:
        yield Standing(parties, PartyVerifier(parties.ca_certificate, "registry", SqlNonces(database), parties))

    app = build_app(registry_settings, establish=establish, tokens=People())
    async with app.router.lifespan_context(app):
        world = World(app, parties, registry_settings)
        async with world.http:
            yield world


@pytest.fixture
def make_file() -> Callable[..., bytes]:
    return model_file
