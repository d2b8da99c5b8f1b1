"""The keys service over a real database, with a clock that tests can move."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from tests.databases import prepare
from undersong.services.keys.settings import KeysSettings
from undersong.services.keys.tables import Base
from undersong.services.keys.wiring import Components, assemble, build_app
from undersong.shared.clock import utc_now
from undersong.shared.database import Database
from undersong.shared.identity.authority import public_bytes
from undersong.shared.identity.enrol import enrolment_proof_data

URL = "http://keys"


@dataclass
class MovableClock:
    """Now, plus what the test adds."""

    ahead: timedelta = field(default_factory=timedelta)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@dataclass
class Party:
    """Enrols by hand, so that each step can be made wrong."""

    http: httpx.AsyncClient
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public_key(self) -> bytes:
        return public_bytes(self.key.public_key())

    async def challenge(self) -> dict[str, str]:
        response = await self.http.post("/v1/enrolment-challenges", json={"public_key": self.public_key.hex()})
        assert response.status_code == 201, response.text
        answer: dict[str, str] = response.json()
        return answer

    async def enrol(self, token: str, challenge: dict[str, str] | None = None, /, **changed: str) -> httpx.Response:
        given = challenge or await self.challenge()
        data = enrolment_proof_data(bytes.fromhex(given["challenge"]), token, self.public_key)
        body = {
            "token": token,
            "challenge_id": given["challenge_id"],
            "public_key": self.public_key.hex(),
            "proof": self.key.sign(data).hex(),
        }
        return await self.http.post("/v1/enrolments", json=body | changed)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> KeysSettings:
    prepare(database_url, "keys")
    return KeysSettings(database_url=database_url, data_dir=tmp_path / "data")


@pytest.fixture
async def database(settings: KeysSettings, clock: MovableClock) -> AsyncIterator[Database]:
    settings.data_dir.mkdir(exist_ok=True)
    database = Database(settings.database, Base.common, clock=clock)
    yield database
    await database.close()


@pytest.fixture
async def components(settings: KeysSettings, database: Database) -> Components:
    return await assemble(settings, database)


@pytest.fixture
async def app(settings: KeysSettings, clock: MovableClock) -> AsyncIterator[FastAPI]:
    app = build_app(settings, clock)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
        yield client


@pytest.fixture
async def operator(components: Components) -> dict[str, str]:
    """The operator's header."""
    return {"authorization": f"Bearer {await components.operators.create()}"}


@pytest.fixture
async def site_token(http: httpx.AsyncClient, operator: dict[str, str]) -> str:
    """An unused enrolment token for site_a of fed_x."""
    body = {"kind": "site", "name": "site_a", "federation_id": "fed_x"}
    response = await http.post("/v1/enrolment-tokens", json=body, headers=operator)
    assert response.status_code == 201, response.text
    token: str = response.json()["token"]
    return token


@pytest.fixture
def party(http: httpx.AsyncClient) -> Party:
    return Party(http)


@pytest.fixture
def stranger(http: httpx.AsyncClient) -> Party:
    return Party(http)
