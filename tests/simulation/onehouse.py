"""A platform in one process, for tests that crash it between any two effects and look at every table after each step.

Coordinator, aggregator and keys are the real ones, on SQLite files of their own, and speak real signed HTTP to each
other, without sockets. Sites are simulated, with the real engine; like agents they keep what they said before they say
it. A *process* (`coordinator.worker`) that crashes loses all that is in memory, and what it had not committed.
"""

import asyncio
import contextlib
import contextvars
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import msgpack
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Request

import services.aggregator.foreman
import services.aggregator.tables
import services.aggregator.wiring as aggregator
import services.coordinator.api.app
import services.coordinator.tables
import services.keys.wiring as keys
from services.aggregator.settings import AggregatorSettings
from services.coordinator.cases import make_cases
from services.coordinator.conductor import Conductor
from services.coordinator.parties import Aggregator, Keys, Registry
from services.coordinator.rounds import Rounds
from services.coordinator.tasks import TaskSweeper, Timing
from services.keys.settings import KeysSettings
from shared import clock, faults
from shared.database import Database
from shared.database.migrations import migrate
from shared.errors import Refusal
from shared.identity.authority import Identity, Subject
from shared.identity.digests import content_digest
from shared.identity.directory import CertificateDirectory
from shared.identity.enrol import IdentityKeeper, enrol
from shared.identity.nonces import SqlNonces
from shared.identity.requests import SigningAuth
from shared.identity.sealing import Sealer
from shared.identity.verify import PartyVerifier, RevocationFeed
from shared.ids import RoundId, SiteId, digest_of, new_id
from shared.learning.tensors import load
from shared.queues import Bell, Event, Streams
from shared.secagg.engine import UPLOAD, Seat
from shared.secagg.engines import engine_named
from shared.secagg.pairwise.witness import RosterAsk, read_ask
from shared.secagg.payload import train_payload
from shared.web.standing import Standing
from shared.wire.manifest import SignedManifest
from tests.services.aggregator.conftest import FakeRegistry, NoTokens, zeros
from tests.services.coordinator.world import document, profile

SITES: Final = 4
LENGTH: Final = 8
STEPS: Final = ("advertise", "share", UPLOAD, "commit", "unmask")
SERVICES: Final = ("coordinator", "aggregator", "keys")
TIMING: Final = Timing(heartbeat_s=10.0, lease_s=30.0)
ROUND_S: Final = 60
WORKER_LEASE_S: Final = 10.0


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Process:
    """One start of a process. Once it has crashed, nothing that it still runs has an effect."""

    name: str
    fuse: int | None = None
    at: str | None = None
    crashed: bool = False

    def effect(self, point: str) -> None:
        """Something is about to be done for good, or was just done: the moment to die at."""
        if self.fuse is not None:
            self.fuse -= 1
            self.crashed = self.crashed or self.fuse <= 0
        self.crashed = self.crashed or self.at == point
        if self.crashed:
            raise Crash(f"{self.name} at {point}")


OUTSIDE: Final = Process("outside")
RUNNING: contextvars.ContextVar[Process] = contextvars.ContextVar("running", default=OUTSIDE)


class Wire(httpx.AsyncBaseTransport):
    """Calls an application as the process that serves it; what crashes there is a lost connection here."""

    def __init__(self, house: "House", name: str, app: Callable[[], FastAPI]) -> None:
        self._house, self._name, self._app = house, name, app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        RUNNING.get().effect("call.unsent")
        inner = httpx.ASGITransport(self._app())
        token = RUNNING.set(self._house.processes[self._name])
        try:
            response = await inner.handle_async_request(request)
        except BaseException as error:
            if not is_crash(error):
                raise
            RUNNING.reset(token)
            await self._house.restart(self._name)
            raise httpx.ReadError("the other process died") from None
        RUNNING.reset(token)
        await response.aread()
        self._house.heard(request, response)
        RUNNING.get().effect("call.answered")
        return response


