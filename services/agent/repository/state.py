"""What the agent must still know after `kill -9`: its contributions, their bytes' digests, and the highest epoch.

A contribution's row is written after its body is durable and before
the first byte leaves; its key (the round) makes a second one impossible.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgpack

from undersong.services.agent.domain.rules import Earlier, EarlierAnswer, TaskFailure
from undersong.services.agent.repository.changes import TrainedChanges
from undersong.services.agent.repository.engine_state import EngineState
from undersong.services.agent.repository.highwater import RESTORED, UPLOAD, Place, Sent, SentMessages
from undersong.services.agent.repository.local_tensors import LocalTensors
from undersong.services.agent.repository.store import Store
from undersong.shared.ids import Digest, JobId, RoundId, TaskId
from undersong.shared.wire.manifest import RoundManifest

_HIGH_WATER = "high_water"  # the fact that names the file which belongs to this database
RECORD_AFTER_S = 3.0  # a round is published and logged by then; asking earlier is mostly in vain


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
    engine: str
    acknowledged: bool  # the aggregator holds the bytes
    place: Place

    @property
    def sent(self) -> Sent:
        """What of it is noted outside the database before it leaves."""
        return Sent(self.place, UPLOAD, self.body_digest)

    @property
    def signature(self) -> bytes | None:
        """This site's signature over the body, where the engine has bodies signed."""
        found = self.lease.get("signature")
        return found if isinstance(found, bytes) else None


_COLUMNS = (
    "round_id, task_id, manifest_digest, body_digest, body_size, epoch, state, lease, created_at, engine,"
    " receipt IS NOT NULL, job_id, number, attempt"
)


