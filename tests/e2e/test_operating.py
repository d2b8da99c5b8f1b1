"""What operators do while a job runs: stop and start every process, upgrade a database, add a worker."""

import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import httpx
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from tests.effort import also
from tests.pace import Deadline
from undersong.client.types import Job
from undersong.errors import UnreachableError
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.recipes.protocol import source_digest
from undersong.shared.database.migrations import _config, _locked_connection, head_revision
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.requests import SigningAuth

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(300)]

SITES = ("north", "east", "south")
ODD = Path(__file__).parents[1] / "services" / "agent" / "odd_recipe.py"
NOTHING = {"datasets": [{"name": "nothing", "kind": "none", "columns": []}]}
UNASKED = {"datasets": [{"name": "unasked", "kind": "none", "columns": []}]}  # no job asks for it
POLICY = {
    "federations": ["own"],
    "recipes": [{"name": "null"}, {"name": "odd", "digest": source_digest(ODD)}],
    "datasets": {"nothing": {"columns": "*"}},
    "engines": ["pairwise", "sealed"],
}
STOPS = (
    "coordinator.api",
    *also(
        "agent.east",
        "aggregator.worker",
        "keys.helper",
        "coordinator.worker",
        "aggregator.api",
        "registry.api",
        "registry.worker",
        "keys.api",
        "keys.worker",
    ),
)
T = TypeVar("T")
PATIENCE_S = 120.0  # for whatever machine; nothing here is a measurement


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Platform]:
    settings = {"aggregator": {"worker_lease_s": "3", "sweep_s": "0.5", "step_s": "60"}}
    with Platform(tmp_path_factory.mktemp("home"), settings=settings, forks=forks) as running:
        for name in SITES:
            running.add_site(name, datasets=NOTHING, policy=POLICY, agent={"recipes": [str(ODD)]})
        running.wait_sites_online(len(SITES), timeout_s=PATIENCE_S)
        yield running


@pytest.fixture(scope="module")
def job(platform: Platform) -> Iterator[Job]:
    """One that runs all the while; at its end, nothing may be missing of it."""
    pace = {"name": "odd", "params": {"sleep_s": 0.5}}  # rounds that follow each other at once take a whole processor
    running = submit(platform, "all-the-while", rounds=10_000, recipe=pace)
    one_more(platform, running)
    yield running
    platform.client.cancel_job(running.id)


@pytest.fixture
def paused(platform: Platform, job: Job) -> Iterator[None]:
    """The job rests while a test waits for something else: its rounds would take the processors."""
    platform.client.pause_job(job.id)
    yield
    patiently(lambda: platform.client.resume_job(job.id))


def submit(platform: Platform, name: str, **changes: Any) -> Job:
    spec = {
        "name": name,
        "federation_id": platform.federation().id,
        "model": {"name": name},
        "recipe": {"name": "null", "params": {"parameters": 500}},
        "data": {"dataset": "nothing"},
        "evaluation": {"every": 0},
        "deadlines": {"round_s": 120},
    }
    return platform.client.submit_job(spec | changes)


def published(platform: Platform, job: Job) -> list[int]:
    """The numbers of the published training rounds, each with every site in its sum."""
    rounds = patiently(lambda: platform.client.rounds(job.id))
    return [r.number for r in rounds if (r.kind, r.phase, r.got) == ("train", "published", len(SITES))]


def patiently(ask: Callable[[], T]) -> T:
    """The answer of a service that may be starting just now."""
    until = Deadline(PATIENCE_S)
    while True:
        try:
            return ask()
        except UnreachableError:
            assert not until.over()


def one_more(platform: Platform, job: Job) -> None:
    """A round that was begun after now is published: the number after the one that is in hand."""
    target, until = len(published(platform, job)) + 2, Deadline(PATIENCE_S)
    while len(published(platform, job)) < target:
        found = patiently(lambda: platform.client.job(job.id))
        assert not found.finished, found.reason
        assert not until.over(), platform.client.rounds(job.id)[-2:]
        time.sleep(0.3)


