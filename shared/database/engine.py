"""Engines: one per service process, tuned per database."""

from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from undersong.shared.database import sqlite
from undersong.shared.database.types import dump_json

_CONNECT_TIMEOUT_S = 3


def open_engine(url: str, *, pool_size: int) -> AsyncEngine:
    """Return an engine for `postgresql+psycopg://` or `sqlite+aiosqlite:///`; ValueError for any other URL.

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
            parsed.set(drivername="postgresql+psycopg"),
            isolation_level="READ COMMITTED",
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_S, "options": options},
            pool_timeout=10,
            **common,
        )
    raise ValueError(f"{backend} is not supported; use PostgreSQL or SQLite")
