"""Which database errors a second try may cure, and which only an operator."""

import sqlite3

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

# Serialisation failure, deadlock, server going down or coming up, lock not got, no slot for another connection.
_PASSING_STATES = frozenset({"40001", "40P01", "57P01", "57P02", "57P03", "55P03", "53300"})
_SQLITE_PRIMARY_CODE = 0xFF
_SQLITE_PASSING = {sqlite3.SQLITE_BUSY: "sqlite_busy", sqlite3.SQLITE_LOCKED: "sqlite_locked"}


def passing_fault(error: BaseException) -> str | None:
    """Name the fault by SQLSTATE (or a like word) when running the transaction again may succeed, else None."""
    if isinstance(error, PoolTimeout):
        return "pool_timeout"
    if not isinstance(error, DBAPIError):
        return None
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _SQLITE_PASSING.get(getattr(cause, "sqlite_errorcode", 0) & _SQLITE_PRIMARY_CODE)
    if isinstance(cause, psycopg.Error):
        return _postgres_fault(cause, connection_lost=error.connection_invalidated)
    return "connection_lost" if error.connection_invalidated else None


def standby_fault(error: BaseException) -> str | None:
    """Name the fault of a write transaction that met a standby: a pooler's, until its address follows the primary."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return cause.sqlstate if isinstance(cause, psycopg.errors.ReadOnlySqlTransaction) else None


def disk_full(error: BaseException) -> bool:
    """Return whether the database says that nothing more can be written."""
    if not isinstance(error, DBAPIError):
        return False
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & _SQLITE_PRIMARY_CODE == sqlite3.SQLITE_FULL
    return isinstance(cause, psycopg.errors.DiskFull)


def _postgres_fault(cause: psycopg.Error, *, connection_lost: bool) -> str | None:
    state = cause.sqlstate
    if state is None:  # the server never answered: libpq's own errors carry no state
        return "connection_lost" if connection_lost or isinstance(cause, psycopg.OperationalError) else None
    if state in _PASSING_STATES or state.startswith("08"):
        return state
    return None
