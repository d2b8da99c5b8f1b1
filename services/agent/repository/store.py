"""The agent's database file: stdlib sqlite3, WAL, synchronous=FULL, readable by its owner only.

Deleted rows are overwritten (secure_delete), and `scrub` empties the write-ahead log after secrets were deleted.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from undersong.services.agent.settings import ConfigError
from undersong.shared.files import open_regular

SCHEMA_VERSION = 6
_FIRST = """
CREATE TABLE contributions (
    round_id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    manifest_digest TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    body_size INTEGER NOT NULL,
    lease BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'answered', 'late', 'lost')),
    receipt BLOB,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) STRICT;
CREATE INDEX contributions_place ON contributions (job_id, kind, number, attempt);
CREATE INDEX contributions_pending ON contributions (state) WHERE state = 'pending';
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
"""
_SECOND = """
ALTER TABLE contributions ADD COLUMN engine TEXT NOT NULL DEFAULT 'sealed';
CREATE TABLE engine_rounds (
    round_id TEXT PRIMARY KEY,
    manifest_digest TEXT NOT NULL,
    engine TEXT NOT NULL,
    ended TEXT,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
CREATE INDEX engine_rounds_open ON engine_rounds (expires_at) WHERE ended IS NULL;
CREATE TABLE engine_secrets (round_id TEXT PRIMARY KEY, seat BLOB NOT NULL, state BLOB NOT NULL) STRICT;
CREATE TABLE engine_messages (
    round_id TEXT NOT NULL,
    step TEXT NOT NULL,
    message BLOB NOT NULL,
    PRIMARY KEY (round_id, step)
) STRICT;
CREATE TABLE openings (
    job_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    number INTEGER NOT NULL,
    round_id TEXT NOT NULL,
    message_digest TEXT NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (job_id, kind, number)
) STRICT;
CREATE TABLE receipts (
    round_id TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    engine TEXT NOT NULL,
    manifest_digest TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'verified', 'mismatch', 'absent')),
    reason TEXT,
    document BLOB,
    tries INTEGER NOT NULL DEFAULT 0,
    due_at REAL NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) STRICT;
CREATE INDEX receipts_due ON receipts (due_at) WHERE state = 'waiting';
"""
_THIRD = """
CREATE TABLE samples (
    job_id TEXT PRIMARY KEY,
    weight INTEGER NOT NULL,
    context BLOB NOT NULL,
    blinding BLOB NOT NULL,
    message BLOB NOT NULL,
    created_at REAL NOT NULL
) STRICT;
"""
_FOURTH = """
CREATE TABLE heads_met (
    size INTEGER NOT NULL,
    root TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (size, root)
) STRICT;
CREATE TABLE alarms (
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    evidence TEXT NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (kind, detail)
) STRICT;
"""
_FIFTH = """
CREATE TABLE charges (
    seq INTEGER PRIMARY KEY,
    prev_hash TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('held', 'final', 'void', 'adopted')),
    charge INTEGER NOT NULL,
    federation_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    round_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    engine TEXT NOT NULL,
    dataset TEXT NOT NULL,
    unit TEXT NOT NULL,
    neighbours TEXT NOT NULL,
    event TEXT NOT NULL,
    delta REAL NOT NULL,
    manifest_digest TEXT NOT NULL,
    due_ms INTEGER NOT NULL,
    release_digest TEXT,
    reason TEXT NOT NULL,
    epsilon_after REAL,
    hash TEXT NOT NULL
) STRICT;
CREATE TRIGGER charges_stay BEFORE UPDATE ON charges BEGIN SELECT RAISE(ABORT, 'lines of the ledger stay'); END;
CREATE TRIGGER charges_last BEFORE DELETE ON charges BEGIN SELECT RAISE(ABORT, 'lines of the ledger stay'); END;
"""
_SIXTH = """
CREATE TABLE consent_requests (
    digest TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    document TEXT NOT NULL,
    asked_at REAL NOT NULL,
    automatic INTEGER NOT NULL
) STRICT;
CREATE INDEX consent_requests_asked ON consent_requests (asked_at);
CREATE TABLE consent_decisions (
    request TEXT NOT NULL,
    number INTEGER NOT NULL,
    key TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (request, number, key)
) STRICT;
CREATE TABLE consent_runs (
    request TEXT NOT NULL,
    kind TEXT NOT NULL,
    number INTEGER NOT NULL,
    run INTEGER NOT NULL,
    PRIMARY KEY (request, kind, number)
) STRICT;
"""
_MIGRATIONS = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH)


class Store:
    """One connection, one writer at a time; safe to use from several threads."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = data_dir / "agent.sqlite"
        try:
            os.close(open_regular(path, os.O_RDWR | os.O_CREAT))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened: {error.strerror}") from error
        path.chmod(0o600)  # the log and the shared memory beside it take over this mode
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            for setting in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "secure_delete = ON"):
                self._db.execute(f"PRAGMA {setting}")
            self._migrate(data_dir)
        except sqlite3.DatabaseError as error:
            self._db.close()
            if type(error) is sqlite3.DatabaseError:  # its subclasses say what may pass, as a full disk does
                raise ConfigError(f"{path} cannot be used: {error}; put a backup of this folder back") from error
            raise

    def _migrate(self, data_dir: Path) -> None:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise RuntimeError(f"{data_dir}: written by a newer agent (state version {version})")
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection, alone."""
        with self._lock:
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection in one transaction, durable when the block ends without an exception."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite has ended it by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def scrub(self) -> None:
        """Leave no copy of deleted rows in the write-ahead log."""
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
