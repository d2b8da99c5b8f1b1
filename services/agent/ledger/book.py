"""The ledger in the agent's database: a round is charged here, durably, before it trains.

A charge is one transaction, its mark outside the database (`mark`) comes next, and only then may the round go on. Safe
to call from several threads; every method may block on the disk, and the first round with noise loads the accountant.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from undersong.services.agent.domain.budgets import PrivacyRule
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.ledger import commitments, rules
from undersong.services.agent.ledger.entries import FIELDS, Chain, Charge, Head, Line, State, line_of
from undersong.services.agent.ledger.mark import LedgerMark, MarkUnreadable, behind
from undersong.services.agent.repository.highwater import UNWRITTEN, Place, SentMessages
from undersong.services.agent.repository.store import Store
from undersong.shared.clock import utc_now
from undersong.shared.faults import point
from undersong.shared.ids import Digest, JobId, RoundId
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.privacy import PrivacyEvent, PrivacyUnit

if TYPE_CHECKING:
    from undersong.shared.transparency.ledger_heads import LedgerHead

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

COLUMNS: Final = ", ".join(FIELDS)
_PLACES: Final = ", ".join("?" for _ in range(len(FIELDS) + 1))


class Ledger:
    """The lines of `charges`, and what follows from them."""

    def __init__(self, store: Store, mark: LedgerMark, sent: SentMessages | None = None) -> None:
        """`sent`: what left this site, by which a charge may be void; without it no charge is settled."""
        self.store, self.mark, self._sent = store, mark, sent
        self._lock = threading.Lock()
        self._chain: Chain | None = None
        self._version = -1
        self._told: str | None = None
        self._active: Digest | None = None  # the manifest of the task that this process is at

    def look(self) -> tuple[Chain, str | None]:
        """Return the chain, and why it cannot be relied on; None where it can. Logs a new fault once."""
        with self._lock:
            return self._looked()

    def now(self) -> int:
        """Return the latest time that was ever seen here, in Unix milliseconds."""
        chain, _ = self.look()
        return latest(chain, known(self.mark))

    def lines(self) -> list[tuple[Line, str]]:
        """Return the stored lines that can be read, each with its stored hash, whether they hold or not."""
        with self.store.reading() as db:
            rows = rows_after(db)
        return [(line_of(row[:-1]), str(row[-1])) for row in rows]

    def begin(self, rule: PrivacyRule) -> None:
        """Bring mark and charges up to date after a start, before the first task."""
        with self._lock:
            chain, fault = self._looked()
            self._note(chain, fault)
        self.settle(rule)

    def unknown(self, rounds: Sequence[str]) -> list[str]:
        """Return those of these rounds that this site neither answered nor was charged for, in their order."""
        missing = (
            "SELECT value FROM json_each(?) WHERE value NOT IN"
            " (SELECT round_id FROM contributions UNION SELECT round_id FROM charges) ORDER BY key"
        )
        with self.store.reading() as db:
            return [str(each) for (each,) in db.execute(missing, (json.dumps(list(rounds)),))]

    def miss(self, rounds: Sequence[str]) -> None:
        """Note that the log has rounds with this site's updates that its state lost: the ledger is damaged by that."""
        with self._lock:
            with self.store.writing() as db:
                known_lost = commitments.fact(db, commitments.LOST, [])
                commitments.remember(db, commitments.LOST, sorted({*known_lost, *rounds}))
            self._looked()

    def uncommitted(self) -> tuple[int, Digest] | None:
        """Return the lines and the commitment of which the log was not told; None where it was, or there is damage."""
        with self._lock:
            chain, fault = self._looked()
            if fault is not None:
                return None
            with self.store.writing() as db:
                return commitments.due(db, chain)

    def committed(self, lines: int) -> None:
        """Remember that the log was told of the first `lines` lines."""
        with self._lock, self.store.writing() as db:
            chain = read_chain(db) if self._chain is None else self._chain
            commitments.told(db, chain, lines)

    def compare(self, heads: Sequence[LedgerHead]) -> None:
        """Compare heads from the log with the ledger: one that it does not keep is damage. Idempotent."""
        with self._lock:
            chain, _ = self._looked()
            with self.store.writing() as db:
                commitments.miss(db, chain, heads)
            self._looked()

    def secret(self) -> bytes | None:
        """Return the secret under which the ledger's heads are committed; None where none was yet."""
        with self.store.reading() as db:
            return commitments.secret_of(db)

    def charge(self, manifest: RoundManifest, digest: Digest, event: PrivacyEvent, rule: PrivacyRule) -> None:
        """Hold the cost of a round; on return it is durable. Idempotent for each manifest.

        Raises TaskFailure `ledger-damaged`, `privacy-mismatch`, `policy-privacy` or `budget-exceeded`, with nothing
        held, and `mark-unwritten` where the mark cannot follow. A damaged ledger refuses rounds with noise, and takes
        the lines of others: it stays damaged.
        """
        with self._lock:
            chain, fault = self._looked()
            self._active = digest
            if fault is not None and manifest.privacy is not None:
                raise TaskFailure(rules.LEDGER_DAMAGED, _damaged(fault))
            if fault is not None:
                self._add_anyway(_held(manifest, digest, event, rule, chain, self._now(chain)))
                return
            if chain.open(digest) is None:
                now_ms = self._now(chain)
                _refuse(manifest, event, rule, chain, now_ms)
                self._keep_clip_rule(manifest)
                self._append(chain, _held(manifest, digest, event, rule, chain, now_ms))
                point("agent.charge.held")
            self._note(chain, fault)
            point("agent.charge.noted")

    def check(self, manifest: RoundManifest, event: PrivacyEvent, rule: PrivacyRule) -> None:
        """Raise TaskFailure as `charge` does, with nothing held: for what is trained now and charged as it is given."""
        with self._lock:
            chain, fault = self._looked()
            if fault is not None and manifest.privacy is not None:
                raise TaskFailure(rules.LEDGER_DAMAGED, _damaged(fault))
            if fault is None:
                _refuse(manifest, event, rule, chain, self._now(chain))

    def spend(
        self, manifest: RoundManifest, digest: Digest, event: PrivacyEvent, rule: PrivacyRule, reason: str
    ) -> None:
        """Charge what the owner releases without a platform: final at once, because no record will tell of it.

        On return it is durable. Raises TaskFailure as `charge` does; one that is held and not final yet, as after a
        crash between the two, has released nothing and becomes void.
        """
        self.charge(manifest, digest, event, rule)
        with self._lock:
            chain, fault = self._looked()
            charge = chain.open(digest)
            if charge is None or fault is not None:
                raise TaskFailure(rules.LEDGER_DAMAGED, _damaged(fault or "its newest line is gone"))
            if charge.state is State.HELD:
                self._append(chain, self._settled(chain, charge, (State.FINAL, reason), None, rule))
                point("agent.charge.settled")
            self._note(chain, None)

    def rest(self) -> None:
        """Note that the task charged last is over in this process: bytes of it are durable by now, or never will be."""
        with self._lock:
            self._active = None

    def settle(self, rule: PrivacyRule, gave_up: RoundId | None = None) -> int:
        """Write what became of held charges, and return of how many. Idempotent; a damaged ledger settles none.

        `gave_up`: a round that this site has left.
        """
        with self._lock:
            chain, fault = self._looked()
            held = chain.held()
            if not held or fault is not None or self._sent is None:
                return 0
            count = 0
            for charge in held:
                heard, release = self._heard(charge, self._sent)
                left = charge.held.round_id == gave_up
                if heard is rules.Heard.NOTHING and charge.held.manifest_digest == self._active and not left:
                    continue  # it may be ready at any moment, whatever a clock says
                become = rules.becomes(charge, heard, gave_up=left, now_ms=self._now(chain))
                if become is not None:
                    self._append(chain, self._settled(chain, charge, become, release, rule))
                    point("agent.charge.settled")
                    count += 1
            if count:
                self._note(chain, None)
            return count

    def try_settle(self, rule: PrivacyRule, gave_up: RoundId | None = None) -> None:
        """Settle; where the disk does not let it, log that: it is done the next time."""
        try:
            self.settle(rule, gave_up)
        except (sqlite3.Error, TaskFailure) as error:
            log.warning("ledger.unwritten", reason=str(error))

    def _looked(self) -> tuple[Chain, str | None]:
        """Read the chain again where another connection has changed the database, or a fault was found before."""
        with self.store.reading() as db:
            version = int(db.execute("PRAGMA data_version").fetchone()[0])
            if self._chain is None or version != self._version or self._chain.fault is not None:
                self._chain, self._version = read_chain(db), version
            chain, elsewhere = self._chain, commitments.elsewhere(db)
        fault = _fault(chain, self.mark, elsewhere)
        if fault is not None and fault != self._told:
            log.error("ledger.damaged", reason=fault, remedy="undersong ledger verify, then undersong ledger adopt")
        self._told = fault
        return chain, fault

    def _now(self, chain: Chain) -> int:
        """Return the latest time that was ever seen here, in Unix milliseconds: a clock that goes back opens no new
        period.
        """
        return latest(chain, known(self.mark))

    def _keep_clip_rule(self, manifest: RoundManifest) -> None:
        """Remember by which rule a job's clip norm moves; raises TaskFailure `privacy-mismatch` for another one."""
        rule = None if manifest.privacy is None else manifest.privacy.adaptive_clip
        if rule is None:
            return
        name = f"clip_rule/{manifest.job_id}"
        with self.store.writing() as db:
            before = commitments.fact(db, name, None)
            if (refusal := rules.other_clip_rule(before, rule)) is not None:
                raise TaskFailure(refusal.code, refusal.detail)
            if before is None:
                commitments.remember(db, name, rule.model_dump_json())

    def _append(self, chain: Chain, line: Line) -> None:
        try:
            with self.store.writing() as db:
                insert(db, line)
        except sqlite3.Error:
            self._chain = None  # whether the line is there is for the database to say
            raise
        chain.add(line)

    def _add_anyway(self, line: Line) -> None:
        """Add a charge after the last line of a damaged ledger, where its manifest has none."""
        with self.store.writing() as db:
            there = "SELECT 1 FROM charges WHERE manifest_digest = ? AND state = 'held'"
            if db.execute(there, (line.manifest_digest,)).fetchone() is None:
                last = db.execute("SELECT seq, hash FROM charges ORDER BY seq DESC LIMIT 1").fetchone()
                seq, digest = (int(last[0]), str(last[1])) if last is not None else (0, Head().hash)
                insert(db, replace(line, seq=seq + 1, charge=seq + 1, prev_hash=digest))
        self._chain = None

    def _note(self, chain: Chain, fault: str | None) -> None:
        """Write how far the ledger has come outside the database; a damaged one leaves the mark as it was."""
        if fault is not None or chain.head == Head() or self.mark.read() == chain.head:
            return
        try:
            self.mark.write(chain.head)
        except OSError as error:
            raise TaskFailure(UNWRITTEN, f"the ledger's mark cannot be written: {error.strerror}") from error

    def _heard(self, charge: Charge, sent: SentMessages) -> tuple[rules.Heard, str | None]:
        """Return what is known of a charge's round, and the digest of what it released."""
        held = charge.held
        with self.store.reading() as db:
            receipt = db.execute(
                "SELECT document FROM receipts WHERE round_id = ? AND manifest_digest = ? AND state = 'verified'",
                (held.round_id, held.manifest_digest),
            ).fetchone()
            kept = db.execute("SELECT 1 FROM contributions WHERE round_id = ?", (held.round_id,)).fetchone()
        if receipt is not None:
            return rules.Heard.OPENED, _release(receipt[0])
        if kept is not None:
            return rules.Heard.READY, None
        place = Place(JobId(held.job_id), held.number, held.attempt, RoundId(held.round_id))
        return (rules.Heard.FORGOTTEN if sent.uploaded(place) else rules.Heard.NOTHING), None

    def _settled(
        self, chain: Chain, charge: Charge, become: tuple[State, str], release: str | None, rule: PrivacyRule
    ) -> Line:
        (state, reason), held, now_ms = become, charge.held, self._now(chain)
        unit = PrivacyUnit(held.unit)
        budget = rule.budget(held.dataset, unit)
        delta = budget.delta if budget is not None else held.delta
        line = replace(
            held, seq=chain.head.seq + 1, prev_hash=chain.head.hash, at_ms=now_ms, state=state, charge=held.seq,
            release_digest=release, reason=reason, delta=delta,
        )  # fmt: skip
        charges = ChainMap({held.seq: replace(charge, state=state)}, chain.charges)
        return replace(line, epsilon_after=rules.epsilon_after(charges, line, budget))