class AgentState:
    """The agent's only memory. Every method is one transaction; safe to call from several threads."""

    def __init__(self, data_dir: Path) -> None:
        self.store = Store(data_dir)
        self.engines = EngineState(self.store)
        self.local = LocalTensors(data_dir / "local")
        self.changes = TrainedChanges(data_dir / "changes")
        self.residuals_dir = data_dir / "residuals"
        self.outbox = data_dir / "outbox"
        self.outbox.mkdir(exist_ok=True)

    def close(self) -> None:
        """Close the database."""
        self.store.close()

    def keep_beside(self, sent: SentMessages) -> bool:
        """Tie this database to its high-water file and return whether that is another file than before.

        A new file takes over what the database knows. Where one was lost, it is unknown what was sent since this copy
        of the database was made, so every round that is open here is given up. Idempotent.
        """
        had = self.fact(_HIGH_WATER)
        if had == sent.id:
            return False
        sent.seed(self.answered())
        if had is not None:
            for contribution in self.pending():
                self.settle(contribution.round_id, Earlier.LATE)
            for round_id in self.engines.unended():
                self.engines.end(round_id, RESTORED)
        self.remember(_HIGH_WATER, sent.id)
        return had is not None

    def body(self, digest: Digest) -> Path:
        """Return where a contribution's bytes lie."""
        return self.outbox / f"{digest}.body"

    def keep(
        self,
        manifest: RoundManifest,
        manifest_digest: Digest,
        task_id: TaskId,
        body: tuple[Digest, int],
        lease: Mapping[str, object],
        *,
        engine_state: bytes | None = None,
    ) -> Contribution:
        """Record a contribution whose body is durable; sqlite3.IntegrityError if the round has one.

        `engine_state`: the engine's state after the upload, where it has further steps.
        """
        now = time.time()
        digest, size = body
        packed = bytes(msgpack.packb(dict(lease)))
        values = (
            manifest.round_id, task_id, manifest.job_id, manifest.kind.value, manifest.number, manifest.attempt,
            manifest.epoch, manifest_digest, digest, size, packed, Earlier.PENDING.value, now, now,
            manifest.engine,
        )  # fmt: skip
        with self.store.writing() as db:
            db.execute(
                "INSERT INTO contributions (round_id, task_id, job_id, kind, number, attempt, epoch, manifest_digest,"
                " body_digest, body_size, lease, state, created_at, updated_at, engine)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            if engine_state is not None:
                changed = db.execute(
                    "UPDATE engine_secrets SET state = ? WHERE round_id = ?", (engine_state, manifest.round_id)
                )
                if changed.rowcount != 1:
                    raise TaskFailure("round-over", "this round's secrets are erased")
        return Contribution(
            manifest.round_id, task_id, manifest_digest, digest, size, manifest.epoch, Earlier.PENDING, lease, now,
            manifest.engine, acknowledged=False, place=Place.of(manifest),
        )  # fmt: skip

    def contribution(self, round_id: RoundId) -> Contribution | None:
        """Return this site's answer to the round, if there is one."""
        with self.store.reading() as db:
            row = db.execute(
                f"SELECT {_COLUMNS} FROM contributions WHERE round_id = ?",  # noqa: S608 (a constant)
                (round_id,),
            ).fetchone()
        return _contribution(row) if row is not None else None

    def same_place(self, manifest: RoundManifest) -> EarlierAnswer | None:
        """Return an answer to the same (job, kind, number, attempt) under another round id."""
        with self.store.reading() as db:
            row = db.execute(
                "SELECT state, manifest_digest, epoch FROM contributions"
                " WHERE job_id = ? AND kind = ? AND number = ? AND attempt = ? AND round_id <> ?"
                " ORDER BY epoch LIMIT 1",
                (manifest.job_id, manifest.kind.value, manifest.number, manifest.attempt, manifest.round_id),
            ).fetchone()
        return EarlierAnswer(Earlier(row[0]), Digest(row[1]), int(row[2])) if row is not None else None

    def pending(self) -> list[Contribution]:
        """Contributions that are not acknowledged yet, oldest first."""
        with self.store.reading() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM contributions WHERE state = 'pending' ORDER BY created_at"  # noqa: S608
            ).fetchall()
        return [_contribution(row) for row in rows]

    def answered(self) -> list[Sent]:
        """Return the body of every round that was answered, oldest first: what a new high-water file begins with."""
        with self.store.reading() as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM contributions ORDER BY created_at").fetchall()  # noqa: S608
        return [_contribution(row).sent for row in rows]

    def acknowledge(self, round_id: RoundId, receipt: Mapping[str, object]) -> None:
        """Remember that the aggregator holds the bytes, while further steps follow."""
        with self.store.writing() as db:
            db.execute(
                "UPDATE contributions SET receipt = ?, updated_at = ? WHERE round_id = ?",
                (bytes(msgpack.packb(dict(receipt))), time.time(), round_id),
            )

    def settle(
        self,
        round_id: RoundId,
        state: Earlier,
        receipt: Mapping[str, object] | None = None,
        *,
        keep_bytes: bool = False,
    ) -> None:
        """End a pending contribution; its bytes are no longer needed. The row is kept permanently.

        `keep_bytes`: they may be asked for once more until the round is over (`drop_answered`).
        From an answered one on, the round's record is waited for (`receipts`).
        """
        packed = bytes(msgpack.packb(dict(receipt))) if receipt is not None else None
        now = time.time()
        with self.store.writing() as db:
            db.execute(
                "UPDATE contributions SET state = ?, receipt = coalesce(?, receipt), updated_at = ?"
                " WHERE round_id = ? AND state = 'pending'",
                (state.value, packed, now, round_id),
            )
            if state is Earlier.ANSWERED:
                db.execute(
                    "INSERT INTO receipts (round_id, job_id, kind, engine, manifest_digest, body_digest, state, due_at,"
                    " created_at, updated_at) SELECT round_id, job_id, kind, engine, manifest_digest, body_digest,"
                    " 'waiting', ?, ?, ? FROM contributions WHERE round_id = ? AND state = 'answered'"
                    " ON CONFLICT DO NOTHING",
                    (now + RECORD_AFTER_S, now, now, round_id),
                )
            row = db.execute("SELECT body_digest FROM contributions WHERE round_id = ?", (round_id,)).fetchone()
        if row is not None and state is not Earlier.PENDING and not keep_bytes:
            self.body(Digest(row[0])).unlink(missing_ok=True)

    def drop_answered(self) -> None:
        """Drop the bytes of answered rounds that are over: the job has a newer one, or the deadline has passed."""
        kept = {path.name.removesuffix(".body") for path in self.outbox.glob("*.body")}
        if not kept:
            return
        with self.store.reading() as db:
            rows = db.execute(
                "SELECT body_digest, lease, created_at, created_at < (SELECT max(newer.created_at) FROM contributions"
                " AS newer WHERE newer.job_id = contributions.job_id) FROM contributions WHERE state = 'answered'"
                " ORDER BY created_at DESC LIMIT 1000"
            ).fetchall()
        for digest, lease, created_at, superseded in rows:
            deadline_s = float(str(msgpack.unpackb(lease).get("deadline_s", 0.0)))
            if digest in kept and (superseded or time.time() > float(created_at) + deadline_s):
                self.body(Digest(str(digest))).unlink(missing_ok=True)

    def sweep_outbox(self) -> int:
        """Drop bodies that no pending row names (a crash between file and row); returns how many."""
        wanted = {self.body(found.body_digest).name for found in self.pending()}
        stray = [path for path in self.outbox.iterdir() if path.name not in wanted]
        for path in stray:
            path.unlink(missing_ok=True)
        return len(stray)

    def highest_epoch(self) -> int:
        """Return the highest epoch seen in a verified manifest."""
        return int(str(self.fact("epoch") or 0))

    def saw_epoch(self, epoch: int) -> None:
        """Remember a verified manifest's epoch; it never goes back."""
        if epoch > self.highest_epoch():
            self.remember("epoch", epoch)

    def meet_head(self, size: int, root: str, document: str) -> None:
        """Remember a log head that is to be compared."""
        with self.store.writing() as db:
            db.execute("INSERT INTO heads_met VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (size, root, document))

    def heads_met(self) -> list[str]:
        """Return the heads that are to be compared, as JSON, smallest first."""
        with self.store.reading() as db:
            rows = db.execute("SELECT document FROM heads_met ORDER BY size").fetchall()
        return [str(row[0]) for row in rows]

    def forget_heads(self, heads: Iterable[tuple[int, str]]) -> None:
        """Note that these (size, root) were compared."""
        with self.store.writing() as db:
            forget_heads(db, heads)

    def fact(self, name: str) -> object | None:
        """Return a remembered value (msgpack types)."""
        with self.store.reading() as db:
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return msgpack.unpackb(row[0]) if row is not None else None

    def remember(self, name: str, value: object) -> None:
        """Store a value (msgpack types)."""
        with self.store.writing() as db:
            remember(db, name, value)

    def committed_samples(self, job_id: str) -> str | None:
        """Return this site's committed sample count in the job, a point in hexadecimal (`samples`)."""
        with self.store.reading() as db:
            row = db.execute("SELECT substr(message, 1, 32) FROM samples WHERE job_id = ?", (job_id,)).fetchone()
        return bytes(row[0]).hex() if row is not None else None

    def counts(self) -> dict[str, int]:
        """Return how many contributions stand in which state."""
        with self.store.reading() as db:
            rows = db.execute("SELECT state, count(*) FROM contributions GROUP BY state").fetchall()
        return {str(state): int(count) for state, count in rows}

    def recent(self, limit: int) -> list[dict[str, object]]:
        """Return the newest contributions, for `status`."""
        names = ("round_id", "job_id", "kind", "number", "engine", "state", "body_size", "updated_at")
        with self.store.reading() as db:
            rows = db.execute(
                f"SELECT {', '.join(names)} FROM contributions ORDER BY created_at DESC LIMIT ?",  # noqa: S608
                (limit,),
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]


def remember(db: sqlite3.Connection, name: str, value: object) -> None:
    """Store a value (msgpack types) in the transaction of `db`."""
    db.execute(
        "INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, bytes(msgpack.packb(value))),
    )


def forget_heads(db: sqlite3.Connection, heads: Iterable[tuple[int, str]]) -> None:
    """Note in the transaction of `db` that these (size, root) were compared."""
    db.executemany("DELETE FROM heads_met WHERE size = ? AND root = ?", list(heads))


def _contribution(row: tuple[object, ...]) -> Contribution:
    (
        round_id, task_id, manifest_digest, body_digest, size, epoch, state, lease, created_at, engine, acknowledged,
        job_id, number, attempt,
    ) = row  # fmt: skip
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
        str(engine),
        acknowledged=bool(acknowledged),
        place=Place(JobId(str(job_id)), int(str(number)), int(str(attempt)), RoundId(str(round_id))),
    )
