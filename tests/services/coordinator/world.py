"""A coordinator for tests: the real application on a real database, and neighbours that speak the contract."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from sqlalchemy import text

from tests.databases import prepare
from tests.services.coordinator.neighbours import Neighbours
from undersong.services.coordinator.api.app import application
from undersong.services.coordinator.auditing import Auditing
from undersong.services.coordinator.conductor import Conductor
from undersong.services.coordinator.dashboard.source import CoordinatorSource, CoordinatorViewModel
from undersong.services.coordinator.datasheets import Datasheets
from undersong.services.coordinator.leases import Timing
from undersong.services.coordinator.membership import Membership
from undersong.services.coordinator.model_catalogue import ModelCatalogue
from undersong.services.coordinator.peers.aggregator import Aggregator
from undersong.services.coordinator.peers.keys import Keys, KeysDirectory
from undersong.services.coordinator.peers.registry import Registry
from undersong.services.coordinator.rounds import Rounds
from undersong.services.coordinator.tables import common
from undersong.services.coordinator.tasks import TaskSweeper
from undersong.services.coordinator.use_cases import UseCases, build_use_cases
from undersong.shared.database import Database
from undersong.shared.identity.authority import CertificateAuthority, Identity, Subject
from undersong.shared.identity.nonces import SqlNonces
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.verify import PartyVerifier
from undersong.shared.queues import Notifier, Relay, Streams, background
from undersong.shared.web.access import Grant, Principal, Role

TIMING = Timing(heartbeat_s=10.0, lease_s=30.0)


class MovableClock:
    """The database's clock, moved by the test."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def advance(self, seconds: float) -> None:
        self.offset += timedelta(seconds=seconds)


def profile(**changes: Any) -> dict[str, Any]:
    """What a hospital's agent tells."""
    return {
        "agent_version": "0.1.0",
        "protocol": 1,
        "recipes": [
            {
                "name": "tabular",
                "version": "1",
                "digest": "ab" * 32,
                "task": "binary",
                "params_schema": {
                    "type": "object",
                    "properties": {"epochs": {"type": "integer", "minimum": 1}, "model": {"enum": ["logistic"]}},
                    "additionalProperties": False,
                },
                "statistics": True,
                "description": "",
                "classes": None,
            }
        ],
        "datasets": [
            {
                "name": "heart",
                "kind": "csv",
                "columns": [
                    {"name": "age", "type": "number", "categories": None},
                    {"name": "chol", "type": "number", "categories": None},
                    {"name": "sex", "type": "category", "categories": ["f", "m"]},
                    {"name": "disease", "type": "number", "categories": None},
                ],
                "label": "disease",
                "rows": 300,
            }
        ],
        "hardware": {"cpus": 2, "memory_bytes": 4_000_000_000, "gpus": [], "device": "cpu"},
        "runner": "process",
    } | changes


@dataclass
class SiteAgent:
    """One site's agent: its signed requests."""

    id: str
    http: httpx.AsyncClient

    async def poll(self, wait_s: float = 0, **more: Any) -> httpx.Response:
        return await self.http.post("/v1/tasks/leases", json={"wait_s": wait_s, **more})

    async def lease(self, wait_s: float = 0) -> dict[str, Any]:
        answer = await self.poll(wait_s)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def report(self, lease: dict[str, Any], what: str, **body: Any) -> httpx.Response:
        body = {"lease_token": lease["lease_token"], **body}
        return await self.http.post(f"/v1/tasks/{lease['task_id']}/{what}", json=body)


