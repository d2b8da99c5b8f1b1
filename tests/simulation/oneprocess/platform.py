"""A platform in one process, for tests that crash it between any two effects and look at every table after each step.

Coordinator, aggregator and keys are the real ones, on SQLite files of their own, and speak real signed HTTP to each
other, without sockets. Sites are simulated, with the real engine; like agents they keep what they said before they say
it. A *process* (`coordinator.worker`) that crashes loses all that is in memory, and what it had not committed.
"""

import asyncio
import contextlib
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
from fastapi import FastAPI, Request

import undersong.services.aggregator.tables
import undersong.services.coordinator.tables
from tests.services.aggregator.conftest import FakeRegistry, zeros
from tests.services.coordinator.world import document
from tests.simulation.oneprocess.founding import LENGTH, SITES, Founding, url_of
from tests.simulation.oneprocess.process import OUTSIDE, RUNNING, Process, Wire, is_crash
from tests.simulation.oneprocess.site import Site
from tests.simulation.oneprocess.starts import ROUND_S, START
from undersong.shared import clock, faults
from undersong.shared.database import Database
from undersong.shared.errors import Refusal
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.ids import RoundId, SiteId, new_id
from undersong.shared.learning.tensors import load
from undersong.shared.queues import Event, Streams
from undersong.shared.secagg.pairwise.witness import RosterAsk, read_ask


@dataclass
class InProcessPlatform:
    """The platform. Use as ``async with InProcessPlatform.opened(founding, folder)``."""

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
    sites: list[Site] = field(default_factory=list)
    woken: list[RoundId] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, founding: Founding, folder: Path) -> AsyncIterator["InProcessPlatform"]:
        shutil.copytree(founding.folder, folder)
        async with AsyncExitStack() as stack:
            platform = cls(folder, founding, stack)
            faults.watch(lambda point: RUNNING.get().effect(point))
            began = time.monotonic()  # only `pass_time` lets time pass, so that a slow machine changes nothing
            clock.run_ahead(lambda: platform.ahead - timedelta(seconds=time.monotonic() - began))
            stack.callback(faults.watch, None)
            stack.callback(clock.run_ahead, None)
            await platform._build()
            yield platform

    async def _build(self) -> None:
        self._serve_models()
        for service, common in (
            ("coordinator", undersong.services.coordinator.tables.common),
            ("aggregator", undersong.services.aggregator.tables.common),
        ):
            database = Database(url_of(self.folder, service), common, pool_size=3)
            self.stack.push_async_callback(database.close)
            self.databases[service] = database
        self.streams = Streams("redis://127.0.0.1:1/0")
        self.stack.push_async_callback(self.streams.close)
        for name in START:
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
            told = {"federation_id": self.founding.federation_id, "model_id": "mdl_01k5z0000000000000000000aa"}
            return {**told, **found}

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
        await START[name](self)

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
        """Return hints in a service's outbox that were not announced."""
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
            await self.run_as("aggregator.worker", lambda: self._aggregate(self.maintenance.hear(event)))
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
            await self._aggregate(self.maintenance.enforce())
            await self._aggregate(self.maintenance.attend())
            await self.maintenance.scrub()
            await self.maintenance.records.sweep()

        await self.run_as("aggregator.worker", sweep)

    async def _aggregate(self, waking: Any) -> None:
        """Do it, and all that can be done for the rounds that it wakes."""
        await waking
        driver: Any = self.driver
        while self.woken:
            with contextlib.suppress(asyncio.CancelledError):
                await driver.drive(self.woken.pop())
            await asyncio.gather(*driver._handing_in)

    async def pass_time(self, seconds: float, present: list[Site]) -> None:
        """Time passes; the API is there, and hears these sites."""
        while seconds > 0:
            step = min(5.0, seconds)
            self.ahead += timedelta(seconds=step)
            seconds -= step
            for site in present:
                self.use_cases.attendance.mark(SiteId(site.id))
            self.use_cases.attendance._written.clear()
            await self.use_cases.attendance.flush()

    # the state

    def rows(self, service: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a service's database."""
        with contextlib.closing(sqlite3.connect(self.folder / f"{service}.sqlite", timeout=10)) as db:
            return db.execute(query, values).fetchall()

    def model(self, digest: str) -> np.ndarray[Any, Any]:
        """A model that the registry has."""
        (tensor,) = load(self.registry.blobs[digest]).tensors.values()
        return np.asarray(tensor, np.float64)
