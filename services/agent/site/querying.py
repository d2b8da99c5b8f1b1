"""Runs one data set's query and writes its rows to a snapshot: a process of its own, the only one that connects.

Started as `python -m undersong.services.agent.site.querying` with a request as JSON on standard input; it answers with
JSON on standard output: how many rows there are, or why there are none. What is said never holds the URL, which is
secret, nor a value of the rows: sentences come from here and from names that the query itself has.
"""

from __future__ import annotations

import decimal
import json
import os
import sqlite3
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

BATCH: Final = 20_000
CONNECT_S: Final = 10
LONGEST_URL: Final = 4_096
KNOWN: Final = ("postgresql", "sqlite")
STATES: Final = {
    "28": "the database refused the user or the password of the URL",
    "3D": "there is no such database as in the URL",
    "42501": "the database user may not read what the query names",
    "42601": "the query is no single SELECT that the database understands",
    "42P01": "the query names a table that is not there",
    "42703": "the query names a column that is not there",
    "42": "the database does not understand the query",
    "25006": "the query writes, and is only allowed to read",
    "57014": "the query took longer than timeout_s",
    "22": "the database could not compute the query: a value does not fit its type",
    "53": "the database has no room for another connection or for the query",
}
"""What SQLSTATE codes, or their first two characters, mean here."""


class NoSnapshot(Exception):
    """The query cannot be answered; the text is for the site's owner."""


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """What is asked: the query under its limits, and the file that gets the rows."""

    url_file: str
    query: str
    row_limit: int
    timeout_s: int
    out: str


def take_snapshot(request: QueryRequest) -> int:
    """Write the rows of a query as a Parquet file, in one step, and return how many; raises `NoSnapshot`."""
    parts: list[_Part] = []
    try:
        for table in _tables(request):
            if not parts or parts[-1].schema != table.schema:
                parts.append(_Part(Path(f"{request.out}.part{len(parts)}"), table.schema))
            parts[-1].add(table)
        for each in parts:
            each.close()
        whole = parts[0] if len(parts) == 1 else _joined(parts, Path(f"{request.out}.part"))
        whole.path.replace(request.out)
        return sum(each.rows for each in parts)
    finally:
        for each in parts:
            each.path.unlink(missing_ok=True)


class _Part:
    """A Parquet file that rows of one schema are added to, a table at a time; readable for its owner only."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        from pyarrow import parquet

        path.unlink(missing_ok=True)
        self.path, self.schema, self.rows = path, schema, 0
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._writer = parquet.ParquetWriter(self._file, schema)

    def add(self, table: pa.Table) -> None:
        """Write a table of the schema."""
        self._writer.write_table(table)
        self.rows += table.num_rows

    def close(self) -> None:
        """Finish the file, durably."""
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def tables(self) -> Iterator[pa.Table]:
        """Yield what was written."""
        import pyarrow as pa
        from pyarrow import parquet

        with parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(BATCH):
                yield pa.Table.from_batches([batch])


def _joined(parts: Sequence[_Part], path: Path) -> _Part:
    """Return one file of parts whose columns have other types: a column of several types holds texts."""
    import pyarrow as pa

    fields = []
    for place, name in enumerate(parts[0].schema.names):
        types = {part.schema.types[place] for part in parts} - {pa.null()}
        fields.append(pa.field(name, types.pop() if len(types) == 1 else pa.string()))
    whole = _Part(path, pa.schema(fields))
    for part in parts:
        for table in part.tables():
            columns = [_cast(table.column(place), field.type) for place, field in enumerate(fields)]
            whole.add(pa.Table.from_arrays(columns, schema=whole.schema))
    whole.close()
    return whole


def _cast(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray | pa.Array:
    import pyarrow as pa

    if column.type == wanted:
        return column
    if column.type == pa.null():
        return pa.nulls(len(column), wanted)
    return pa.array([_text(value) for value in column.to_pylist()], wanted)


def _tables(request: QueryRequest) -> Iterator[pa.Table]:
    """Yield the rows of the query in parts, at least one; raises `NoSnapshot`."""
    import sqlalchemy as sa

    engine = _engine(_url(request.url_file), request.timeout_s)
    try:
        with engine.connect() as connection:
            _only_read(connection, request.timeout_s)
            options = {"stream_results": True, "no_parameters": True}
            result = connection.execution_options(**options).exec_driver_sql(request.query.strip().rstrip(";"))
            with closing(result):
                yield from _rows(result, request.row_limit)
    except sa.exc.DBAPIError as error:
        raise NoSnapshot(_sentence(error)) from None
    except sa.exc.SQLAlchemyError as error:
        raise NoSnapshot(f"the query cannot be run ({type(error).__name__})") from None
    finally:
        engine.dispose()


def _rows(result: sa.CursorResult[Any], row_limit: int) -> Iterator[pa.Table]:
    if not result.returns_rows:
        raise NoSnapshot(STATES["42601"])
    names = list(result.keys())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise NoSnapshot(f"the query names {', '.join(twice)} twice: give each column its own name with AS")
    count = 0
    for rows in result.partitions(BATCH):
        count += len(rows)
        if count > row_limit:
            raise NoSnapshot(f"the query has more rows than row_limit, {row_limit:,}")
        yield _table(names, rows)
    if not count:
        yield _table(names, [])


def _url(file: str) -> sa.URL:
    import sqlalchemy as sa

    try:
        with Path(file).open("rb") as opened:
            text = opened.read(LONGEST_URL + 1).decode("utf-8").strip()  # a device has no end
    except (OSError, ValueError) as error:  # a path can hold what no path may
        why = getattr(error, "strerror", None) or "its path or its content is no text"
        raise NoSnapshot(f"its url_file cannot be read: {why}") from None
    if not text or len(text) > LONGEST_URL or "\n" in text:
        raise NoSnapshot("its url_file must hold one line, the database's URL")
    try:
        url = sa.make_url(text)
        backend = url.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise NoSnapshot("its url_file holds no URL such as postgresql://USER:PASSWORD@HOST/DATABASE") from None
    if backend not in KNOWN:
        said = f"{backend} is no database that is read here"
        raise NoSnapshot(f"{said} ({', '.join(KNOWN)}): export its rows to a Parquet file")
    return url


def _engine(url: sa.URL, timeout_s: int) -> sa.Engine:
    import sqlalchemy as sa

    plain: dict[str, Any] = {"poolclass": sa.pool.NullPool, "hide_parameters": True}
    try:
        if url.get_backend_name() == "sqlite":
            path = f"file:{quote(url.database or '')}?mode=ro"
            return sa.create_engine(
                "sqlite://", creator=lambda: sqlite3.connect(path, uri=True, timeout=timeout_s), **plain
            )
        given = {"connect_timeout": min(CONNECT_S, timeout_s), "application_name": "undersong-agent"}
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), connect_args=given, **plain)
    except ImportError:
        raise NoSnapshot("its query needs more packages: pip install 'undersong[agent,sql]'") from None
    except (sa.exc.SQLAlchemyError, TypeError, ValueError):
        raise NoSnapshot("its url_file holds a URL with an option that the database's driver does not know") from None


def _only_read(connection: sa.Connection, timeout_s: int) -> None:
    """Let this session read and no more, for no longer than the limit."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA query_only = ON")
        driver: Any = connection.connection.driver_connection
        driver.set_authorizer(_reads)  # ATTACH and VACUUM INTO would make other files
        return
    for setting in (
        "default_transaction_read_only = on",
        f"statement_timeout = {timeout_s * 1000}",
        f"idle_in_transaction_session_timeout = {timeout_s * 1000}",
        "timezone = 'UTC'",
    ):
        connection.exec_driver_sql(f"SET SESSION {setting}")
    connection.commit()
    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _reads(action: int, *_: str | None) -> int:
    """Return whether SQLite may do what a query asks: read."""
    reading = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in reading else sqlite3.SQLITE_DENY


