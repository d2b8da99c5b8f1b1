"""Alembic in process: `migrate` brings a service's schema to its head, safely when several replicas start at once."""

import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa
import structlog
from alembic import command, context, op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from undersong.shared.database.common import RowNumber
from undersong.shared.database.faults import passing_fault
from undersong.shared.database.types import JsonDocument, UtcDateTime

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_SQLITE_WAIT_S = 60.0
_PAUSE_S: Final = 1.0
_PERMANENT: Final = ("does not exist", "authentication failed")
"""What a server says to whom it lets in never; the driver tells it apart from one that is away by the text alone."""
_BAD_CONFIGURATION: Final = 2


def migrate(url: str, service: str) -> str:
    """Run all migrations of `services/<service>/migrations` that `url` has not had; give the head revision.

    Waits for a database that is away or locked, and says so. Who comes second waits for the first, then finds nothing
    to do. A schema that is newer than this code ends the process with one line and status 2: nothing here may write
    to it.
    """
    config = _config(service)
    while True:
        try:
            with _locked_connection(url, service) as connection:
                _upgrade(connection, config, service)
            return head_revision(service)
        except sa.exc.DBAPIError as error:
            fault, reason = passing_fault(error), str(error.orig).strip().partition("\n")[0]
            if fault is None or any(words in reason for words in _PERMANENT):
                raise
            log.warning("migration.waits", service=service, fault=fault, reason=reason, pause_s=_PAUSE_S)
        time.sleep(_PAUSE_S)


def _upgrade(connection: sa.Connection, config: Config, service: str) -> None:
    present = MigrationContext.configure(connection).get_current_revision()
    if compare_revision(present, service) == "newer":
        sys.stderr.write(
            f"the database of {service} has schema {present}, newer than this release knows "
            f"({head_revision(service)}): install the newer release, or restore the backup from before it\n"
        )
        raise SystemExit(_BAD_CONFIGURATION)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def head_revision(service: str) -> str:
    """Return the newest revision that this code knows of."""
    head = ScriptDirectory.from_config(_config(service)).get_current_head()
    if head is None:
        raise LookupError(f"{service} has no migrations")
    return head


def compare_revision(present: str | None, service: str) -> Literal["none", "older", "head", "newer"]:
    """Compare a schema's revision with this code's; a revision unknown to it was made by a newer release."""
    scripts = ScriptDirectory.from_config(_config(service))
    if present is None:
        return "none"
    if present == scripts.get_current_head():
        return "head"
    return "older" if present in {script.revision for script in scripts.walk_revisions()} else "newer"


def run_env(metadata: sa.MetaData) -> None:
    """Do all that a service's `migrations/env.py` does: run on the connection that `migrate` holds."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


def drift(url: str, service: str, metadata: sa.MetaData) -> list[Any]:
    """Differences between the migrated schema at `url` and the tables in code; empty when they agree."""
    with _locked_connection(url, service) as connection:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))


def create_common_tables() -> None:
    """Create the common tables as of their first version. Never change this: later changes are new functions."""
    op.create_table(
        "outbox",
        sa.Column("id", RowNumber, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("topic", sa.String(64), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("trace", sa.String(128)),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("sent_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("event_id", name="uq_outbox_event_id"),
        sqlite_autoincrement=True,
    )
    unsent = sa.text("sent_at IS NULL")
    op.create_index("ix_outbox_unsent", "outbox", ["id"], sqlite_where=unsent, postgresql_where=unsent)
    op.create_table(
        "idempotency",
        sa.Column("key", sa.String(128)),
        sa.Column("principal", sa.String(160)),
        sa.Column("route", sa.String(200)),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("status", sa.SmallInteger()),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("headers", JsonDocument()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("key", "principal", "route", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])
    op.create_table(
        "nonces",
        sa.Column("principal", sa.String(160)),
        sa.Column("nonce", sa.String(128)),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("principal", "nonce", name="pk_nonces"),
    )
    op.create_index("ix_nonces_expires_at", "nonces", ["expires_at"])


def _config(service: str) -> Config:
    spec = find_spec(f"undersong.services.{service}")
    if spec is None or spec.origin is None:
        raise LookupError(f"there is no service named {service}")
    config = Config()
    config.set_main_option("script_location", str(Path(spec.origin).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _locked_connection(url: str, service: str) -> Iterator[sa.Connection]:
    """Lend a connection in a transaction that holds the service's migration lock until its end."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        parsed = parsed.set(drivername="sqlite")
        engine = sa.create_engine(parsed, connect_args={"isolation_level": None, "timeout": _SQLITE_WAIT_S})
        sa.event.listen(engine, "connect", lambda dbapi, _: dbapi.execute("PRAGMA journal_mode=WAL"))
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        lock = None
    else:
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg").difference_update_query(["prepare_threshold"]),
            connect_args={"target_session_attrs": "read-write", "prepare_threshold": None},
        )
        lock = sa.select(sa.func.pg_advisory_xact_lock(zlib.crc32(f"undersong/{service}".encode())))
    try:
        with engine.begin() as connection:
            if lock is not None:
                connection.execute(lock)
                connection.execute(sa.text("SET LOCAL lock_timeout = '4s'"))  # rather fail than queue all behind us
            yield connection
    finally:
        engine.dispose()