def rows_after(db: sqlite3.Connection, seq: int = 0) -> list[tuple[Any, ...]]:
    """Return the stored lines after line `seq`, the values of `FIELDS` and the hash; bytes that are no text as U+FFFD.

    So an edit that leaves no UTF-8 shows as a line whose hash is another's.
    """
    before, db.text_factory = db.text_factory, lambda data: data.decode(errors="replace")
    try:
        there = f"SELECT {COLUMNS}, hash FROM charges WHERE seq > ? ORDER BY seq"  # noqa: S608
        return db.execute(there, (seq,)).fetchall()
    finally:
        db.text_factory = before


def read_chain(db: sqlite3.Connection) -> Chain:
    """Return the chain of a state's database."""
    return Chain().read((row[:-1], row[-1]) for row in rows_after(db))


def fault_in(db: sqlite3.Connection, mark: LedgerMark) -> str | None:
    """Return why the ledger of a database that is only read cannot be relied on; None where it can."""
    return _fault(read_chain(db), mark, commitments.elsewhere(db))


def _fault(chain: Chain, mark: LedgerMark, elsewhere: str | None) -> str | None:
    try:
        return chain.fault or behind(chain, mark.read()) or elsewhere
    except MarkUnreadable as error:
        return str(error)


def latest(chain: Chain, mark: Head | None) -> int:
    """Return the latest of the clock and all times that were seen, in Unix milliseconds."""
    return max(int(utc_now().timestamp() * 1000), chain.head.at_ms, mark.at_ms if mark is not None else 0)


