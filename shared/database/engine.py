"""Engines: one per service process, tuned per database."""

from typing import Any

from sqlalchemy import Connection, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from shared.database.types import dump_json

READ_ONLY = "undersong_read_only"
SQLITE_BUSY_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 3


def open_engine(url: str, *, pool_size: int) -> AsyncEngine:
    """An engine for `postgresql+psycopg://` or `sqlite+aiosqlite:///`; ValueError for any other URL.

    No connection is pinged before use: a lost one fails the statement, and the transaction is run again anyway.
    """
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    common: dict[str, Any] = {"pool_size": pool_size, "max_overflow": pool_size, "json_serializer": dump_json}
    if backend == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ValueError("SQLite needs a file: several connections share it")
        engine = create_async_engine(
            parsed.set(drivername="sqlite+aiosqlite"),
            connect_args={"isolation_level": None, "timeout": SQLITE_BUSY_TIMEOUT_S},
            **common,
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    if backend == "postgresql":
        options = "-c statement_timeout=30000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=60000"
        return create_async_engine(
            parsed.set(drivername="postgresql+psycopg"),
            isolation_level="READ COMMITTED",
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_S, "options": options},
            pool_timeout=10,
            **common,
        )
    raise ValueError(f"{backend} is not supported; use PostgreSQL or SQLite")


def _prepare_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    """Set what SQLite forgets with every connection; FULL keeps a committed transaction through a power cut."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once: a deferred transaction that turns to writing later fails with "locked"."""
    reading = connection.get_execution_options().get(READ_ONLY)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