@dataclass
class World:
    """The coordinator under test and everything around it."""

    app: FastAPI
    database: Database
    clock: MovableClock
    use_cases: UseCases
    conductor: Conductor
    sweeper: TaskSweeper
    neighbours: Neighbours
    registry: Registry
    authority: CertificateAuthority
    notifier: Notifier
    streams: Streams
    admin: httpx.AsyncClient
    stack: AsyncExitStack
    folder: Path

    def client(self, auth: httpx.Auth | None = None, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app), base_url="http://coordinator", auth=auth, headers=headers
        )

    def identity(self, subject: Subject) -> Identity:
        return make_identity(self.authority, subject)

    def service(self, name: str) -> httpx.AsyncClient:
        return self.client(SigningAuth(self.identity(Subject("service", name)), "coordinator"))

    async def federation(self, name: str = "heart") -> str:
        answer = await self.admin.post("/v1/federations", json={"name": name})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def site(self, federation_id: str, name: str, told: dict[str, Any] | None = None) -> SiteAgent:
        body = {"name": name, "owner": f"{name} hospital"}
        answer = await self.admin.post(f"/v1/federations/{federation_id}/sites", json=body)
        assert answer.status_code == 201, answer.text
        site_id = str(answer.json()["id"])
        identity = self.identity(Subject("site", site_id, federation_id))
        agent = SiteAgent(site_id, self.client(SigningAuth(identity, "coordinator")))
        answer = await agent.http.put("/v1/sites/self/profile", json=told or profile())
        assert answer.status_code == 200, answer.text
        return agent

    async def sites(self, federation_id: str, count: int = 4) -> list[SiteAgent]:
        return [await self.site(federation_id, f"site-{at}") for at in range(count)]

    async def person(self, name: str, *roles: tuple[str, str | None]) -> httpx.AsyncClient:
        grants = [{"role": role, "federation_id": where} for role, where in roles]
        user = (await self.admin.post("/v1/users", json={"name": name, "roles": grants})).json()
        made = await self.admin.post("/v1/tokens", json={"name": "test", "user_id": user["id"]})
        return self.client(authorization=f"Bearer {made.json()['token']}")

    async def job(self, federation_id: str, **changes: Any) -> dict[str, Any]:
        answer = await self.admin.post("/v1/jobs", json=document(federation_id, **changes))
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def get_job(self, job_id: str) -> dict[str, Any]:
        return dict((await self.admin.get(f"/v1/jobs/{job_id}")).json())

    async def get_round(self, round_id: str) -> dict[str, Any]:
        return dict((await self.admin.get(f"/v1/rounds/{round_id}")).json())

    async def participation(self, job_id: str) -> list[dict[str, Any]]:
        return list((await self.admin.get(f"/v1/jobs/{job_id}/participation")).json()["items"])

    def view(self) -> CoordinatorViewModel:
        """The dashboard of an administrator; datasheets are not there."""
        return CoordinatorViewModel(self.source(), Principal("usr_x", "Ada", (Grant(Role.ADMIN),)), "Ada")

    def source(self) -> CoordinatorSource:
        """What opens dashboards, without datasheets."""
        cases, nothing = self.use_cases, cast("Any", None)
        return CoordinatorSource(
            cases.jobs, cases.comparisons, cases.timelines, cases.clones, cases.schedules, cases.sweeps,
            cases.federations, cases.sites,
            cases.accounts, self.app.state.auditing,
            Datasheets(self.database, nothing, nothing, nothing), cases.operations, tuple, self.app.state.membership,
            cases.two_persons,
            ModelCatalogue(self.database, self.registry),
        )  # fmt: skip

    async def flush(self) -> None:
        await self.use_cases.attendance.flush()

    async def run(self, sql: str, **values: Any) -> None:
        async def work(tx: Any) -> None:
            await tx.session.execute(text(sql), values)

        await self.database.run("test", work)

    async def watch_for(self, seconds: float, agents: list[SiteAgent] | None = None) -> None:
        """Time passes while the API is there; these agents are heard all the while."""
        while seconds > 0:
            step = min(5.0, seconds)
            self.clock.advance(step)
            seconds -= step
            for agent in agents or []:
                self.use_cases.attendance.mark(agent.id)
            self.use_cases.attendance._written.clear()
            await self.flush()


def make_identity(authority: CertificateAuthority, subject: Subject) -> Identity:
    key = Ed25519PrivateKey.generate()
    now = datetime.now(UTC)
    certificate = authority.issue(key.public_key(), subject, now + timedelta(days=1), now=now)
    return Identity(key, certificate, authority.certificate)


def document(federation_id: str, **changes: Any) -> dict[str, Any]:
    """A job that four hospitals can run."""
    return {
        "name": "heart disease",
        "federation_id": federation_id,
        "model": {"name": "heart"},
        "recipe": {"name": "tabular", "params": {"epochs": 1}},
        "data": {"dataset": "heart", "label": "disease"},
        "rounds": 2,
        "evaluation": {"every": 2},
        "deadlines": {"round_s": 60},
    } | changes


class NoRevocations:
    def revoked(self, keyid: str) -> bool:
        return False


@asynccontextmanager
async def make_world(url: str, redis_url: str, folder: Path) -> AsyncIterator[World]:
    await asyncio.to_thread(prepare, url, "coordinator")
    clock = MovableClock()
    database = Database(url, common, clock=clock, pool_size=5)
    streams = Streams(redis_url, prefix=f"test-{secrets.token_hex(4)}")
    notifier = Notifier(streams, ["coordinator.tasks", "coordinator.events"])
    authority = CertificateAuthority.create(datetime.now(UTC))
    neighbours = Neighbours()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        stack.push_async_callback(streams.close)
        coordinator = make_identity(authority, Subject("service", "coordinator"))
        others = await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(neighbours.application()), base_url="http://others")
        )
        registry = Registry(others)
        app = application(database, streams)
        sealer = Sealer.ensure(folder / "seal.key")
        use_cases = build_use_cases(database, notifier, sealer, registry, TIMING, app.state.stopping)
        app.state.use_cases, app.state.tokens = use_cases, use_cases.accounts
        app.state.verifier = PartyVerifier(authority.certificate, "coordinator", SqlNonces(database), NoRevocations())
        urls = {name: f"http://{name}" for name in ("coordinator", "aggregator", "keys", "registry")}
        app.state.membership = Membership(database, KeysDirectory(others), urls, None)
        app.state.auditing = Auditing(KeysDirectory(others), registry, lambda: coordinator)
        conductor = Conductor(
            database, Rounds(database, lambda: coordinator, TIMING, 600.0), Aggregator(others), registry, Keys(others)
        )
        token = (await use_cases.accounts.bootstrap(folder)).read_text().strip()
        await stack.enter_async_context(background(notifier.run(), Relay(database, streams, notifier=notifier).run()))
        world = World(
            app=app,
            database=database,
            clock=clock,
            use_cases=use_cases,
            conductor=conductor,
            sweeper=TaskSweeper(database, TIMING),
            neighbours=neighbours,
            registry=registry,
            authority=authority,
            notifier=notifier,
            streams=streams,
            admin=others,  # until there is this world's own
            stack=stack,
            folder=folder,
        )
        world.admin = world.client(authorization=f"Bearer {token}")
        await world.flush()
        yield world
