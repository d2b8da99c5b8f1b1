"""A slice of the fault matrix, on one platform of real processes; the whole of it is `make faults`."""

import asyncio
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.effort import also
from tests.simulation import matrix, report
from tests.simulation.arena import Arena
from tests.simulation.cases import all_cases
from tests.simulation.ledger import Entry, Ledger
from tests.simulation.proxy import FAIR, Proxy, Weather
from tests.simulation.trial import Outcome, collect, run, settled
from tests.simulation.verdicts import Verdicts
from undersong.local.forks import Forks
from undersong.shared.database.migrations import migrate

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

SLICE = (
    "helper.report.judged (keys.helper) / killed / twoserver",
    "aggregator.update.committed (aggregator.api) / killed",
    "agent.update.kept (agent.north) / killed",
    "all sites - aggregator / replies lost",
    "aggregator.step.frozen (aggregator.worker) / killed, time 2",
    "aggregator.step.closed (aggregator.worker) / killed, time 3",
    "aggregator.round.checked (aggregator.worker) / killed",
    "keys.given.committed (keys.api) / killed, time 3",
    "relay.announcing (coordinator.worker) / Redis wiped",
)


@pytest.fixture(scope="module")
def arena(forks: Forks) -> Iterator[Arena]:
    with Arena(forks=forks) as made:
        made.warm_up()
        yield made


@pytest.mark.parametrize("name", [*SLICE[:2], *also(*SLICE[2:])])
def test_nothing_is_lost(arena: Arena, name: str) -> None:
    """The round ends, nothing is counted twice or lost, nothing is left over, and the next round ends too."""
    (case,) = [case for case in all_cases() if case.name == name]
    outcome = run(arena, case)
    assert outcome.tried, f"{case.process} never came to {case.point}"
    assert not outcome.faults
    assert outcome.published >= 2, outcome.aborted


def test_nothing_lies_about_when_all_is_over(arena: Arena) -> None:
    """After collection each store holds what a round or a version needs, and all of that."""
    assert asyncio.run(collect(arena)) == []


@pytest.mark.skipif("UNDERSONG_CONTROLS" not in os.environ, reason="a platform of its own: `make faults` runs it")
def test_planted_bugs_are_caught() -> None:
    """The control: an update counted twice, one acknowledged and forgotten, bodies that stay. The books must tell."""
    planted = [sys.executable, "-m", "tests.simulation.planted"]
    commands = {
        "aggregator.api": [*planted, "forgets_after_the_receipt", "undersong.services.aggregator", "api"],
        "aggregator.worker": [*planted, "counts_twice,keeps_bodies", "undersong.services.aggregator", "worker"],
    }
    with Arena(commands=commands) as arena:
        arena.warm_up(engine="sealed")
        job = arena.wait(arena.submit("control", rounds=1, engine="sealed").id, 240)
        assert job.state == "succeeded", job.reason
        ledger = Ledger(arena)
        (entry,) = ledger.entries(job.id)
        assert sorted((entry.counts or {}).values()) == [0, 0, 1, 2]
        found = " ".join(entry.faults())
        assert "is counted 2 times" in found
        assert "is in the books, and not in the sum" in found
        assert "which is lost" in found
        assert any("is still there" in fault for fault in settled(ledger, within_s=3))


def test_the_helpers_book_tells_what_changed(tmp_path: Path) -> None:
    """The control: a verdict that changes, one that goes, and two attempts at one round."""
    file = tmp_path / "helper.sqlite"
    migrate(f"sqlite+aiosqlite:///{file}", "keys.helper")
    place = json.dumps({"manifest": {"job_id": "job_a", "kind": "train", "number": 1}})
    round_ = (
        "INSERT INTO rounds (id, job_id, manifest, manifest_digest, created_at, expires_at, accepted)"
        f" VALUES (?, 'job_a', '{place}', '', 0, 0, x'01')"
    )
    report = (
        "INSERT INTO reports (round_id, site_id, job_id, report_id, question, body_digest, length, at)"
        " VALUES ('rnd_1', ?, 'job_a', ?, 'q', '', 1, 0)"
    )
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute(round_, ("rnd_1",))
        for site in ("north", "east", "south"):
            db.execute(report, (site, site))
        with Verdicts(_Books(file)) as verdicts:
            assert verdicts.faults() == []
            db.execute("UPDATE reports SET message = x'00' WHERE site_id = 'north'")
            db.execute("DELETE FROM reports WHERE site_id = 'east'")
            db.execute(round_, ("rnd_2",))
            assert verdicts.faults() == [
                "the helper opened 2 attempts at round 1 (train) of job_a",
                "the helper's verdict on east in rnd_1 is gone",
                "the helper's verdict on north in rnd_1 changed",
            ]
    entry = Entry("rnd_1", "published", None, contributors={"north": "d"}, agreed=frozenset())
    assert entry.faults() == ["rnd_1: the helper signed another set than the aggregator's books name"]


class _Books:
    def __init__(self, file: Path) -> None:
        self._file = file

    def database_url(self, service: str) -> str:
        return f"sqlite:///{self._file}"


def test_the_report_tells_a_failure() -> None:
    cases = all_cases()
    outcome = Outcome(cases[0], True, 3.0, "failed: x", 0, (), ["lost"], "2026-01-01T00:00:00+00:00", "abc")
    page = report.document([outcome, Outcome(cases[1], False, 60.0)], ["blob"], cases[:3])
    assert "1 of 3 cases tried" in page
    assert "1 failures; 1 unneeded blobs" in page
    assert "0/1, 3 s" in page
    assert "| abc | SQLite | 2026-01-01T00:00 | 2026-01-01T00:00 | 1 | 1 |" in page
    assert f"## Never tried\n\n- {cases[2].name}" in page
    assert f"cannot do it\n\n- {cases[1].name}" in page


def test_what_was_never_tried_comes_first_and_then_the_oldest() -> None:
    one, two, three, *_ = all_cases()
    before = [Outcome(one, True, 1.0, at="2026-01-02"), Outcome(two, True, 1.0, at="2026-01-01")]
    assert matrix.in_turn([one, two, three], before) == [three, two, one]


def test_cases_have_names_of_their_own() -> None:
    names = [case.name for case in all_cases()]
    assert len(set(names)) == len(names)
    assert set(SLICE) <= set(names)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[int]:
    """A small real server's port."""
    import http.server
    import threading

    (tmp_path / "file").write_bytes(bytes(20_000))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("weather", "error"),
    [
        (Weather(drop_replies=True), httpx.RemoteProtocolError),
        (Weather(reset=True), (httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)),
        (Weather(partition=True), (httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)),
        (Weather(blackhole=True), httpx.ReadTimeout),
        (Weather(close_after=1000), (httpx.ReadError, httpx.RemoteProtocolError)),
    ],
)
def test_the_proxy_makes_weather(web: int, weather: Weather, error: type[Exception]) -> None:
    with Proxy(web) as proxy:
        assert len(httpx.get(f"{proxy.url}/file").content) == 20_000
        proxy.set(weather)
        with pytest.raises(error):
            httpx.get(f"{proxy.url}/file", timeout=1.0 if weather.blackhole else 60.0)
        proxy.set(FAIR)
        assert len(httpx.get(f"{proxy.url}/file").content) == 20_000


def test_the_proxy_slows_and_slices(web: int) -> None:
    with Proxy(web) as proxy:
        proxy.set(Weather(slice_bytes=999, bytes_per_s=40_000, delay_s=0.001))
        began = time.monotonic()
        assert len(httpx.get(f"{proxy.url}/file").content) == 20_000
        assert time.monotonic() - began > 0.4
