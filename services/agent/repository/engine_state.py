"""What an engine must still know after `kill -9`: its secrets, its exact messages, and what it has opened.

A message leaves after the transaction that stored it together with the state it belongs to. Secrets and messages are
erased when the round is over for this site; that it is over, and which round of a job was opened, is kept permanently.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from undersong.services.agent.domain.rules import Earlier, TaskFailure
from undersong.services.agent.repository.store import Store
from undersong.shared.ids import Digest, RoundId, digest_of
from undersong.shared.wire.manifest import RoundManifest

DONE = "done"


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One round that was begun here; `ended` says how: `done`, or the code of what ended it."""

    engine: str
    manifest_digest: Digest
    ended: str | None
    expires_at: float


class EngineState:
    """The durable side of engines with several steps."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, round_id: RoundId) -> EngineRow | None:
        """Return the round, if this site has begun it."""
        with self._store.reading() as db:
            row = db.execute(
                "SELECT engine, manifest_digest, ended, expires_at FROM engine_rounds WHERE round_id = ?", (round_id,)
            ).fetchone()
        return EngineRow(str(row[0]), Digest(row[1]), row[2], float(row[3])) if row is not None else None

    def begin(
        self, manifest: RoundManifest, digest: Digest, client_round: bytes, state: bytes, *, expires_at: float
    ) -> None:
        """Record a round's beginning; sqlite3.IntegrityError if it has begun."""
        with self._store.writing() as db:
            db.execute(
                "INSERT INTO engine_rounds (round_id, manifest_digest, engine, created_at, expires_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (manifest.round_id, digest, manifest.engine, time.time(), expires_at),
            )
            db.execute("INSERT INTO engine_secrets VALUES (?, ?, ?)", (manifest.round_id, client_round, state))

    def secrets(self, round_id: RoundId) -> tuple[bytes, bytes]:
        """(client_round, state); TaskFailure `round-over` once they are erased."""
        with self._store.reading() as db:
            row = db.execute("SELECT seat, state FROM engine_secrets WHERE round_id = ?", (round_id,)).fetchone()
        if row is None:
            raise TaskFailure("round-over", "this round's secrets are erased")
        return bytes(row[0]), bytes(row[1])

    def message(self, round_id: RoundId, step: str) -> bytes | None:
        """Return what was said in a step, byte for byte."""
        with self._store.reading() as db:
            row = db.execute(
                "SELECT message FROM engine_messages WHERE round_id = ? AND step = ?", (round_id, step)
            ).fetchone()
        return bytes(row[0]) if row is not None else None

    def digests(self, round_id: RoundId) -> dict[str, Digest]:
        """Return the digest of each message of the round that is stored, by step."""
        with self._store.reading() as db:
            rows = db.execute("SELECT step, message FROM engine_messages WHERE round_id = ?", (round_id,)).fetchall()
        return {str(step): digest_of(bytes(message)) for step, message in rows}

    def record_message(self, manifest: RoundManifest, step: str, state: bytes, message: bytes, *, opens: bool) -> None:
        """Store a step's message with the state after it, before it leaves.

        `opens`: this step opens the sum, which a site does at most once per (job, kind, number), whatever the attempt;
        raises TaskFailure `round-answered` the second time.
        """
        round_id, now = manifest.round_id, time.time()
        with self._store.writing() as db:
            changed = db.execute("UPDATE engine_secrets SET state = ? WHERE round_id = ?", (state, round_id))
            if changed.rowcount != 1:
                raise TaskFailure("round-over", "this round's secrets are erased")
            if opens:
                place = (manifest.job_id, manifest.kind.value, manifest.number)
                added = db.execute(
                    "INSERT INTO openings VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (*place, round_id, digest_of(message), now),
                )
                if added.rowcount != 1:
                    raise TaskFailure("round-answered", "this round of the job was opened before")
            db.execute("INSERT INTO engine_messages VALUES (?, ?, ?)", (round_id, step, message))

    def opened(self, manifest: RoundManifest) -> RoundId | None:
        """Return the round in which this (job, kind, number) was opened."""
        with self._store.reading() as db:
            row = db.execute(
                "SELECT round_id FROM openings WHERE job_id = ? AND kind = ? AND number = ?",
                (manifest.job_id, manifest.kind.value, manifest.number),
            ).fetchone()
        return RoundId(str(row[0])) if row is not None else None

    def end(self, round_id: RoundId, how: str) -> bool:
        """Erase the round's secrets and messages and return whether the round was open. Failures settle its body."""
        with self._store.writing() as db:
            changed = db.execute(
                "UPDATE engine_rounds SET ended = ? WHERE round_id = ? AND ended IS NULL", (how, round_id)
            )
            db.execute("DELETE FROM engine_secrets WHERE round_id = ?", (round_id,))
            db.execute("DELETE FROM engine_messages WHERE round_id = ?", (round_id,))
            if how != DONE and changed.rowcount == 1:
                db.execute(
                    "UPDATE contributions SET state = ?, updated_at = ? WHERE round_id = ? AND state = 'pending'",
                    (Earlier.LATE.value, time.time(), round_id),
                )
        self._store.scrub()
        return bool(changed.rowcount == 1)

    def unended(self) -> list[RoundId]:
        """Open rounds."""
        with self._store.reading() as db:
            rows = db.execute("SELECT round_id FROM engine_rounds WHERE ended IS NULL").fetchall()
        return [RoundId(str(row[0])) for row in rows]

    def expired(self) -> list[RoundId]:
        """Open rounds that must be over by any clock."""
        with self._store.reading() as db:
            rows = db.execute(
                "SELECT round_id FROM engine_rounds WHERE ended IS NULL AND expires_at < ?", (time.time(),)
            ).fetchall()
        return [RoundId(str(row[0])) for row in rows]