def is_crash(error: BaseException) -> bool:
    """Whether this is a crash, or a group with one in it."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_crash(each) for each in error.exceptions)
    return isinstance(error, Crash)


class _NoRevocations:
    def revoked(self, keyid: str) -> bool:
        return False


class _TiredBell:
    """Whoever would wait stops instead, as a worker does that is told to."""

    def ring_local(self, key: str) -> None:
        """Nobody waits."""

    @contextmanager
    def listen(self, key: str) -> Iterator["_TiredBell"]:
        yield self

    async def wait(self, timeout_s: float) -> bool:
        raise asyncio.CancelledError


@dataclass
class Founding:
    """What stands at the beginning of every trial: databases with parties and sites in them, and their keys."""

    folder: Path
    identities: dict[str, Identity]
    federation_id: str
    admin_token: str


@dataclass
class House:
    """The platform. Use as ``async with House.opened(founding, folder)``."""

    folder: Path
    founding: Founding
    stack: AsyncExitStack
    processes: dict[str, Process] = field(default_factory=dict)
    databases: dict[str, Database] = field(default_factory=dict)
    apps: dict[str, FastAPI] = field(default_factory=dict)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    ahead: timedelta = field(default_factory=timedelta)
    asked: dict[tuple[str, str], set[bytes]] = field(default_factory=dict)
    witnessed: dict[tuple[str, str], set[bytes]] = field(default_factory=dict)
    sites: list["Site"] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, founding: Founding, folder: Path) -> AsyncIterator["House"]:
        shutil.copytree(founding.folder, folder)
        async with AsyncExitStack() as stack:
            house = cls(folder, founding, stack)
            faults.watch(lambda point: RUNNING.get().effect(point))
            clock.run_ahead(lambda: house.ahead)
            stack.callback(faults.watch, None)
            stack.callback(clock.run_ahead, None)
            await house._build()
            yield house

    async def _build(self) -> None:
        self._serve_models()
        for service, common in (
            ("coordinator", services.coordinator.tables.common),
            ("aggregator", services.aggregator.tables.common),
        ):
            database = Database(url_of(self.folder, service), common, pool_size=3)
            self.stack.push_async_callback(database.close)
            self.databases[service] = database
        self.streams = Streams("redis://127.0.0.1:1/0")
        self.stack.push_async_callback(self.streams.close)
        for name in ("keys.api", "coordinator.api", "coordinator.worker", "aggregator.api", "aggregator.worker"):
            await self.restart(name)
        made = self.registry.seed(zeros(LENGTH))
        self.first = made.version_id
        for number in range(SITES):
            self.sites.append(Site(self, number, self.founding.identities[f"site-{number}"]))

    def _serve_models(self) -> None:
        """What the coordinator asks the registry, beside what the aggregator does."""
        app = self.registry.app

        async def models(request: Request) -> dict[str, Any]:
            return {"items": [], "next": None}

        async def model(request: Request) -> dict[str, Any]:
            return {"id": "mdl_01k5z0000000000000000000aa", **(await request.json())}

        async def version(version_id: str) -> dict[str, Any]:
            (found,) = (v for v in self.registry.versions.values() if v["id"] == version_id)
            return {"federation_id": self.founding.federation_id, **found}

        app.add_api_route("/v1/models", models, methods=["GET"])
        app.add_api_route("/v1/models", model, methods=["POST"])
        app.add_api_route("/v1/versions/{version_id}", version, methods=["GET"])

    def http(self, who: str, to: str) -> httpx.AsyncClient:
        """`who`, speaking signed HTTP to the service `to`."""
        app: Callable[[], FastAPI] = (
            (lambda: self.registry.app) if to == "registry" else (lambda: self.apps[f"{to}.api"])
        )
        auth = SigningAuth(self.founding.identities[who], to)
        return httpx.AsyncClient(transport=Wire(self, f"{to}.api", app), base_url=f"http://{to}", auth=auth)

    async def restart(self, name: str) -> None:
        """A new start of a process, with nothing in memory."""
        RUNNING.set(OUTSIDE)
        self.processes.setdefault("registry.api", Process("registry.api"))
        self.processes[name] = Process(name)
        service, role = name.split(".")
        await getattr(self, f"_start_{service}_{role}")()

    async def _start_keys_api(self) -> None:
        app = keys.build_app(KeysSettings(database_url=url_of(self.folder, "keys"), data_dir=self.folder / "keys"))
        await self.stack.enter_async_context(app.router.lifespan_context(app))
        self.apps["keys.api"] = app

    async def _start_coordinator_api(self) -> None:
        database = self.databases["coordinator"]
        app = services.coordinator.api.app.build_app(database, self.streams)
        bell = Bell(self.streams, ["coordinator.tasks"])
        registry = Registry(self.http("coordinator", "registry"))
        sealer = Sealer.ensure(self.folder / "seal.key")
        self.cases = make_cases(database, bell, sealer, registry, TIMING, app.state.stopping)
        app.state.cases, app.state.tokens = self.cases, self.cases.accounts
        ca = self.founding.identities["coordinator"].ca_certificate
        app.state.verifier = PartyVerifier(ca, "coordinator", SqlNonces(database), _NoRevocations())
        self.apps["coordinator.api"] = app

    async def _start_coordinator_worker(self) -> None:
        database, me = self.databases["coordinator"], self.founding.identities["coordinator"]
        parties = (self.http("coordinator", to) for to in ("aggregator", "registry", "keys"))
        to_aggregator, to_registry, to_keys = parties
        rounds = Rounds(database, lambda: me, TIMING, float(ROUND_S))
        self.conductor = Conductor(database, rounds, Aggregator(to_aggregator), Registry(to_registry), Keys(to_keys))
        self.task_sweeper = TaskSweeper(database, TIMING)

    async def _start_aggregator_api(self) -> None:
        settings, stand, bell = self._aggregator_stand()
        app = aggregator.build_app(settings)
        parts = aggregator.assemble(settings, self.databases["aggregator"], stand, bell)
        aggregator.install(app, parts, stand, NoTokens())
        self.apps["aggregator.api"] = app

    async def _start_aggregator_worker(self) -> None:
        settings, stand, bell = self._aggregator_stand()
        parts = aggregator.assemble(settings, self.databases["aggregator"], stand, bell)
        self.hands, self.foreman = aggregator.employ(settings, parts, stand, bell)
        self.woken: list[RoundId] = []
        foreman: Any = self.foreman
        foreman.wake, foreman._bell = lambda round_id: self.woken.append(round_id) or True, _TiredBell()

    def _aggregator_stand(self) -> tuple[AggregatorSettings, Standing, Bell]:
        me, database = self.founding.identities["aggregator"], self.databases["aggregator"]
        settings = AggregatorSettings(
            database_url=url_of(self.folder, "aggregator"),
            data_dir=self.folder / "aggregator",
            registry_url="http://registry",
            keys_url="http://keys",
            worker_lease_s=WORKER_LEASE_S,
        )
        http = httpx.AsyncClient(mounts={
            f"http://{to}": Wire(self, f"{to}.api", lambda to=to: self._app(to)) for to in ("keys", "registry")
        })  # fmt: skip
        feed = RevocationFeed(http, "http://keys")
        stand = Standing(
            identity=IdentityKeeper(me, settings.identity_dir, http, "http://keys"),
            verifier=PartyVerifier(me.ca_certificate, "aggregator", SqlNonces(database), _NoRevocations()),
            revocations=feed,
            directory=CertificateDirectory(http, "http://keys", me.ca_certificate),
            nonces=SqlNonces(database),
            http=http,
        )
        return settings, stand, Bell(self.streams, ["aggregator.updates"])

    def _app(self, service: str) -> FastAPI:
        return self.registry.app if service == "registry" else self.apps[f"{service}.api"]

    def heard(self, request: httpx.Request, response: httpx.Response) -> None:
        """Remember each question that came to the witness, and each signature that left it."""
        if request.url.host == "keys" and request.url.path.endswith("/witness"):
            ask = msgpack.unpackb(request.content, raw=False)["ask"]
            place = request.url.path.split("/")[3], "roster" if isinstance(read_ask(ask), RosterAsk) else "survivors"
            self.asked.setdefault(place, set()).add(ask)
            if response.status_code == 200:
                self.witnessed.setdefault(place, set()).add(response.content)

    # what happens

    def arm(self, name: str, *, fuse: int | None = None, at: str | None = None) -> None:
        """Let this process die at its `fuse`-th effect from now, or at this point."""
        self.processes[name].fuse, self.processes[name].at = fuse, at

    async def disarm(self) -> list[str]:
        """Nothing dies any more, and what is dead is started again; who it was."""
        dead = [name for name, process in self.processes.items() if process.crashed]
        for name in dead:
            await self.restart(name)
        for process in self.processes.values():
            process.fuse = process.at = None
        return dead

    async def run_as(self, name: str, act: Callable[[], Any]) -> None:
        """Let the process do something; it may die of it."""
        token = RUNNING.set(self.processes[name])
        try:
            await act()
        except (Refusal, httpx.HTTPError, asyncio.CancelledError):
            pass
        except BaseException as error:
            if not is_crash(error):
                raise
        finally:
            RUNNING.reset(token)
        if self.processes[name].crashed:
            await self.restart(name)

    async def submit(self, rounds: int) -> str:
        """A job of the given number of training rounds; its id."""
        spec = document(
            self.founding.federation_id,
            model={"name": "heart", "version_id": self.first},
            rounds=rounds,
            evaluation={"every": 0},
            deadlines={"round_s": ROUND_S},
            strategy={"weighting": "equal"},
            update={"bound": 2.0},
        )
        headers = {"authorization": f"Bearer {self.founding.admin_token}", "idempotency-key": new_id("req")}
        transport = httpx.ASGITransport(self.apps["coordinator.api"])
        async with httpx.AsyncClient(transport=transport, base_url="http://coordinator") as http:
            answer = await http.post("/v1/jobs", json=spec, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def hints(self, service: str) -> list[Event]:
        """Hints in a service's outbox that nobody rang."""
        rows = self.rows(
            service, "SELECT event_id, topic, type, subject FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT 20"
        )
        return [Event(*row, None) for row in rows]

    async def forget_hint(self, service: str, event: Event) -> None:
        """The relay has marked it; whether anybody heard is another matter."""
        from sqlalchemy import update

        database = self.databases[service]
        outbox = database.common.outbox

        async def mark(tx: Any) -> None:
            await tx.session.execute(update(outbox).where(outbox.c.event_id == event.id).values(sent_at=await tx.now()))

        await database.run("test.mark", mark)

    async def hear(self, event: Event) -> None:
        """Consumers of the event's topic handle it."""
        if event.topic == "aggregator.work":
            await self.run_as("aggregator.worker", lambda: self._aggregate(self.hands.hear(event)))
        handle = {
            "coordinator.jobs": self.conductor.on_job,
            "coordinator.rounds": self.conductor.on_round,
            "aggregator.rounds": self.conductor.on_aggregator,
        }.get(event.topic)
        if handle is not None:
            await self.run_as("coordinator.worker", lambda: handle(event))

    async def sweep_coordinator(self) -> None:
        """One turn of the coordinator's sweeper."""

        async def sweep() -> None:
            for job in (
                self.task_sweeper.sweep,
                self.conductor.sweep_rounds,
                self.conductor.sweep_jobs,
                self.conductor.sweep_reports,
            ):
                await job()

        await self.run_as("coordinator.worker", sweep)

    async def sweep_aggregator(self) -> None:
        """One turn of the aggregator's sweeper."""

        async def sweep() -> None:
            await self._aggregate(self.hands.enforce())
            await self._aggregate(self.hands.attend())
            await self.hands.scrub()
            await self.hands.records.sweep()

        await self.run_as("aggregator.worker", sweep)

    async def _aggregate(self, waking: Any) -> None:
        """Do it, and all that can be done for the rounds that it wakes."""
        await waking
        foreman: Any = self.foreman
        while self.woken:
            with contextlib.suppress(asyncio.CancelledError):
                await foreman.drive(self.woken.pop())
            await asyncio.gather(*foreman._handing_in)

    async def pass_time(self, seconds: float, present: list["Site"]) -> None:
        """Time passes; the API is there, and hears these sites."""
        while seconds > 0:
            step = min(5.0, seconds)
            self.ahead += timedelta(seconds=step)
            seconds -= step
            for site in present:
                self.cases.attendance.mark(SiteId(site.id))
            self.cases.attendance._written.clear()
            await self.cases.attendance.flush()

    # what stands

    def rows(self, service: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a service's database."""
        with contextlib.closing(sqlite3.connect(self.folder / f"{service}.sqlite", timeout=10)) as db:
            return db.execute(query, values).fetchall()

    def model(self, digest: str) -> np.ndarray[Any, Any]:
        """A model that the registry has."""
        (tensor,) = load(self.registry.blobs[digest]).tensors.values()
        return np.asarray(tensor, np.float64)


class Site:
    """A site with its agent: `turn` does the next thing there is to do. What it says is kept before it is said."""

    def __init__(self, house: House, number: int, identity: Identity) -> None:
        self.house, self.number, self.identity = house, number, identity
        self.id = identity.subject.name
        self.engine = engine_named("pairwise").client
        self.lease: dict[str, Any] | None = None
        self.rounds: dict[str, Part] = {}
        self.receipts: dict[str, str] = {}
        self.answered: dict[tuple[str, int], str] = {}

    async def turn(self) -> None:
        """Lease, or beat and take the next step of the round that is leased."""
        with contextlib.suppress(httpx.HTTPError):
            if self.lease is None:
                await self._lease()
            elif await self._beat():
                await self._step(self.rounds[self.lease["round_id"]])

    def crash(self) -> None:
        """The agent dies: what it kept is kept."""
        self.lease = None

    async def _call(self, to: str, method: str, path: str, **options: Any) -> httpx.Response:
        async with self.house.http(self.name, to) as http:
            return await http.request(method, path, **options)

    @property
    def name(self) -> str:
        return f"site-{self.number}"

    async def _lease(self) -> None:
        answer = await self._call("coordinator", "POST", "/v1/tasks/leases", json={"wait_s": 0})
        if answer.status_code != 200:
            return
        lease = answer.json()
        if lease["round_id"] not in self.rounds:
            signed = SignedManifest.model_validate(lease["signed_manifest"])
            witness = self.house.founding.identities["keys"].private_key.public_key().public_bytes_raw()
            public = lease["engine_public"]["document"]["public"]
            sign = self.identity.private_key.sign
            seat = Seat(signed.manifest, SiteId(self.id), public, sign, witness)
            self.rounds[lease["round_id"]] = Part(seat, self.engine.begin(seat))
        self.lease = lease

    async def _beat(self) -> bool:
        assert self.lease is not None
        body = {"lease_token": self.lease["lease_token"], "progress": 0.5, "phase": "x"}
        answer = await self._call("coordinator", "POST", f"/v1/tasks/{self.lease['task_id']}/heartbeats", json=body)
        if answer.status_code != 200 or answer.json()["state"] == "abort":
            self.lease = None
        return self.lease is not None

    async def _step(self, part: "Part") -> None:
        assert self.lease is not None
        step = next((step for step in STEPS if step not in part.done), None)
        if step is None:
            await self._complete(part)
            return
        before = STEPS[STEPS.index(step) - 1] if step != STEPS[0] else None
        if before is not None and before not in part.answers:
            path = f"/v1/rounds/{part.round_id}/steps/{before}/answer"
            answer = await self._call("aggregator", "GET", path, params={"wait_s": 0})
            if answer.status_code == 200:
                part.answers[before] = answer.content
            elif answer.status_code != 204:
                await self._give_up(answer)
            return
        answer = await self._say(part, step, part.answers.get(before or ""))
        if answer.is_success or answer.status_code == 410:
            part.done.add(step)
        else:
            await self._give_up(answer)

    async def _say(self, part: "Part", step: str, answer: bytes | None) -> httpx.Response:
        if step not in part.said:
            self._speak(part, step, answer)
        body = part.said[step]
        headers = {"content-type": "application/octet-stream", "content-digest": content_digest(body)}
        if step != UPLOAD:
            path = f"/v1/rounds/{part.round_id}/steps/{step}"
            return await self._call("aggregator", "PUT", path, content=body, headers=headers)
        path = f"/v1/rounds/{part.round_id}/updates"
        response = await self._call("aggregator", "PUT", path, content=body, headers=headers)
        if response.is_success:
            assert response.json()["digest"] == digest_of(body)
            assert self.receipts.setdefault(part.round_id, digest_of(body)) == digest_of(body)
        return response

    def _speak(self, part: "Part", step: str, answer: bytes | None) -> None:
        if step == UPLOAD:
            vector = np.zeros(LENGTH, np.float32)
            vector[self.number] = 1.0
            payload = train_payload(part.seat.manifest, vector, examples=1, loss=0.5, key=bytes(32))
            part.state, pieces = self.engine.upload(part.seat, part.state, answer, payload)
            part.said[step] = b"".join(bytes(piece) for piece in pieces)
            part.seat = replace(part.seat, body=bytes.fromhex(digest_of(part.said[step])))
            return
        if step == STEPS[-1]:  # what opens the sum is said once for each round of a job, whatever the attempt
            place = (part.seat.manifest.job_id, part.seat.manifest.number)
            assert self.answered.setdefault(place, part.round_id) == part.round_id, "opened in another attempt"
        part.state, part.said[step] = self.engine.speak(part.seat, part.state, step, answer)

    async def _complete(self, part: "Part") -> None:
        assert self.lease is not None
        body = {"lease_token": self.lease["lease_token"], "digest": digest_of(part.said[UPLOAD])}
        answer = await self._call("coordinator", "POST", f"/v1/tasks/{self.lease['task_id']}/completions", json=body)
        if answer.status_code < 500:
            self.lease = None

    async def _give_up(self, answer: httpx.Response) -> None:
        if answer.status_code < 500 and answer.status_code != 409:  # else: later
            await self.fail("round-over")

    async def fail(self, code: str) -> None:
        """Tell the coordinator that the task cannot be done."""
        assert self.lease is not None
        body = {"lease_token": self.lease["lease_token"], "code": code, "message": "x"}
        answer = await self._call("coordinator", "POST", f"/v1/tasks/{self.lease['task_id']}/failures", json=body)
        if answer.status_code < 500:
            self.lease = None


@dataclass
class Part:
    """A site's part in a round."""

    seat: Seat
    state: bytes
    answers: dict[str, bytes] = field(default_factory=dict)
    said: dict[str, bytes] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    @property
    def round_id(self) -> RoundId:
        return self.seat.manifest.round_id


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
    database = Database(url_of(folder, "coordinator"), services.coordinator.tables.common, pool_size=2)
    streams = Streams("redis://127.0.0.1:1/0")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        stack.push_async_callback(streams.close)
        await stack.enter_async_context(app.router.lifespan_context(app))
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://keys")
        coordinator = services.coordinator.api.app.build_app(database, streams)
        cases = make_cases(
            database,
            Bell(streams, ["coordinator.tasks"]),
            Sealer.ensure(folder / "seal.key"),
            Registry(http),
            TIMING,
            coordinator.state.stopping,
        )
        coordinator.state.cases, coordinator.state.tokens = cases, cases.accounts
        token = (await cases.accounts.bootstrap(folder)).read_text().strip()

        async def enrolled(subject: Subject) -> Identity:
            new = await app.state.enrolments.create_token(subject, timedelta(days=1))
            return await enrol(http, "http://keys", new.token, Ed25519PrivateKey.generate())

        for name in ("coordinator", "aggregator"):
            identities[name] = await enrolled(Subject("service", name))
        identities["keys"] = app.state.witness.identity
        ca = identities["coordinator"].ca_certificate
        coordinator.state.verifier = PartyVerifier(ca, "coordinator", SqlNonces(database), _NoRevocations())
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
        await cases.attendance.flush()
    return Founding(folder, identities, federation_id, token)
