"""The owner's inbox in the agent's database: requests, what owners decided on them, and the rounds that were run."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import ValidationError

from undersong.services.agent.consent.requests import ConsentRequest, approves, request_of
from undersong.services.agent.consent.rules import (
    GIVEN,
    REFUSED,
    ConsentState,
    Decision,
    Ended,
    SignedDecision,
    Standing,
    standing,
)
from undersong.services.agent.domain.rules import CONSENT_DENIED, CONSENT_WAITING, Policy, TaskFailure
from undersong.services.agent.policy.owners import OwnerMark, Reached
from undersong.services.agent.repository.store import Store
from undersong.services.agent.settings import AgentSettings, ConfigError, OwnerSettings
from undersong.shared.identity.owner import OwnerKey
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.profiles import MOST_CONSENTS, ConsentNote

ENDED: Final = "ended"
RUNS: Final = "runs"
_OVER: Final = {
    ConsentState.EXPIRED: "; what was approved has expired",
    ConsentState.USED_UP: "; all runs that were approved are used up",
}
_COLUMNS: Final = "digest, document, asked_at, automatic"
_MOST_SHOWN: Final = 1000
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class NotDecided(ValueError):
    """The decision would change nothing, or cannot be taken; the text says why, for a person."""


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """A request with what holds for it now."""

    digest: str
    request: ConsentRequest
    asked_at: float
    automatic: bool
    standing: Standing
    decisions: tuple[Decision, ...]


class Inbox:
    """Requests of one site. Every method may block on the disk, and several threads and processes may use it at once.

    Without `owners` nothing can be approved, and a policy that asks for consent is refused when it is read.
    """

    def __init__(self, store: Store, owners: OwnerSettings | None, mark: OwnerMark) -> None:
        self.store, self._owners, self._mark = store, owners, mark

    def check(self, policy: Policy, manifest: RoundManifest) -> None:
        """Note that this round is run now; TaskFailure where no approval covers it, and then the request is kept.

        Raises `consent-waiting`, `consent-denied` and `manifest-request`. The same round again changes nothing.
        """
        if not policy.consent.asked:
            return
        request = request_of(manifest)
        if request is None:
            return
        digest, automatic = request.digest(), approves(policy.consent, request)
        self._ask(digest, request, automatic=automatic)
        place = (str(manifest.kind), manifest.number)
        found = self._standing(digest, request, automatic=automatic)
        if found.state in REFUSED:
            raise TaskFailure(CONSENT_DENIED, "this site's owner does not consent to this job, or does no longer")
        again = found.state in GIVEN | {ConsentState.USED_UP} and self._ran(digest, place) is not None
        ahead = manifest.kind is RoundKind.PREPARE  # the round that collects is the one that counts
        kind = RoundKind.TRAIN if ahead else manifest.kind
        room = found.state in GIVEN and request.has_room(kind, self._ran_by_kind(digest), found.runs_left or 0)
        if ahead and room:
            return
        if again or room:
            self._run(digest, place)
            return
        log.info("consent.waiting", job_id=request.job_id, request=digest, state=found.state.value)
        why = _OVER.get(found.state, "")
        if found.state in GIVEN:
            why = f"; all rounds of kind {kind} that were approved are used up, the others are for noisy ones"
        raise TaskFailure(CONSENT_WAITING, f"this job waits for the consent of the site's owner{why}")

    def notes(self, policy: Policy) -> tuple[ConsentNote, ...]:
        """Return what the coordinator is told: which jobs wait for consent here, and to which it was denied."""
        if not policy.consent.asked:
            return ()
        newest: dict[str, ConsentState] = {}
        for entry in self.entries(MOST_CONSENTS):
            newest.setdefault(entry.request.job_id, entry.standing.state)
        return tuple(
            ConsentNote(job_id=job, state="denied" if state in REFUSED else "waiting")
            for job, state in newest.items()
            if state not in GIVEN
        )

    def waiting(self) -> list[str]:
        """Return the names of the jobs that wait for an owner, the one that was asked last first."""
        found = (entry for entry in self.entries(MOST_CONSENTS) if entry.standing.state not in GIVEN | REFUSED)
        return list(dict.fromkeys(entry.request.job.name for entry in found))

    def entries(self, limit: int = _MOST_SHOWN) -> list[InboxEntry]:
        """Return the requests, the one that was asked last first."""
        with self.store.reading() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM consent_requests ORDER BY asked_at DESC, digest LIMIT ?",  # noqa: S608
                (limit,),
            ).fetchall()
        return [entry for row in rows if (entry := self._entry(*row)) is not None]

    def entry(self, digest: str) -> InboxEntry:
        """Return one request; KeyError where there is none."""
        with self.store.reading() as db:
            row = db.execute(
                f"SELECT {_COLUMNS} FROM consent_requests WHERE digest = ?",  # noqa: S608
                (digest,),
            ).fetchone()
        entry = self._entry(*row) if row is not None else None
        if entry is None:
            raise KeyError(digest)
        return entry

    def last_approved(self, entry: InboxEntry) -> InboxEntry | None:
        """Return the request to compare with: the last approved one of the same job, else of its name or recipe."""
        others = [
            each
            for each in self.entries()
            if each.digest != entry.digest and any(made.decision == "approve" for made in each.decisions)
        ]
        mine = entry.request

        def nearness(other: InboxEntry) -> tuple[bool, bool, bool, float]:
            its = other.request
            same = (its.job_id == mine.job_id, its.job.name == mine.job.name, its.recipe == mine.recipe)
            return (*same, max(made.at_ms for made in other.decisions))

        return max(others, key=nearness, default=None)

    def decide(
        self,
        digest: str,
        key: OwnerKey,
        decision: str,
        *,
        runs: int | None = None,
        until_ms: int | None = None,
        note: str | None = None,
    ) -> InboxEntry:
        """Sign and store what the holder of a key decides, and return what holds then.

        `runs`: how many more rounds may be run. Raises NotDecided, KeyError, OSError.
        """
        entry, now_ms = self.entry(digest), _now_ms()
        owners = self._owners
        if owners is None or key.public not in owners.keys:
            raise NotDecided("this key is not among the owners in agent.yaml")
        if until_ms is not None and until_ms <= now_ms:
            raise NotDecided("the time until when it holds has passed already")
        if decision == "revoke" and entry.standing.state not in GIVEN and not entry.standing.approvals:
            raise NotDecided(f"nothing is approved: the request is {entry.standing.state}; deny it instead")
        try:
            document = Decision.model_validate(
                {
                    "decision": decision,
                    "request": digest,
                    "number": max(entry.standing.number, self._mark.read(ENDED, digest).number) + 1,
                    "runs": None if runs is None else entry.standing.used + runs,
                    "until_ms": until_ms,
                    "at_ms": now_ms,
                    "key": key.public,
                    "note": note or None,
                }
            )
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise NotDecided(said) from None
        signed = SignedDecision.by(key, document)
        if decision != "approve":
            state = ConsentState.DENIED if decision == "deny" else ConsentState.REVOKED
            self._mark.reach(ENDED, document.number, state, digest)
        self.keep(signed)
        log.info("consent.decided", request=digest, decision=decision, key=key.public)
        return self.entry(digest)

    def keep(self, signed: SignedDecision) -> None:
        """Store a decision as it is: whether it counts is judged whenever it is used."""
        with self.store.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO consent_decisions VALUES (?, ?, ?, ?)",
                (signed.document.request, signed.document.number, signed.document.key, signed.model_dump_json()),
            )

    def _entry(self, digest: str, document: str, asked_at: float, automatic: int) -> InboxEntry | None:
        """Return a row as it is shown; None for one that is not what its digest says, which owners would sign."""
        try:
            request = ConsentRequest.model_validate_json(document)
        except ValidationError:
            request = None
        if request is None or request.digest() != digest:
            log.warning("consent.request_damaged", request=digest)
            return None
        decisions = self._decisions(digest)
        keys = self._owners.keys if self._owners is not None else []
        return InboxEntry(
            digest,
            request,
            asked_at,
            bool(automatic),
            self._standing(digest, request, automatic=bool(automatic), decisions=decisions),
            tuple(each.document for each in decisions if each.holds(digest, keys)),
        )

    def _ask(self, digest: str, request: ConsentRequest, *, automatic: bool) -> None:
        with self.store.writing() as db:
            db.execute(
                "INSERT INTO consent_requests VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET asked_at = excluded.asked_at, automatic = excluded.automatic",
                (digest, request.job_id, request.model_dump_json(), time.time(), int(automatic)),
            )
            db.execute(
                "DELETE FROM consent_requests WHERE digest NOT IN (SELECT request FROM consent_decisions)"
                " AND digest NOT IN (SELECT request FROM consent_runs)"
                " AND digest NOT IN (SELECT digest FROM consent_requests ORDER BY asked_at DESC LIMIT ?)",
                (_MOST_SHOWN,),
            )

    def _decisions(self, digest: str) -> list[SignedDecision]:
        with self.store.reading() as db:
            rows = db.execute("SELECT document FROM consent_decisions WHERE request = ?", (digest,)).fetchall()
        found = []
        for (document,) in rows:
            try:
                found.append(SignedDecision.model_validate_json(document))
            except ValidationError:
                log.warning("consent.decision_unreadable", request=digest)
        return found

    def _standing(
        self,
        digest: str,
        request: ConsentRequest,
        *,
        automatic: bool,
        decisions: Sequence[SignedDecision] | None = None,
    ) -> Standing:
        owners, ended = self._owners, self._mark.read(ENDED, digest)
        used = self._used(digest)
        found = standing(
            digest,
            self._decisions(digest) if decisions is None else decisions,
            keys=owners.keys if owners is not None else (),
            need=owners.need if owners is not None else 1,
            planned=request.rounds,
            used=used,
            ended=_ended(ended),
            now_ms=_now_ms(),
        )
        if found.state is ConsentState.EXPIRED and found.number > ended.number:
            self._mark.reach(ENDED, found.number, ConsentState.EXPIRED, digest)  # also if the clock is moved back
        if automatic and found.state is ConsentState.ASKED:
            state = ConsentState.USED_UP if used >= request.rounds else ConsentState.ACTIVE
            return Standing(state, 0, 0, used, request.rounds, None, found.number)
        return found

    def _used(self, digest: str) -> int:
        with self.store.reading() as db:
            row = db.execute("SELECT max(run) FROM consent_runs WHERE request = ?", (digest,)).fetchone()
        return max(int(row[0] or 0), self._mark.read(RUNS, digest).number)

    def _ran(self, digest: str, place: tuple[str, int]) -> int | None:
        """Return as which run of the request this round was counted; None where it was not."""
        with self.store.reading() as db:
            row = db.execute(
                "SELECT run FROM consent_runs WHERE request = ? AND kind = ? AND number = ?", (digest, *place)
            ).fetchone()
        return int(row[0]) if row is not None else None

    def _ran_by_kind(self, digest: str) -> dict[str, int]:
        """Return how many rounds of each kind were run."""
        with self.store.reading() as db:
            return dict(
                db.execute("SELECT kind, count(*) FROM consent_runs WHERE request = ? GROUP BY kind", (digest,))
            )

    def _run(self, digest: str, place: tuple[str, int]) -> None:
        """Count a run in the database and in the file beside it, before anything is computed."""
        run = self._ran(digest, place)
        if run is None:
            run = self._used(digest) + 1
            with self.store.writing() as db:
                db.execute("INSERT INTO consent_runs VALUES (?, ?, ?, ?)", (digest, *place, run))
        try:
            self._mark.reach(RUNS, run, "", digest)
        except OSError as error:
            raise TaskFailure("mark-unwritten", f"the owners' file cannot be written: {error.strerror}") from error


def _ended(reached: Reached) -> Ended:
    return Ended(reached.number, ConsentState(reached.what)) if reached.number else Ended()


def _now_ms() -> int:
    return int(time.time() * 1000)


@contextmanager
def opened_inbox(settings: AgentSettings) -> Iterator[Inbox]:
    """Open the inbox of an agent that may be running; ConfigError where there is none yet, or it cannot be used."""
    if not (settings.data_dir / "agent.sqlite").exists():
        raise ConfigError(f"{settings.data_dir} holds no agent's state yet: start the agent first")
    try:
        store = Store(settings.data_dir)
    except sqlite3.Error as error:
        raise ConfigError(f"{settings.data_dir}: {error}") from error
    try:
        yield Inbox(store, settings.owners, OwnerMark(settings.owner_mark))
    except sqlite3.Error as error:
        raise ConfigError(f"{settings.data_dir}: {error}") from error
    finally:
        store.close()
