"""Rows of queries: what the process that asks a database writes, and what it says where it cannot."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from undersong.cli import data
from undersong.errors import UndersongError
from undersong.recipes.datasets import BadDataset, describe_dataset, load_dataset
from undersong.recipes.declaration import DatasetEntry, read_declarations
from undersong.services.agent.site.querying import NoSnapshot, QueryRequest, encoded, take_snapshot

SECRET = "hunter2"
ROWS = """
CREATE TABLE visits (id bigint, age numeric, day date, at timestamptz, ill boolean, ward text, raw bytea);
INSERT INTO visits VALUES (1, 40.50, '2020-01-02', '2020-01-01 01:00+01', true, 'north', 'x'),
                          (2, null, null, null, false, 'söuth', null);
CREATE SEQUENCE counter;
"""


@pytest.fixture
def database(postgres_url: str) -> str:
    """A database with a table; its URL has a password, which this server does not ask for."""
    url = sa.make_url(postgres_url)
    with psycopg.connect(url.set(drivername="postgresql").render_as_string(False), autocommit=True) as connection:
        connection.execute(ROWS)
    return url.set(drivername="postgresql", password=SECRET).render_as_string(False)


def request(folder: Path, url: str, query: str, **more: Any) -> QueryRequest:
    file = folder / "url"
    file.write_text(url + "\n")
    limits = {"row_limit": 1000, "timeout_s": 20, **more}
    return QueryRequest(url_file=str(file), query=query, out=str(folder / "rows.parquet"), **limits)


def declared(folder: Path, *columns: dict[str, Any], **more: Any) -> DatasetEntry:
    entry = {"name": "d", "kind": "sql", "sql": {"url_file": "url", "query": "SELECT 1"}, "columns": columns, **more}
    return DatasetEntry.model_validate(entry).model_copy(update={"path": folder / "rows.parquet"})


def test_types_of_the_database_are_columns(tmp_path: Path, database: str) -> None:
    query = "SELECT id, age, day, at, ill, ward FROM visits ORDER BY id;"
    assert take_snapshot(request(tmp_path, database, query)) == 2
    assert stat.S_IMODE((tmp_path / "rows.parquet").stat().st_mode) == 0o600
    numbers = [{"name": name, "type": "number"} for name in ("id", "age", "day", "at", "ill")]
    ward = {"name": "ward", "type": "category", "categories": ["north", "söuth"]}
    data = load_dataset(declared(tmp_path, *numbers, ward))
    assert str(data.features.tolist()) == "[[1.0, 40.5, 18263.0, 18262.0, 1.0, 0.0], [2.0, nan, nan, nan, 0.0, 1.0]]"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT * FROM visists", "names a table that is not there"),
        ("SELECT agee FROM visits", "names a column that is not there"),
        ("SELECT * FROM visits WHERE", "no single SELECT"),
        ("DELETE FROM visits", "no single SELECT"),
        ("SELECT nextval('counter')", "only allowed to read"),
        ("SELECT 1; DROP TABLE visits", "SELECT"),
        ("SELECT pg_sleep(30)", "longer than timeout_s"),
        ("SELECT g FROM generate_series(1, 1001) AS g", "more rows than row_limit, 1,000"),
        ("SELECT id, age AS id FROM visits", "names id twice"),
        ("SELECT raw FROM visits", "column raw is of type bytes"),
        ("SELECT ward::int FROM visits", "does not fit its type"),
        ("SELECT 'infinity'::timestamptz AS at", "does not fit its type"),
        ("SELECT 'infinity'::date AS day", "does not fit its type"),
        ("SELECT '100%' AS share, ':x' AS y, 1 % 2 AS z", None),
    ],
)
def test_a_query_that_cannot_be_kept_is_refused_without_its_url_or_rows(
    tmp_path: Path, database: str, query: str, says: str | None
) -> None:
    asked = request(tmp_path, database, query, timeout_s=1)
    if says is None:
        assert take_snapshot(asked) == 1
        return
    with pytest.raises(NoSnapshot) as caught:
        take_snapshot(asked)
    assert says in str(caught.value)
    for secret in (SECRET, "north", str(sa.make_url(database).database)):
        assert secret not in str(caught.value)
    assert not (tmp_path / "rows.parquet").exists()
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM visits").fetchone() == (2,)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"postgresql://me:{SECRET}@127.0.0.1:9/db", "cannot be reached"),
        (f"postgresql://me:{SECRET}@127.0.0.1:9/db?colour=red", "cannot be reached"),
        (f"mysql://me:{SECRET}@localhost/db", "mysql is no database that is read here (postgresql, sqlite)"),
        (f"me:{SECRET}@localhost", "holds no URL such as"),
        (f"postgresql://me:{SECRET}@localhost:port/db", "holds no URL such as"),
        (f"a\n{SECRET}", "one line"),
        ("", "one line"),
        ("sqlite:////nowhere/at.all", "no such database file"),
    ],
)
def test_a_url_that_leads_to_no_database_is_refused(tmp_path: Path, url: str, says: str) -> None:
    asked = request(tmp_path, url, "SELECT 1", timeout_s=2)
    with pytest.raises(NoSnapshot) as caught:
        take_snapshot(asked)
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("file", ["a\0b", "/dev/zero", "/nowhere", "."])
def test_a_url_file_that_is_none_is_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(NoSnapshot, match="url_file"):
        take_snapshot(replace(request(tmp_path, "", "SELECT 1"), url_file=file))


def test_the_process_says_only_what_may_be_said(tmp_path: Path, database: str) -> None:
    """A database that is not there: neither output of the process has the URL."""
    url = sa.make_url(database).set(database="elsewhere").render_as_string(False)
    asked = encoded(request(tmp_path, url, "SELECT 1"))
    command = [sys.executable, "-m", "undersong.services.agent.site.querying"]
    done = subprocess.run(command, input=asked, capture_output=True, timeout=60, check=True, env=dict(os.environ))
    assert json.loads(done.stdout)["fault"] in (
        "there is no such database as in the URL",
        "the database of the URL cannot be reached, or refused the user or the password",
    )
    assert SECRET.encode() not in done.stdout + done.stderr


def test_a_database_without_types_gives_texts_and_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "d.sqlite"
    with sqlite3.connect(file) as made:
        made.execute("CREATE TABLE t (a, b)")
        made.executemany("INSERT INTO t VALUES (?, ?)", [(1, "x"), (2.5, "1"), ("3", None)])
    made.close()
    assert take_snapshot(request(tmp_path, f"sqlite:///{file}", "SELECT a FROM t")) == 3
    entry = declared(tmp_path, {"name": "a", "type": "number"})
    assert load_dataset(entry).features.tolist() == [[1], [2.5], [3]]
    with pytest.raises(NoSnapshot, match="only allowed to read"):
        take_snapshot(request(tmp_path, f"sqlite:///{file}", "DELETE FROM t RETURNING a"))
    for query in (f"ATTACH '{tmp_path}/new' AS new", f"ATTACH 'file:{tmp_path}/new?mode=rwc' AS new",
                  f"VACUUM INTO '{tmp_path}/new'", "PRAGMA query_only = OFF"):  # fmt: skip
        with pytest.raises(NoSnapshot, match="only allowed to read"):
            take_snapshot(request(tmp_path, f"sqlite:///{file}", query))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "url", "says"),
    [
        (b"", "url", "holds no query"),
        (b"\xff\xfe\x00", "url", "holds no query"),
        (b"SELECT 1", f"postgresql://me:{SECRET}@db/d", "no URL: it has a password"),
    ],
)
def test_a_draft_of_no_query_is_refused(tmp_path: Path, content: bytes, url: str, says: str) -> None:
    (tmp_path / "visits.sql").write_bytes(content)
    done = CliRunner().invoke(data.app, ["init", str(tmp_path / "visits.sql"), "--url-file", url])
    assert isinstance(done.exception, UndersongError)
    assert says in str(done.exception)
    assert SECRET not in done.output + str(done.exception) + str(done.exception.remedy)


def test_a_draft_has_the_types_of_the_query(tmp_path: Path, database: str) -> None:
    """What is drafted is read by the agent as it is; the query keeps its lines, and comments in them."""
    asked = request(tmp_path, database, "")
    (tmp_path / "visits.sql").write_text("SELECT age, day, ill -- of all\nFROM visits")
    words = ["init", str(tmp_path / "visits.sql"), "--url-file", asked.url_file, "--label", "ill"]
    done = CliRunner().invoke(data.app, words)
    assert done.exit_code == 0, done.output
    assert SECRET not in done.output
    (tmp_path / "datasets.yaml").write_text(done.stdout)
    entry = read_declarations(tmp_path / "datasets.yaml").entries["visits"]
    assert entry.sql is not None
    assert ([column.type for column in entry.columns], entry.label) == (["number", "number", "category"], "ill")
    take_snapshot(request(tmp_path, database, entry.sql.query))
    assert describe_dataset(entry.model_copy(update={"path": tmp_path / "rows.parquet"})).rows == 2


def test_no_rows_and_no_snapshot_are_said(tmp_path: Path, database: str) -> None:
    entry = declared(tmp_path, {"name": "id", "type": "number"})
    with pytest.raises(BadDataset, match="the rows of its query are not there"):
        describe_dataset(entry)
    assert take_snapshot(request(tmp_path, database, "SELECT id FROM visits WHERE id > 9")) == 0
    with pytest.raises(BadDataset, match="holds no rows"):
        describe_dataset(entry)