def known(mark: LedgerMark) -> Head | None:
    """Return what the mark says, None where it says nothing."""
    try:
        return mark.read()
    except MarkUnreadable:
        return None


def insert(db: sqlite3.Connection, line: Line) -> None:
    """Store a line with its hash, within the caller's transaction."""
    values = [*line.document().values(), line.hash()]
    db.execute(f"INSERT INTO charges ({COLUMNS}, hash) VALUES ({_PLACES})", values)  # noqa: S608


def _refuse(manifest: RoundManifest, event: PrivacyEvent, rule: PrivacyRule, chain: Chain, now_ms: int) -> None:
    refusal = rules.mismatch(manifest, event, chain) or rules.participation(manifest, rule, chain)
    if refusal is not None:
        raise TaskFailure(refusal.code, refusal.detail)
    over = rules.overdraw(manifest, event, rule, chain, now_ms)
    if over is not None:
        raise TaskFailure(rules.BUDGET_EXCEEDED, over.sentence)


def _held(
    manifest: RoundManifest, digest: Digest, event: PrivacyEvent, rule: PrivacyRule, chain: Chain, now_ms: int
) -> Line:
    unit, dataset = rules.unit_of(manifest), manifest.data.dataset
    budget = rule.budget(dataset, unit)
    seq = chain.head.seq + 1
    line = Line(
        seq=seq,
        prev_hash=chain.head.hash,
        at_ms=now_ms,
        state=State.HELD,
        charge=seq,
        federation_id=manifest.federation_id,
        job_id=manifest.job_id,
        round_id=manifest.round_id,
        kind=str(manifest.kind),
        number=manifest.number,
        attempt=manifest.attempt,
        engine=manifest.engine,
        dataset=dataset,
        unit=str(unit),
        event=event.model_dump_json(),
        delta=rules.delta_of(manifest, budget),
        manifest_digest=digest,
        due_ms=now_ms + int(manifest.deadline_s * 1000) + rules.FINAL_AFTER_MS,
    )
    charges = ChainMap({seq: Charge(line, State.HELD)}, chain.charges)
    return replace(line, epsilon_after=rules.epsilon_after(charges, line, budget))


def _release(document: bytes | None) -> str | None:
    """Return the digest of what a logged record says was released: a model's content, or opened values."""
    if document is None:
        return None
    result: Mapping[str, Any] = json.loads(zlib.decompress(document))["record"]["result"]
    return result.get("content_digest") or result.get("values_digest")


def _damaged(fault: str) -> str:
    return (
        f"this site's ledger cannot be relied on ({fault}), so no round with noise is charged: its owner runs "
        "`undersong ledger verify`, and `undersong ledger adopt` once it is explained"
    )
