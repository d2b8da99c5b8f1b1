"""When the rows of a query are taken, and taken again."""

import asyncio
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from undersong.services.agent.runner.protocol import snapshot_file
from undersong.services.agent.site import snapshots as module
from undersong.services.agent.site.querying import NoSnapshot, QueryRequest, take_snapshot
from undersong.services.agent.site.snapshots import Snapshots
from undersong.shared.files import file_mark


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask here what a process asks: it takes a second to start, and test_querying.py and tests/e2e start it."""

    async def asked(request: QueryRequest) -> dict[str, Any]:
        try:
            return {"rows": take_snapshot(request)}
        except NoSnapshot as refusal:
            return {"fault": str(refusal)}

    monkeypatch.setattr(module, "_asked", asked)


class Site:
    """A datasets.yaml with one query on a database of SQLite."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "datasets.yaml"
        self.rows = snapshot_file(folder / "snapshots", "d")
        with sqlite3.connect(folder / "d.sqlite") as made:
            made.execute("CREATE TABLE t AS SELECT 1 AS x")
        made.close()
        (folder / "url").write_text(f"sqlite:///{folder}/d.sqlite")
        self.declare()
        self.quiet = True
        self.snapshots = Snapshots(self.file, folder / "snapshots", lambda: self.quiet)

    def declare(self, query: str = "SELECT x FROM t", **more: Any) -> None:
        entry = {"name": "d", "kind": "sql", "sql": {"url_file": "url", "query": query, **more}}
        self.file.write_text(yaml.safe_dump({"datasets": [entry]}))

    async def taken(self, *, quiet: bool = True) -> bool:
        before = file_mark(self.rows)
        self.quiet = quiet
        await self.snapshots.refresh()
        return file_mark(self.rows) not in (None, before)


async def test_rows_are_taken_once_and_again_when_what_decides_them_changed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert await site.taken()
    assert not await site.taken()
    restarted = Snapshots(site.file, tmp_path / "snapshots")
    site.snapshots = restarted
    assert not await site.taken(), "an agent that starts again keeps them"
    site.declare("SELECT x + 1 AS x FROM t")
    assert await site.taken()
    os.utime(tmp_path / "url", (1, 1))
    assert await site.taken()


