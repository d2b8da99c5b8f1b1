"""SQLite without a thread per connection.

aiosqlite hands every call to a thread: about ten hand-overs per transaction, which cost more than the statements
themselves. Here the calls run where they are made, and only a commit on a slow disk leaves the event loop. Statements
are short by rule; waiting for the write lock never blocks the event loop (see `begin`).
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

import aiosqlite
from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from undersong.shared.clock import monotonic

READ_ONLY = "undersong_read_only"
_BUSY_TIMEOUT_S = 5.0
_BLOCK_AT_MOST_S = 0.05
_PAUSE_S = 0.002
_QUICK_S = 0.005
_PRIMARY_CODE = 0xFF
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")

T = TypeVar("T")
P = ParamSpec("P")


class InlineConnection(aiosqlite.Connection):
    """An aiosqlite connection whose calls run on the event loop's own thread, slow commits aside."""

    _commit_s = 0.0  # what the last commit that wrote took
    _written = 0  # rows changed before it, as the driver counts them

    async def _execute(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._connection is None:
            raise ValueError("Connection closed")
        return fn(*args, **kwargs)

    async def _connect(self) -> "InlineConnection":
        if self._connection is None:
            self._connection = self._connector()
        return self

    def __await__(self) -> Generator[Any, None, "InlineConnection"]:
        return self._connect().__await__()

    async def commit(self) -> None:
        """Commit here while the disk is quick, because a hand-over costs more than a quick commit; else in a thread.

        When cancelled, still see the commit through, for the connection goes back to a pool.
        """
        if self._commit_s < _QUICK_S:
            self._timed_commit()
            return
        commit = asyncio.ensure_future(asyncio.to_thread(self._timed_commit))
        try:
            await asyncio.shield(commit)
        except asyncio.CancelledError:
            await asyncio.wait([commit])
            raise

    def _timed_commit(self) -> None:
        written = self._conn.total_changes
        started = monotonic()
        self._conn.commit()
        if written != self._written:  # a read-only commit does not wait for the disk and says nothing about it
            self._written = written
            self._commit_s = monotonic() - started

    def stop(self) -> None:
        """Close at once."""
        self._running = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def close(self) -> None:
        """Close; a second time does nothing."""
        self.stop()


def _lower(value: Any) -> Any:
    """Return a text in small letters, those beyond ASCII too, which SQLite's own function leaves."""
    return value.lower() if isinstance(value, str) else value


def connect(database: str, **_options: object) -> InlineConnection:
    """Return what SQLAlchemy calls for a new connection to the file `database`."""

    def open_file() -> sqlite3.Connection:
        made = sqlite3.connect(
            database, isolation_level=None, timeout=_BLOCK_AT_MOST_S, check_same_thread=False, cached_statements=256
        )
        made.create_function("lower", 1, _lower, deterministic=True)
        return made

    return InlineConnection(open_file, iter_chunk_size=64)


def prepare(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    """Set what SQLite forgets with every connection; FULL keeps a committed transaction through a power cut."""
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def begin(connection: Connection) -> None:
    """Take the write lock at once: a deferred transaction that turns to writing later fails with "locked".

    While another process holds it, wait asleep for at most 5 s, then fail as busy.
    """
    if connection.get_execution_options().get(READ_ONLY):
        connection.exec_driver_sql("BEGIN")
        return
    give_up_at = monotonic() + _BUSY_TIMEOUT_S
    raw: Any = connection.connection.dbapi_connection
    driver: sqlite3.Connection = raw.driver_connection._conn  # noqa: SLF001
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY_CODE != sqlite3.SQLITE_BUSY or monotonic() > give_up_at:
                raise OperationalError("BEGIN IMMEDIATE", None, error) from error
        else:
            return
        await_only(asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.5)))  # noqa: S311  (jitter is no secret)
