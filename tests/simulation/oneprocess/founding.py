"""The state before anything happens: databases with parties and sites in them, and their keys."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import undersong.services.coordinator.api.app
import undersong.services.coordinator.tables
import undersong.services.keys.wiring as keys
from tests.services.coordinator.world import profile
from undersong.services.coordinator.leases import Timing
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.use_cases import build_use_cases
from undersong.services.keys.settings import KeysSettings
from undersong.shared.database import Database
from undersong.shared.database.migrations import migrate
from undersong.shared.identity.authority import Identity, Subject
from undersong.shared.identity.enrol import enrol
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.verify import PartyVerifier
from undersong.shared.queues import Notifier, Streams

SITES: Final = 4
LENGTH: Final = 8
SERVICES: Final = ("coordinator", "aggregator", "keys")
TIMING: Final = Timing(heartbeat_s=10.0, lease_s=30.0)


class NoRevocations:
    """Return no revocations."""

    def revoked(self, keyid: str) -> bool:
        return False


@dataclass
class Founding:
    """The state at the beginning of every trial: databases with parties and sites in them, and their keys."""

    folder: Path
    identities: dict[str, Identity]
    federation_id: str
    admin_token: str


def url_of(folder: Path, service: str) -> str:
    """A service's database."""
    return f"sqlite+aiosqlite:///{folder / f'{service}.sqlite'}"


async def found(folder: Path) -> Founding:
    """Make the databases in this folder, enrol everybody, and tell the coordinator what the sites have."""
    for service in SERVICES:
        await asyncio.to_thread(migrate, url_of(folder, service), service)
    settings = KeysSettings(database_url=url_of(folder, "keys"), data_dir=folder / "keys")
    identities: dict[str, Identity] = {}
    app = keys.build_app(settings)
    database = Database(url_of(folder, "coordinator"), undersong.services.coordinator.tables.common, pool_size=2)
    streams = Streams("redis://127.0.0.1:1/0")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        stack.push_async_callback(streams.close)
        await stack.enter_async_context(app.router.lifespan_context(app))
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://keys")
        coordinator = undersong.services.coordinator.api.app.application(database, streams)
        use_cases = build_use_cases(
            database,
            Notifier(streams, ["coordinator.tasks"]),
            Sealer.ensure(folder / "seal.key"),
            Registry(http),
            TIMING,
            coordinator.state.stopping,
        )
        coordinator.state.use_cases, coordinator.state.tokens = use_cases, use_cases.accounts
        token = (await use_cases.accounts.bootstrap(folder)).read_text().strip()

        async def enrolled(subject: Subject) -> Identity:
            new = await app.state.enrolments.create_token(subject, timedelta(days=1))
            return await enrol(http, "http://keys", new.token, Ed25519PrivateKey.generate())

        for name in ("coordinator", "aggregator"):
            identities[name] = await enrolled(Subject("service", name))
        identities["keys"] = app.state.witness.identity
        ca = identities["coordinator"].ca_certificate
        coordinator.state.verifier = PartyVerifier(ca, "coordinator", SqlNonces(database), NoRevocations())
        admin = httpx.AsyncClient(
            transport=httpx.ASGITransport(coordinator),
            base_url="http://coordinator",
            headers={"authorization": f"Bearer {token}"},
        )
        federation_id = (await admin.post("/v1/federations", json={"name": "heart"})).json()["id"]
        for number in range(SITES):
            made = await admin.post(f"/v1/federations/{federation_id}/sites", json={"name": f"s{number}", "owner": "o"})
            identity = await enrolled(Subject("site", made.json()["id"], federation_id))
            identities[f"site-{number}"] = identity
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(coordinator),
                base_url="http://coordinator",
                auth=SigningAuth(identity, "coordinator"),
            ) as site:
                told = profile()
                told["recipes"][0]["statistics"] = False
                assert (await site.put("/v1/sites/self/profile", json=told)).status_code == 200
        await use_cases.attendance.flush()
    return Founding(folder, identities, federation_id, token)
