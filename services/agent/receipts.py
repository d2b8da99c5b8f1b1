"""Receipts: proof, kept at this site, that its update went into a round's sum as it was handed in.

After a round the record that keys logged is fetched, checked here, and stored whole. It happens beside the work and
never holds it up; a record that is not there yet is asked for again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from pydantic import ValidationError

from services.agent.domain import TaskFailure
from services.agent.keys import Signatures
from services.agent.link import Away, Call, Link, Problem
from services.agent.state import State
from shared.errors import Refusal
from shared.ids import Digest, RoundId, SiteId
from shared.wire.helper import HELPER, TWOSERVER

if TYPE_CHECKING:
    from shared.transparency.documents import LoggedRecord, LogHead

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

HEAD: Final = "log_head"  # the fact that holds the last head seen
RECORD_BYTES: Final = 64 * 2**20
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 900.0
GIVE_UP_S: Final = 7 * 86_400.0  # a round without a record by then was not published
IDLE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Expected:
    """A contribution whose record is waited for."""

    round_id: RoundId
    manifest_digest: Digest
    body_digest: Digest
    tries: int
    created_at: float


class ReceiptBook:
    """The receipts in the agent's database."""

    def __init__(self, state: State) -> None:
        self._store = state.store

    def due(self, limit: int = 16) -> list[Expected]:
        """What to ask for now, the longest due first."""
        with self._store.reading() as db:
            rows = db.execute(
                "SELECT round_id, manifest_digest, body_digest, tries, created_at FROM receipts"
                " WHERE state = 'waiting' AND due_at <= ? ORDER BY due_at LIMIT ?",
                (time.time(), limit),
            ).fetchall()
        return [Expected(RoundId(r[0]), Digest(r[1]), Digest(r[2]), int(r[3]), float(r[4])) for r in rows]

    def next_due_s(self) -> float:
        """Seconds until the next one is due."""
        with self._store.reading() as db:
            (due_at,) = db.execute("SELECT min(due_at) FROM receipts WHERE state = 'waiting'").fetchone()
        return IDLE_S if due_at is None else min(IDLE_S, max(0.05, float(due_at) - time.time()))

    def put_off(self, expected: Expected, reason: str) -> None:
        """Ask again later, or never."""
        now = time.time()
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(expected.tries, 20))
        state = "absent" if now > expected.created_at + GIVE_UP_S else "waiting"
        self._update(expected.round_id, "state = ?, reason = ?, due_at = ?", (state, reason, now + pause_s))

    def settle(self, round_id: RoundId, state: str, reason: str | None, document: bytes | None) -> None:
        """Record the outcome, with the whole record."""
        packed = None if document is None else zlib.compress(document)
        self._update(round_id, "state = ?, reason = ?, document = ?", (state, reason, packed))

    def _update(self, round_id: RoundId, what: str, values: tuple[object, ...]) -> None:
        with self._store.writing() as db:
            db.execute(
                f"UPDATE receipts SET {what}, tries = tries + 1, updated_at = ? WHERE round_id = ?",  # noqa: S608
                (*values, time.time(), round_id),
            )

    def listed(self, limit: int = 1000) -> list[dict[str, Any]]:
        """The newest receipts, for people."""
        names = ("round_id", "job_id", "kind", "engine", "body_digest", "state", "reason", "updated_at")
        with self._store.reading() as db:
            rows = db.execute(
                f"SELECT {', '.join(names)} FROM receipts ORDER BY created_at DESC LIMIT ?",  # noqa: S608
                (limit,),
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def document(self, round_id: RoundId) -> bytes | None:
        """The logged record as it was fetched, JSON."""
        with self._store.reading() as db:
            row = db.execute("SELECT document FROM receipts WHERE round_id = ?", (round_id,)).fetchone()
        return zlib.decompress(row[0]) if row is not None and row[0] is not None else None

    def counts(self) -> dict[str, int]:
        """How many receipts stand in which state."""
        with self._store.reading() as db:
            rows = db.execute("SELECT state, count(*) FROM receipts GROUP BY state").fetchall()
        return {str(state): int(count) for state, count in rows}


class Receipts:
    """Fetches and checks what the book waits for."""

    def __init__(self, state: State, link: Link, signatures: Signatures, site_id: SiteId) -> None:
        self._state, self._link, self._signatures, self._site_id = state, link, signatures, site_id
        self.book = ReceiptBook(state)
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            self.wake.clear()
            try:
                for expected in self.book.due():
                    await self._fetch(expected)
                pause_s = self.book.next_due_s()
            except sqlite3.Error as error:
                log.warning("receipts.unwritten", reason=str(error))
                pause_s = IDLE_S
            try:
                async with asyncio.timeout(pause_s):
                    await self.wake.wait()
            except TimeoutError:
                pass

    async def _fetch(self, expected: Expected) -> None:
        round_id, document = expected.round_id, None
        try:
            call = Call("GET", f"/v1/rounds/{round_id}/record", answer_bytes=RECORD_BYTES)
            document = (await self._link.once(call)).content
            await self._check(expected, document)
        except (Away, Problem) as error:
            await asyncio.to_thread(self.book.put_off, expected, str(error))
        except (Refusal, TaskFailure, ValidationError) as error:
            reason = str(getattr(error, "detail", None) or error)
            await asyncio.to_thread(self.book.settle, round_id, "mismatch", reason, document)
            log.error("receipt.mismatch", round_id=round_id, reason=reason)  # noqa: TRY400 (a finding, not a fault)
        else:
            await asyncio.to_thread(self.book.settle, round_id, "verified", None, document)
            log.info("receipt.verified", round_id=round_id)

    async def _check(self, expected: Expected, document: bytes) -> None:
        """Refusal, TaskFailure or ValidationError for a record that is not this site's round, or does not hold."""
        from shared.transparency import records
        from shared.transparency.samples import check_own_samples

        logged = records.LoggedRecord.model_validate_json(document)
        record = logged.record
        if (record.round_id, record.manifest.manifest.digest()) != (expected.round_id, expected.manifest_digest):
            raise records.RecordInvalid("the record is of another round than this site took part in")
        coordinator = await self._signatures.key_of("coordinator", record.manifest.keyid)
        witness = self._witness(expected.round_id)
        if record.engine == TWOSERVER:
            witness = await self._signatures.key_of(HELPER, records.helper_keyid(record))
        await asyncio.to_thread(records.check_record, record, witness, coordinator)
        records.check_own_body(record, self._site_id, expected.body_digest)
        check_own_samples(record, self._site_id, self._state.committed_samples(record.manifest.manifest.job_id))
        await self._check_log(logged)

    async def _check_log(self, logged: LoggedRecord) -> None:
        """The record stands in the log, and the log goes on from where this site last saw it."""
        from shared.transparency import records

        head = logged.head
        await self._signatures.check("keys", head.keyid, head.signature, head.statement())
        if logged.index != logged.proof.index:
            raise records.LogInvalid("the proof is for another entry")
        records.check_inclusion(logged.record, logged.proof, head)
        seen = self._state.fact(HEAD)
        if seen is not None:
            old = records.LogHead.model_validate_json(str(seen))
            records.check_consistency(old, head, await self._consistency(old, head))
        await asyncio.to_thread(self._state.remember, HEAD, head.model_dump_json())

    async def _consistency(self, old: LogHead, new: LogHead) -> Any:
        from shared.transparency.records import ConsistencyProof

        if not 0 < old.size < new.size:
            return None
        path = f"/v1/log/proofs/consistency?first={old.size}&second={new.size}"
        return ConsistencyProof.model_validate_json((await self._link.once(Call("GET", path))).content)

    def _witness(self, round_id: RoundId) -> bytes:
        """The witness's key as this site knew it in the round."""
        contribution = self._state.contribution(round_id)
        found = contribution.lease.get("witness") if contribution is not None else None
        return found if isinstance(found, bytes) else b""