def stopped(platform: Platform, name: str) -> int | None:
    """End a process by SIGTERM; its exit code. One that does not end by itself is killed, which the code shows.

    Processes give themselves 10 s; on a machine that is busy with other tests, the clock on the wall says more.
    """
    process = platform.processes[name]
    process.stop(grace_s=30)
    return process.exit_code


@pytest.mark.parametrize("name", STOPS)
def test_a_rolling_restart(platform: Platform, job: Job, name: str) -> None:
    """SIGTERM ends each process by itself, with exit code 0, and rounds go on without it and after it."""
    assert stopped(platform, name) == 0, platform.processes[name].log_tail()
    platform.resume(name)
    one_more(platform, job)


@pytest.mark.usefixtures("paused")
def test_a_job_that_the_sites_refuse_fails_at_once_and_says_why(platform: Platform) -> None:
    """The policies allow no such engine: one attempt, and one cause with the number of sites."""
    refused = submit(platform, "refused", engine="twoserver", rounds=2)
    ended = platform.client.wait(refused.id, timeout_s=PATIENCE_S)
    rounds = [r for r in platform.client.rounds(refused.id) if r.kind == "train"]
    assert (ended.state, len(rounds)) == ("failed", 1)
    (cause,) = ended.causes
    assert (cause.code, cause.sites) == ("policy-engine", len(SITES))
    assert "twoserver" in cause.sentence


def test_rounds_go_on_while_redis_is_frozen(platform: Platform, job: Job) -> None:
    """The server accepts connections and answers nothing: rounds go on by looks at SQL, and after it as before."""
    valkey = platform.processes["valkey"].pid
    assert valkey is not None
    os.kill(valkey, signal.SIGSTOP)
    try:
        one_more(platform, job)
    finally:
        os.kill(valkey, signal.SIGCONT)
    one_more(platform, job)


@pytest.mark.exhaustive
def test_rounds_go_on_while_redis_is_killed_again_and_again(platform: Platform, job: Job) -> None:
    """A server that lives for a third of a second at a time is as good as none."""
    stop = Event()

    def flap() -> None:
        while not stop.wait(0.3):
            platform.kill("valkey")

    flapping = Thread(target=flap)
    flapping.start()
    try:
        one_more(platform, job)
    finally:
        stop.set()
        flapping.join()
    one_more(platform, job)


@pytest.mark.exhaustive  # the agent's side of it: tests/services/agent/test_loop.py
@pytest.mark.usefixtures("paused")
def test_a_stored_update_that_rots_is_sent_again(platform: Platform) -> None:
    """After its receipt: the site is told (`body-lost`), sends the same bytes again, and the round counts all sites."""
    last = platform.processes[f"agent.{SITES[-1]}"].pid or 0
    for sleep_s in (4, 15, 60):  # the updates may be quicker than we are
        recipe = {"name": "odd", "params": {"sleep_s": sleep_s}}
        running = submit(platform, f"rots-{sleep_s}", rounds=1, recipe=recipe, engine="pairwise")
        eventually(lambda: collecting(platform, running))  # noqa: B023  (called at once)
        round_id = collecting(platform, running)
        os.kill(last, signal.SIGSTOP)
        try:
            if site_id := rot_one(platform, round_id):
                eventually(lambda: lost(platform, round_id) and None not in uploads(platform, round_id).values())  # noqa: B023
                break
        finally:
            os.kill(last, signal.SIGCONT)
        platform.client.cancel_job(running.id)
    else:
        pytest.fail("the sites' updates were always quicker")
    ended = platform.client.wait(running.id, timeout_s=PATIENCE_S)
    (trained,) = [r for r in platform.client.rounds(running.id) if r.kind == "train"]
    assert (ended.state, trained.id, trained.phase, trained.got) == ("succeeded", round_id, "published", len(SITES))
    assert lost(platform, round_id) == [site_id]


