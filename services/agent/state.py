"""What the agent must still know after `kill -9`: its contributions, their bytes' digests, and the highest epoch.

stdlib sqlite3, WAL, synchronous=FULL. A contribution's row is written after its body is durable and before
the first byte leaves; its key (the round) makes a second one impossible.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgpack

from services.agent.domain import Answer, Earlier
from shared.ids import Digest, RoundId, TaskId
from shared.wire.manifest import RoundManifest

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS contributions (
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
CREATE INDEX IF NOT EXISTS contributions_place ON contributions (job_id, kind, number, attempt);
CREATE INDEX IF NOT EXISTS contributions_pending ON contributions (state) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One answer to one round, whose bytes lie in the outbox until they are acknowledged."""

    round_id: RoundId
    task_id: TaskId
    manifest_digest: Digest
    body_digest: Digest
    body_size: int
    epoch: int
    state: Earlier
    lease: Mapping[str, object]
    created_at: float


_COLUMNS = "round_id, task_id, manifest_digest, body_digest, body_size, epoch, state, lease, created_at"


class State:
    """The agent's only memory. Every method is one transaction; safe to call from several threads."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.outbox = data_dir / "outbox"
        self.outbox.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(data_dir / "agent.sqlite", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA busy_timeout = 5000")
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise RuntimeError(f"{data_dir}: written by a newer agent (state version {version})")
        self._db.executescript(SCHEMA)
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def body(self, digest: Digest) -> Path:
        """Where a contribution's bytes lie."""
        return self.outbox / f"{digest}.body"

    def keep(
        self,
        manifest: RoundManifest,
        manifest_digest: Digest,
        task_id: TaskId,
        body: tuple[Digest, int],
        lease: Mapping[str, object],
    ) -> Contribution:
        """Record a contribution whose body is durable; sqlite3.IntegrityError if the round has one."""
        now = time.time()
        digest, size = body
        packed = bytes(msgpack.packb(dict(lease)))
        values = (
            manifest.round_id, task_id, manifest.job_id, manifest.kind.value, manifest.number, manifest.attempt,
            manifest.epoch, manifest_digest, digest, size, packed, Earlier.PENDING.value, now, now,
        )  # fmt: skip
        with self._lock:
            self._db.execute(
                "INSERT INTO contributions (round_id, task_id, job_id, kind, number, attempt, epoch, manifest_digest,"
                " body_digest, body_size, lease, state, created_at, updated_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        return Contribution(
            manifest.round_id, task_id, manifest_digest, digest, size, manifest.epoch, Earlier.PENDING, lease, now
        )

    def contribution(self, round_id: RoundId) -> Contribution | None:
        """This site's answer to the round, if there is one."""
        with self._lock:
            row = self._db.execute(
                f"SELECT {_COLUMNS} FROM contributions WHERE round_id = ?",  # noqa: S608 (a constant)
                (round_id,),
            ).fetchone()
        return _contribution(row) if row is not None else None

    def same_place(self, manifest: RoundManifest) -> Answer | None:
        """An answer to the same (job, kind, number, attempt) under another round id."""
        with self._lock:
            row = self._db.execute(
                "SELECT state, manifest_digest, epoch FROM contributions"
                " WHERE job_id = ? AND kind = ? AND number = ? AND attempt = ? AND round_id <> ?"
                " ORDER BY epoch LIMIT 1",
                (manifest.job_id, manifest.kind.value, manifest.number, manifest.attempt, manifest.round_id),
            ).fetchone()
        return Answer(Earlier(row[0]), Digest(row[1]), int(row[2])) if row is not None else None

    def pending(self) -> list[Contribution]:
        """Contributions that are not acknowledged yet, oldest first."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM contributions WHERE state = 'pending' ORDER BY created_at"  # noqa: S608
            ).fetchall()
        return [_contribution(row) for row in rows]

    def settle(self, round_id: RoundId, state: Earlier, receipt: Mapping[str, object] | None = None) -> None:
        """End a pending contribution; its bytes are no longer needed. The row stays for ever."""
        packed = bytes(msgpack.packb(dict(receipt))) if receipt is not None else None
        with self._lock:
            self._db.execute(
                "UPDATE contributions SET state = ?, receipt = coalesce(?, receipt), updated_at = ?"
                " WHERE round_id = ? AND state = 'pending'",
                (state.value, packed, time.time(), round_id),
            )
            row = self._db.execute("SELECT body_digest FROM contributions WHERE round_id = ?", (round_id,)).fetchone()
        if row is not None and state is not Earlier.PENDING:
            self.body(Digest(row[0])).unlink(missing_ok=True)

    def sweep_outbox(self) -> int:
        """Drop bodies that no pending row names (a crash between file and row); returns how many."""
        wanted = {self.body(found.body_digest).name for found in self.pending()}
        stray = [path for path in self.outbox.iterdir() if path.name not in wanted]
        for path in stray:
            path.unlink(missing_ok=True)
        return len(stray)

    def highest_epoch(self) -> int:
        """The highest epoch seen in a verified manifest."""
        return int(str(self.fact("epoch") or 0))

    def saw_epoch(self, epoch: int) -> None:
        """Remember a verified manifest's epoch; it never goes back."""
        if epoch > self.highest_epoch():
            self.remember("epoch", epoch)

    def fact(self, name: str) -> object | None:
        """A remembered value (msgpack types)."""
        with self._lock:
            row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return msgpack.unpackb(row[0]) if row is not None else None

    def remember(self, name: str, value: object) -> None:
        """Store a value (msgpack types)."""
        with self._lock:
            self._db.execute(
                "INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, bytes(msgpack.packb(value))),
            )

    def counts(self) -> dict[str, int]:
        """How many contributions stand in which state."""
        with self._lock:
            rows = self._db.execute("SELECT state, count(*) FROM contributions GROUP BY state").fetchall()
        return {str(state): int(count) for state, count in rows}

    def recent(self, limit: int) -> list[dict[str, object]]:
        """The newest contributions, for `status`."""
        names = ("round_id", "job_id", "kind", "number", "state", "body_size", "updated_at")
        with self._lock:
            rows = self._db.execute(
                f"SELECT {', '.join(names)} FROM contributions ORDER BY created_at DESC LIMIT ?",  # noqa: S608
                (limit,),
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]


def _contribution(row: tuple[object, ...]) -> Contribution:
    round_id, task_id, manifest_digest, body_digest, size, epoch, state, lease, created_at = row
    assert isinstance(lease, bytes)  # noqa: S101 (STRICT table)
    return Contribution(
        RoundId(str(round_id)),
        TaskId(str(task_id)),
        Digest(str(manifest_digest)),
        Digest(str(body_digest)),
        int(str(size)),
        int(str(epoch)),
        Earlier(str(state)),
        msgpack.unpackb(lease),
        float(str(created_at)),
    )


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