def _sentence(error: sa.exc.DBAPIError) -> str:
    """Return what a database's refusal means, without its own words, which may quote rows or the URL."""
    import sqlalchemy as sa

    state = str(getattr(error.orig, "sqlstate", None) or "")
    if found := STATES.get(state) or STATES.get(state[:2]):
        return found
    if isinstance(error.orig, sqlite3.Error):
        name = getattr(error.orig, "sqlite_errorname", "")
        known = {
            "SQLITE_CANTOPEN": "there is no such database file as in the URL",
            "SQLITE_READONLY": STATES["25006"],
            "SQLITE_AUTH": STATES["25006"],
            "SQLITE_NOTADB": "the URL's file is no database",
        }
        return known.get(name, STATES["42"])
    if isinstance(error, sa.exc.DataError):  # the driver's own: a moment of infinity, a year before 1
        return STATES["22"]
    if state:
        return f"the database refused the query (SQLSTATE {state})"
    return "the database of the URL cannot be reached, or refused the user or the password"


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.Table:
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.table({name: _column(name, values) for name, values in zip(names, columns, strict=True)})


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    """Return the values of one column by their own types; numbers of any length as the texts that say them."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool} or kinds <= {float} or kinds <= {str}:
        return pa.array(values)
    if kinds <= {int}:
        return pa.array(values) if _small(values) else pa.array([_text(value) for value in values], pa.string())
    if kinds <= {date}:
        return pa.array(values, pa.date32())
    if kinds <= {datetime}:
        moments = [value if value is None or value.tzinfo else value.replace(tzinfo=UTC) for value in values]
        return pa.array(moments, pa.timestamp("us", tz="UTC"))
    if kinds <= {int, float, decimal.Decimal, str, bool, uuid.UUID}:
        return pa.array([_text(value) for value in values], pa.string())
    odd = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise NoSnapshot(f"the query's column {name} is of type {odd}, which cannot be used: cast it to a number or a text")


def _small(values: Sequence[Any]) -> bool:
    return all(value is None or -(2**63) <= value < 2**63 for value in values)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return format(value, "f") if isinstance(value, decimal.Decimal) and value.is_finite() else str(value)


def main() -> None:
    """Answer the request on standard input."""
    request = QueryRequest(**json.loads(sys.stdin.buffer.read()))
    try:
        answer: dict[str, Any] = {"rows": take_snapshot(request)}
    except NoSnapshot as refusal:
        answer = {"fault": str(refusal)}
    except ImportError:
        answer = {"fault": "its query needs more packages: pip install 'undersong[agent,sql]'"}
    except Exception as error:  # noqa: BLE001 (a library's text may hold the URL or rows)
        answer = {"fault": f"the query cannot be run ({type(error).__name__})"}
    sys.stdout.write(json.dumps(answer))


def encoded(request: QueryRequest) -> bytes:
    """Return a request as `main` reads it."""
    return json.dumps(asdict(request)).encode()


if __name__ == "__main__":
    main()