def rot_one(platform: Platform, round_id: str) -> str:
    """Change a stored update before the worker reads it, once all sites but the frozen one have a receipt.

    Return its site, or nothing where updates came before the worker was stopped: it may have read them.
    """
    platform.halt("aggregator.worker")  # not frozen: it could hold the database
    try:
        if uploads(platform, round_id):
            return ""
        eventually(lambda: len(uploads(platform, round_id)) == len(SITES) - 1)
        site_id, digest = min(uploads(platform, round_id).items())
        body = platform.home / "aggregator" / "blobs" / str(digest)[:2] / str(digest)
        data = bytearray(body.read_bytes())
        data[-3] ^= 0x10
        body.write_bytes(data)
        return site_id
    finally:
        platform.resume("aggregator.worker")


def collecting(platform: Platform, job: Job) -> str:
    """The training round to which sites upload now, by the aggregator's database; empty where there is none."""
    query = "SELECT id FROM rounds WHERE job_id = ? AND kind = 'train' AND phase = 'collecting'"
    rows = aggregator_rows(platform, f"{query} AND coalesce(step, 'upload') = 'upload'", job.id)
    return str(rows[0][0]) if rows else ""


def uploads(platform: Platform, round_id: str) -> dict[str, str | None]:
    """The digest of each site's update that has a receipt; None for one that does not count."""
    query = "SELECT site_id, CASE WHEN code IS NULL THEN digest END FROM contributions WHERE round_id = ?"
    return dict(aggregator_rows(platform, query, round_id))


def lost(platform: Platform, round_id: str) -> list[str]:
    """The sites whose stored updates were found damaged."""
    query = "SELECT actor, detail FROM round_events WHERE type = 'update.rejected' AND round_id = ?"
    return [site for site, detail in aggregator_rows(platform, query, round_id) if "body-lost" in detail]


def aggregator_rows(platform: Platform, query: str, key: str) -> list[Any]:
    with closing(sqlite3.connect(platform.home / "aggregator" / "aggregator.sqlite", timeout=30)) as db:
        return db.execute(query, (key,)).fetchall()


def test_no_round_was_lost_or_counted_twice(platform: Platform, job: Job) -> None:
    """After all these restarts: every number once, every site in every sum, one version for each round."""
    numbers = published(platform, job)
    assert numbers == list(range(1, len(numbers) + 1))
    with closing(sqlite3.connect(platform.home / "registry" / "registry.sqlite")) as db:
        lineages = [json.loads(text) for (text,) in db.execute("SELECT lineage FROM versions")]
    rounds = [lineage["round_id"] for lineage in lineages if lineage.get("job_id") == job.id]
    assert len(rounds) == len(set(rounds)) >= len(numbers)


@pytest.mark.usefixtures("paused")
def test_a_long_poll_is_answered_when_its_server_ends(platform: Platform) -> None:
    """Not cut off: the agent hears at once that it may ask again."""
    site = platform.add_site("idle", datasets=UNASKED)
    platform.wait_sites_online(len(SITES) + 1, timeout_s=PATIENCE_S)
    platform.halt("agent.idle")
    identity = Identity.load(platform.home / "sites" / site.name / "state" / "identity")
    answers: list[httpx.Response] = []

    def poll() -> None:
        with httpx.Client(auth=SigningAuth(identity, "coordinator"), timeout=60) as http:
            url = f"{platform.urls['coordinator']}/v1/tasks/leases"
            answers.append(http.post(url, json={"wait_s": 30}))

    before = requests_of(platform, identity)
    polling = Thread(target=poll)
    polling.start()
    eventually(lambda: requests_of(platform, identity) > before)
    assert stopped(platform, "coordinator.api") == 0
    polling.join(PATIENCE_S)
    platform.resume("coordinator.api")
    assert [(answer.status_code, answer.headers.get("next-poll-s")) for answer in answers] == [(204, "1")]


def requests_of(platform: Platform, identity: Identity) -> int:
    """How many requests of this party the coordinator has let in: it keeps each one's nonce."""
    with closing(sqlite3.connect(platform.home / "coordinator" / "coordinator.sqlite", timeout=30)) as db:
        return int(db.execute("SELECT count(*) FROM nonces WHERE principal = ?", (identity.keyid,)).fetchone()[0])


def eventually(condition: Callable[[], object]) -> None:
    until = Deadline(PATIENCE_S)
    while not condition():
        assert not until.over(), "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize("service", ["aggregator", *also("coordinator")])
