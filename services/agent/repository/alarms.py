"""What a person at the site must look at, durable until they say that they did."""

from __future__ import annotations

import sqlite3
import time
from typing import Any, Final

import msgpack
import structlog

from undersong.services.agent.repository.state import AgentState, remember
from undersong.shared.wire.profiles import Alarm

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FORK: Final = "log-fork"
FOREIGN: Final = "foreign-certificate"
REMEDY: Final = {
    FORK: "compare heads with other sites and ask the operator of the keys service whether its log was restored; "
    "if that explains it: python -m undersong.services.agent --config agent.yaml accept-log",
    FOREIGN: "if this site was not enrolled anew, ask the operator of the keys service to revoke the certificate and "
    "find out who asked for it; then: python -m undersong.services.agent --config agent.yaml accept-log",
}

ACCEPTED: Final = "log_accepted"  # the fact that counts how often the owner accepted the log
_INSERT: Final = "INSERT INTO alarms VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"


class Alarms:
    """The alarms in the agent's database: each is raised, and logged, once."""

    def __init__(self, state: AgentState) -> None:
        self._store = state.store

    def acceptances(self) -> int:
        """Return how often the owner accepted the log."""
        with self._store.reading() as db:
            return acceptances(db)

    def raise_(self, kind: str, detail: str, evidence: str, *, since: int) -> None:
        """Store the alarm and log it. Idempotent.

        Nothing is stored if the owner accepted the log after `since`: what raises it was read before that.
        """
        with self._store.writing() as db:
            if acceptances(db) != since:
                return
            known = kind == FORK and db.execute("SELECT 1 FROM alarms WHERE kind = ?", (FORK,)).fetchone()
            row = (kind, detail, evidence, time.time())  # of a fork, the first evidence counts
            added = 0 if known else db.execute(_INSERT, row).rowcount
        if added:
            log.error("site.alarm", kind=kind, detail=detail, remedy=REMEDY[kind])

    def listed(self) -> list[dict[str, Any]]:
        """Return the alarms, oldest first."""
        with self._store.reading() as db:
            rows = db.execute("SELECT kind, detail, evidence, created_at FROM alarms ORDER BY created_at").fetchall()
        names = ("kind", "detail", "evidence", "updated_at")
        return [{**dict(zip(names, row, strict=True)), "remedy": REMEDY[row[0]]} for row in rows]

    def told(self) -> tuple[Alarm, ...]:
        """Return what the coordinator is told, for the site's row on the dashboard."""
        return tuple(Alarm(kind=one["kind"], detail=one["detail"][:1000]) for one in self.listed()[:50])

    def clear(self) -> int:
        """Forget them, and what was seen of the log, once a person has looked; return how many there were."""
        with self._store.writing() as db:
            count = db.execute("DELETE FROM alarms").rowcount
            db.execute("DELETE FROM heads_met")
            db.execute("DELETE FROM facts WHERE name IN ('log_head', 'log_seen', 'log_watched')")
            remember(db, ACCEPTED, acceptances(db) + 1)
        return int(count)


def acceptances(db: sqlite3.Connection) -> int:
    """Return how often the owner accepted the log, as this transaction sees it."""
    row = db.execute("SELECT value FROM facts WHERE name = ?", (ACCEPTED,)).fetchone()
    return int(msgpack.unpackb(row[0])) if row is not None else 0