async def test_an_age_counts_only_while_there_is_no_work(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.declare(refresh_s=60)
    assert await site.taken()
    assert not await site.taken()
    os.utime(site.rows, (time.time() - 61,) * 2)
    assert not await site.taken(quiet=False)
    assert await site.taken()


async def test_a_query_that_fails_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old rows of the same query stay; those of another query do not."""
    site = Site(tmp_path)
    site.declare(refresh_s=60)
    assert await site.taken()
    (tmp_path / "d.sqlite").rename(tmp_path / "away")
    os.utime(site.rows, (1, 1))
    assert not await site.taken()
    assert site.rows.exists()
    assert "no such database file" in site.snapshots.reasons({"d": "x", "other": "y"})["d"]
    assert site.snapshots.reasons({"d": "/datasets/0/sql is wrong"}) == {"d": "/datasets/0/sql is wrong"}
    (tmp_path / "away").rename(tmp_path / "d.sqlite")
    assert not await site.taken(), "not at once"
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    assert await site.taken()
    assert site.snapshots.reasons({"d": "x"}) == {"d": "x"}
    site.declare("SELECT y FROM t")
    assert not await site.taken()
    assert not site.rows.exists(), "rows of another query are not this data set's"


async def test_rows_that_are_declared_no_longer_are_erased(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert await site.taken()
    site.file.write_text("datasets: []\n")
    await site.snapshots.refresh()
    assert list((tmp_path / "snapshots").iterdir()) == []


async def test_what_else_is_in_the_folder_and_a_damaged_mark_stop_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert await site.taken()
    (tmp_path / "snapshots" / "inner").mkdir()
    site.rows.with_name(site.rows.name + ".mark").write_bytes(b"\xff\xfe\x80")
    assert await site.taken(), "rows whose query is not known are asked for again"
    assert not await site.taken()


async def test_a_query_whose_rows_cannot_be_kept_stops_no_other(tmp_path: Path) -> None:
    site = Site(tmp_path)
    first = {"name": "a", "kind": "sql", "sql": {"url_file": "a\0b", "query": "SELECT 1 AS x"}}
    second = {**first, "name": "b", "sql": {"url_file": "url", "query": "SELECT 1 AS x"}}
    declared = yaml.safe_load(site.file.read_text())["datasets"]
    site.file.write_text(yaml.safe_dump({"datasets": [first, second, *declared]}))
    (snapshot_file(tmp_path / "snapshots", "b").with_suffix(".parquet.mark")).mkdir(parents=True)
    assert await site.taken()
    assert "url_file cannot be read" in site.snapshots.faults["a"]
    assert "cannot be kept" in site.snapshots.faults["b"]
    assert set(site.snapshots.faults) == {"a", "b"}


async def test_a_slow_query_that_fails_leaves_most_of_the_time_to_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, now, asked = Site(tmp_path), [1e9], []

    async def slow(request: QueryRequest) -> dict[str, Any]:
        asked.append(now[0])
        now[0] += 75
        return {"fault": "the query took longer than timeout_s"}

    monkeypatch.setattr(module, "_asked", slow)
    monkeypatch.setattr(time, "time", lambda: now[0])
    while len(asked) < 2:
        await site.snapshots.refresh()
        now[0] += 1
    assert asked[1] - asked[0] > 75 * 10


async def test_a_query_that_hangs_holds_up_nothing_and_the_site_is_read_again_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, over, asked = Site(tmp_path), asyncio.Event(), module._asked
    other = {"name": "slow", "kind": "sql", "sql": {"url_file": "url", "query": "SELECT 2 AS x"}}
    declared = yaml.safe_load(site.file.read_text())["datasets"]
    site.file.write_text(yaml.safe_dump({"datasets": [other, *declared]}))

    async def hanging(request: QueryRequest) -> dict[str, Any]:
        if "2 AS x" in request.query:
            await over.wait()
        return await asked(request)

    monkeypatch.setattr(module, "_asked", hanging)
    await site.snapshots.refresh(within_s=0.05)
    assert site.rows.exists()
    assert site.snapshots.news
    site.snapshots.told()
    assert "is being asked" in site.snapshots.reasons({"slow": "no rows"})["slow"]
    await site.snapshots.refresh(within_s=0.05)
    assert not site.snapshots.news, "it is asked once"
    over.set()
    await asyncio.gather(*(task for _, task in site.snapshots._running.values()))
    assert site.snapshots.news
    assert snapshot_file(tmp_path / "snapshots", "slow").exists()


async def test_a_query_is_ended_with_the_agent_or_when_it_is_declared_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, ended = Site(tmp_path), []

    async def hanging(request: QueryRequest) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request.query)
        return {}

    monkeypatch.setattr(module, "_asked", hanging)
    await site.snapshots.refresh(within_s=0.01)
    site.declare("SELECT 7 AS x")
    await site.snapshots.refresh(within_s=0.01)
    assert ended == ["SELECT x FROM t"]
    await site.snapshots.close()
    assert ended == ["SELECT x FROM t", "SELECT 7 AS x"]


async def test_what_the_policy_does_not_name_is_neither_asked_nor_kept(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.snapshots.refresh([])
    assert not site.rows.exists()
    assert "policy does not name" in site.snapshots.reasons({"d": "no rows"})["d"]
    await site.snapshots.refresh(["d"])
    assert site.rows.exists()
    await site.snapshots.refresh([])
    assert not list((tmp_path / "snapshots").iterdir())


async def test_new_rows_do_not_take_the_place_of_those_that_a_job_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, asked = Site(tmp_path), module._asked
    site.declare(refresh_s=60)
    assert await site.taken()
    os.utime(site.rows, (time.time() - 61,) * 2)

    async def while_a_task_comes(request: QueryRequest) -> dict[str, Any]:
        site.quiet = False
        return await asked(request)

    monkeypatch.setattr(module, "_asked", while_a_task_comes)
    assert not await site.taken()
    monkeypatch.setattr(module, "_asked", asked)
    assert await site.taken(), "they are asked for again"