def test_an_older_database_comes_forward_under_traffic(platform: Platform, job: Job, service: str) -> None:
    """As the revision before left it: api and worker migrate it as they start, while agents poll and work."""
    for role in ("worker", "api"):
        platform.halt(f"{service}.{role}")
    url = f"sqlite:///{platform.home / service / f'{service}.sqlite'}"
    numbers = published_rows(platform)
    try:
        set_back(url, service)
        assert published_rows(platform)[: len(numbers)] == numbers, "the round that was on its way may end"
    finally:
        for role in ("worker", "api"):
            platform.resume(f"{service}.{role}")
    one_more(platform, job)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == (head_revision(service),)
    assert published_rows(platform)[: len(numbers)] == numbers


def published_rows(platform: Platform) -> list[tuple[str, str]]:
    """Rounds that were published, by the aggregator's database."""
    with closing(sqlite3.connect(platform.home / "aggregator" / "aggregator.sqlite", timeout=30)) as db:
        return db.execute("SELECT id, phase FROM rounds WHERE phase = 'published' ORDER BY id").fetchall()


def set_back(url: str, service: str) -> None:
    """Take from a database what the last revision added: migrations only add, and old code knows nothing of it."""
    config = _config(service)
    revision = ScriptDirectory.from_config(config).get_revision("head").down_revision
    with tempfile.TemporaryDirectory() as folder:
        older = f"sqlite:///{folder}/older.sqlite"
        with _locked_connection(older, service) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, str(revision))
            then = sa.MetaData()
            then.reflect(connection)
        with _locked_connection(url, service) as connection:
            now = sa.MetaData()
            now.reflect(connection)
            for table in reversed(now.sorted_tables):
                if table.name not in then.tables:
                    table.drop(connection)
            for name, table in then.tables.items():
                for index in {i.name for i in now.tables[name].indexes} - {i.name for i in table.indexes}:
                    connection.exec_driver_sql(f"DROP INDEX {index}")
                for column in set(now.tables[name].columns.keys()) - set(table.columns.keys()):
                    connection.exec_driver_sql(f"ALTER TABLE {name} DROP COLUMN {column}")
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = ?", (revision,))


@pytest.mark.exhaustive  # tests/services/agent/test_crashes.py ends one by SIGTERM
@pytest.mark.usefixtures("paused")
def test_an_agent_that_ends_gives_its_task_back(platform: Platform) -> None:
    """In the middle of a training of ten minutes: it ends at once, and the task is open again before any lease ends."""
    recipe = {"name": "odd", "params": {"sleep_s": 600}}
    job = submit(platform, "endless", rounds=1, recipe=recipe, engine="sealed", deadlines={"round_s": 600})
    try:
        eventually(lambda: task_of(platform, job, "south").get("phase") == "running")
        assert stopped(platform, "agent.south") == 0
        task = task_of(platform, job, "south")
        assert (task["state"], task["code"]) == ("open", "interrupted")
    finally:
        platform.client.cancel_job(job.id)
        platform.resume("agent.south")


def task_of(platform: Platform, job: Job, site: str) -> dict[str, Any]:
    """The site's task in the training round, once there is one."""
    for round_ in platform.client.rounds(job.id):
        if round_.kind == "train":
            tasks = platform.client.round(round_.id).model_dump(mode="json")["tasks"]
            return next((task for task in tasks if task["site_name"] == site), {})
    return {}


@pytest.mark.skipif(sys.platform != "linux", reason="services are forked on Linux only")
@pytest.mark.parametrize("number", also(signal.SIGSTOP, signal.SIGKILL))
def test_services_outlive_the_process_that_forked_them(platform: Platform, job: Job, number: signal.Signals) -> None:
    """Frozen or killed, it takes nothing along, and what dies afterwards is started again.

    Last in this file: the exit codes of what the killed one had forked cannot be known.
    """
    assert platform._forks is not None
    before = {name: process.pid for name, process in platform.processes.items()}
    os.kill(platform._forks.pid, number)
    one_more(platform, job)
    assert {name: process.pid for name, process in platform.processes.items()} == before
    platform.kill("aggregator.worker")
    one_more(platform, job)
