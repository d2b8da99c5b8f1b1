"""Receipts: proof, kept at this site, that its update is in a round's sum as it was submitted.

After a round the record that the keys service logged is fetched, checked here, and stored whole. It happens beside the
work and never holds it up; a record that is not there yet is asked for again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import structlog
from pydantic import ValidationError

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.peers.keys import Signatures
from undersong.services.agent.peers.link import Away, Call, Link, RequestRefused
from undersong.services.agent.repository.state import AgentState
from undersong.shared.errors import Refusal
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.wire.manifest import LogHead

if TYPE_CHECKING:
    from undersong.shared.transparency.documents import LoggedRecord, LoggedRecords

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

HEAD: Final = "log_head"  # the fact that holds the head of the last receipts
RECORD_BYTES: Final = 64 * 2**20
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 900.0
GIVE_UP_S: Final = 7 * 86_400.0  # a round without a record by then was not published
IDLE_S: Final = 60.0
GATHER_S: Final = 8.0
"""Between two requests: quick rounds come in between, and are asked for in one."""


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

    def __init__(self, state: AgentState) -> None:
        self._store = state.store

    def due(self, limit: int = 16) -> list[Expected]:
        """Return what to ask for now, the longest due first."""
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
        """Return the newest receipts, for people."""
        names = ("round_id", "job_id", "kind", "engine", "body_digest", "state", "reason", "updated_at")
        with self._store.reading() as db:
            rows = db.execute(
                f"SELECT {', '.join(names)} FROM receipts ORDER BY created_at DESC LIMIT ?",  # noqa: S608
                (limit,),
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def document(self, round_id: RoundId) -> bytes | None:
        """Return the logged record as it was fetched, JSON."""
        with self._store.reading() as db:
            row = db.execute("SELECT document FROM receipts WHERE round_id = ?", (round_id,)).fetchone()
        return zlib.decompress(row[0]) if row is not None and row[0] is not None else None

    def counts(self) -> dict[str, int]:
        """Return how many receipts stand in which state."""
        with self._store.reading() as db:
            rows = db.execute("SELECT state, count(*) FROM receipts GROUP BY state").fetchall()
        return {str(state): int(count) for state, count in rows}


class Receipts:
    """Fetches and checks what the book waits for."""

    def __init__(
        self,
        state: AgentState,
        link: Link,
        signatures: Signatures,
        site_id: SiteId,
        met: Callable[[LogHead | None], None] = lambda _: None,
        verified: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Remember `verified`, which is called after receipts were verified."""
        self._verified = verified
        self._state, self._link, self._signatures, self._site_id, self._met = state, link, signatures, site_id, met
        self.book = ReceiptBook(state)
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled. Rounds that follow each other soon are asked for together."""
        while True:
            self.wake.clear()
            try:
                due = self.book.due()
                if due:
                    await self._fetch(due)
                    await asyncio.sleep(GATHER_S)
                pause_s = self.book.next_due_s()
            except sqlite3.Error as error:
                log.warning("receipts.unwritten", reason=str(error))
                pause_s = IDLE_S
            try:
                async with asyncio.timeout(pause_s):
                    await self.wake.wait()
            except TimeoutError:
                pass

    async def _fetch(self, due: Sequence[Expected]) -> None:
        """Ask for the records of these rounds, and settle or put off each."""
        try:
            found = await self._records(due)
        except (Away, RequestRefused, ValidationError) as error:
            for expected in due:
                await asyncio.to_thread(self.book.put_off, expected, str(error))
            return
        refused = await self._refused(lambda: self._check_log(found)) if found.items else None
        logged = {one.record.round_id: one for one in found.items}
        for expected in due:
            if expected.round_id not in logged:
                await asyncio.to_thread(self.book.put_off, expected, "the log holds no record of this round yet")
                continue
            document = logged[expected.round_id]
            reason = refused or await self._refused(partial(self._check, expected, document))
            await self._settle(expected.round_id, reason, document)
        if self._verified is not None:
            await self._verified()

    async def _refused(self, check: Callable[[], Awaitable[None]]) -> str | None:
        """Why the check did not hold; None when it did."""
        try:
            await check()
        except (Refusal, TaskFailure) as error:
            return str(getattr(error, "detail", None) or error)
        return None

    async def _settle(self, round_id: RoundId, reason: str | None, logged: LoggedRecord) -> None:
        from undersong.shared.transparency.steps import complainers

        state = "verified" if reason is None else "mismatch"
        document = logged.model_dump_json().encode()
        await asyncio.to_thread(self.book.settle, round_id, state, reason, document)
        if reason is None:
            log.info("receipt.verified", round_id=round_id)
            if fault := logged.record.faults.get(self._site_id):
                log.error("site.at_fault", round_id=round_id, code=fault)
            elif sites := complainers(logged.record, self._site_id):
                log.warning("site.shares_disputed", round_id=round_id, sites=list(sites))
        else:
            log.error("receipt.mismatch", round_id=round_id, reason=reason)

    async def _records(self, due: Sequence[Expected]) -> LoggedRecords:
        from undersong.shared.transparency.documents import LoggedRecords

        seen = self._seen()
        asked = [("round_id", expected.round_id) for expected in due] + [("since", str(seen.size if seen else 0))]
        call = Call("GET", f"/v1/log/records?{urlencode(asked)}", answer_bytes=RECORD_BYTES)
        return LoggedRecords.model_validate_json((await self._link.once(call)).content)

    async def _check(self, expected: Expected, logged: LoggedRecord) -> None:
        """Refusal or TaskFailure for a record that is not this site's round, or does not hold."""
        from undersong.shared.transparency import records
        from undersong.shared.transparency.samples import check_own_samples

        record = logged.record
        if (record.round_id, record.manifest.manifest.digest()) != (expected.round_id, expected.manifest_digest):
            raise records.RecordInvalid("the record is of another round than this site took part in")
        coordinator = await self._signatures.key_of("coordinator", record.manifest.keyid)
        witness = self._witness(expected.round_id)
        if (named := records.named_voucher(record)) is not None:
            witness = await self._signatures.key_of(*named)
        await asyncio.to_thread(records.check_record, record, witness, coordinator)
        records.check_own_body(record, self._site_id, expected.body_digest)
        check_own_samples(record, self._site_id, self._state.committed_samples(record.manifest.manifest.job_id))
        if logged.index != logged.proof.index:
            raise records.LogInvalid("the proof is for another entry")
        records.check_inclusion(record, logged.proof, logged.head)

    async def _check_log(self, found: LoggedRecords) -> None:
        """Check that all records are under one signed head, and the log goes on from where this site last saw it."""
        from undersong.shared.transparency import records

        head = found.items[0].head
        if any(one.head != head for one in found.items):
            raise records.LogInvalid("one answer shows two heads")
        await self._signatures.check("keys", head.keyid, head.signature, head.statement())
        self._met(head)
        seen = self._seen()
        if seen is not None:
            records.check_consistency(seen, head, found.consistency)
        await asyncio.to_thread(self._state.remember, HEAD, head.model_dump_json())

    def _seen(self) -> LogHead | None:
        """Return the head that this site saw last."""
        seen = self._state.fact(HEAD)
        return None if seen is None else LogHead.model_validate_json(str(seen))

    def _witness(self, round_id: RoundId) -> bytes:
        """Return the witness's key as this site knew it in the round."""
        contribution = self._state.contribution(round_id)
        found = contribution.lease.get("witness") if contribution is not None else None
        return found if isinstance(found, bytes) else b""
