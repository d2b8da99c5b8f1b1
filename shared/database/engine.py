"""Engines: one per service process, tuned per database."""

from typing import Any

from sqlalchemy import URL, event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from undersong.shared.database import sqlite
from undersong.shared.database.types import dump_json

_CONNECT_TIMEOUT_S = 3
_PREPARE = "prepare_threshold"


def open_engine(url: str, *, pool_size: int) -> AsyncEngine:
    """Return an engine for `postgresql+psycopg://` or `sqlite+aiosqlite:///`; ValueError for any other URL.

    A PostgreSQL must take writes: a standby is refused. `?host=a:5432&host=b:5432` finds the primary of several, and
    `?prepare_threshold=none` switches prepared statements off, for PgBouncer in transaction mode.
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
            connect_args={"async_creator_fn": sqlite.connect},
            **common,
        )
        event.listen(engine.sync_engine, "connect", sqlite.prepare)
        event.listen(engine.sync_engine, "begin", sqlite.begin)
        return engine
    if backend == "postgresql":
        options = "-c statement_timeout=30000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=60000"
        return create_async_engine(
            parsed.set(drivername="postgresql+psycopg").difference_update_query([_PREPARE]),
            isolation_level="READ COMMITTED",
            connect_args={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "options": options,
                "target_session_attrs": "read-write",  # of several hosts the primary; a standby alone is refused
                **_prepared(parsed),
            },
            pool_timeout=10,
            **common,
        )
    raise ValueError(f"{backend} is not supported; use PostgreSQL or SQLite")


def _prepared(url: URL) -> dict[str, int | None]:
    """Return what the URL says of prepared statements, in the driver's form."""
    said = url.query.get(_PREPARE)
    if said is None:
        return {}
    if said == "none":
        return {_PREPARE: None}
    if not isinstance(said, str) or not said.isdecimal():
        raise ValueError("prepare_threshold is a number of executions or none")
    return {_PREPARE: int(said)}
