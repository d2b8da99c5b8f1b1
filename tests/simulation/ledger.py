"""The oracle: who was acknowledged, who is in the sum, and how often, read from what the platform left behind.

A site adds its own unit vector, so the change that a published version makes, times the number of its contributors, is
the count of each site: 0 or 1. A 2 is an update counted twice; an acknowledged site at 0 is an update lost.
"""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
from sqlalchemy import create_engine, text

from tests.simulation.arena import SITES, Arena
from tests.simulation.onehot_recipe import LENGTH
from tests.simulation.verdicts import agreed
from undersong.local.layout import HELPER
from undersong.shared.learning import safetensors

ENDED = frozenset({"published", "failed", "cancelled"})


@dataclass(frozen=True)
class Entry:
    """One round as all parties tell it."""

    round_id: str
    phase: str
    reason: str | None
    contributors: dict[str, str] = field(default_factory=dict)  # site → digest, in the aggregator's tables
    rejected: frozenset[str] = frozenset()
    receipts: dict[str, str] = field(default_factory=dict)  # site → digest, at the sites
    counts: dict[str, int] | None = None  # site → how often it is in the published model's change
    recorded: dict[str, str] | None = None  # site → digest, in the transparency log
    agreed: frozenset[str] | None = None  # sites, in the set that the helper signed

    def faults(self) -> list[str]:
        """What is wrong with it, in words; nothing for a round that went well or was aborted with a reason."""
        if self.phase not in ENDED:
            return [f"{self.round_id} has not ended: {self.phase}"]
        if self.phase != "published":
            return [] if self.reason else [f"{self.round_id} {self.phase} without a reason"]
        found = []
        if self.counts is not None:
            found += [f"{site} is counted {n} times" for site, n in self.counts.items() if n not in (0, 1)]
            summed = {site for site, n in self.counts.items() if n}
            found += [f"{site} is in the sum, and not in the books" for site in summed - set(self.contributors)]
            found += [f"{site} is in the books, and not in the sum" for site in set(self.contributors) - summed]
        for site, digest in self.receipts.items():
            if site not in self.rejected and self.contributors.get(site) != digest:
                found.append(f"{site} has a receipt for {digest[:8]}, which is lost")
        if self.recorded is not None and self.recorded != self.contributors:
            found.append("the log's record names other updates than the aggregator's books")
        if self.agreed is not None and self.agreed != set(self.contributors):
            found.append("the helper signed another set than the aggregator's books name")
        return [f"{self.round_id}: {each}" for each in found]


class Ledger:
    """Reads an arena's books; every look is fresh."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def rows(self, service: str, query: str, **values: Any) -> list[Any]:
        """Rows of a service's database."""
        engine = create_engine(self._arena.database_url(service))
        try:
            with engine.connect() as connection:
                return list(connection.execute(text(query), values).all())
        finally:
            engine.dispose()

    def entries(self, job_id: str) -> list[Entry]:
        """All training rounds of a job, oldest first."""
        rounds = self.rows(
            "coordinator", "SELECT id, phase, reason FROM rounds WHERE job_id = :j AND kind = 'train' ORDER BY id",
            j=job_id,
        )  # fmt: skip
        return [self.entry(*row) for row in rounds]

    def entry(self, round_id: str, phase: str, reason: str | None) -> Entry:
        """One round."""
        found = self.rows(
            "aggregator", "SELECT site_id, digest, code FROM contributions WHERE round_id = :r", r=round_id
        )
        counted = {row.site_id: row.digest for row in found if row.code is None}
        return Entry(
            round_id,
            phase,
            reason,
            contributors=counted,
            rejected=frozenset(row.site_id for row in found if row.code is not None),
            receipts=self._receipts(round_id),
            counts=self._counts(round_id) if phase == "published" else None,
            recorded=self.recorded(round_id),
            agreed=self._agreed(round_id),
        )

    def recorded(self, round_id: str) -> dict[str, str] | None:
        """The log's record of the round's updates."""
        found = self.rows("keys", "SELECT record FROM round_records WHERE round_id = :r", r=round_id)
        return dict(json.loads(found[0].record)["bodies"]) if found else None

    def _agreed(self, round_id: str) -> frozenset[str] | None:
        found = self.rows(HELPER, "SELECT manifest, members FROM rounds WHERE id = :r", r=round_id)
        if not found:  # of an engine without a helper
            return None
        return frozenset() if found[0].members is None else agreed(found[0].manifest, found[0].members)

    def _receipts(self, round_id: str) -> dict[str, str]:
        receipts = {}
        for name in SITES:
            with closing(sqlite3.connect(self._arena.agent_database(name), timeout=10)) as db:
                for (packed,) in db.execute(
                    "SELECT receipt FROM contributions WHERE round_id = ? AND receipt IS NOT NULL", (round_id,)
                ):
                    document = msgpack.unpackb(packed)
                    receipts[str(document["site_id"])] = str(document["digest"])
        return receipts

    def _counts(self, round_id: str) -> dict[str, int]:
        (row,) = self.rows(
            "aggregator", "SELECT content_digest, manifest, result FROM rounds WHERE id = :r", r=round_id
        )
        result = row.result if isinstance(row.result, dict) else json.loads(row.result)
        before = self._model(json.loads(row.manifest)["model"]["digest"])
        change = (self._model(row.content_digest) - before) * float(result["weight"])  # each site weighs 1
        whole = np.rint(change)
        if np.abs(change - whole).max() > 0.05:  # rounding to integers and back costs far less
            raise AssertionError(f"{round_id}: the sum is no sum of unit vectors: {change[:8]}")
        counts = {site: int(whole[place]) for site, place in self._arena.places.items()}
        strangers = [place for place in range(LENGTH) if place >= len(SITES) and whole[place]]
        if strangers:
            raise AssertionError(f"{round_id}: places of no site {strangers} are in the sum")
        return counts

    def _model(self, digest: str) -> np.ndarray[Any, Any]:
        data = self._arena.content("registry", digest)
        return np.asarray(safetensors.read(data)["places"], np.float64)

    def witness_faults(self) -> list[str]:
        """Attempts at a round for which more than one roster was signed."""
        rows = self.rows("keys", "SELECT job_id, number, attempt FROM rounds_witnessed WHERE roster_reply IS NOT NULL")
        counted = Counter((row.job_id, row.number, row.attempt) for row in rows)
        return [f"{n} rosters are signed for {attempt}" for attempt, n in counted.items() if n > 1]

    def unfinished(self) -> list[str]:
        """What is still under way though no job is: rounds, tasks, hints, records."""
        questions = {
            ("coordinator", "round"): "SELECT id FROM rounds WHERE phase NOT IN ('published', 'failed', 'cancelled')",
            ("coordinator", "task"): "SELECT id FROM tasks WHERE state IN ('open', 'leased')",
            ("coordinator", "hint"): "SELECT event_id FROM outbox WHERE sent_at IS NULL",
            ("aggregator", "round"): "SELECT id FROM rounds WHERE phase NOT IN ('published', 'failed', 'cancelled')",
            ("aggregator", "hint"): "SELECT event_id FROM outbox WHERE sent_at IS NULL",
            ("aggregator", "record"): "SELECT round_id FROM records WHERE next_try_at IS NOT NULL",
        }
        return [
            f"{service}: {what} {row[0]}"
            for (service, what), query in questions.items()
            for row in self.rows(service, query)
        ]

    def bodies(self) -> list[str]:
        """Bodies of ended rounds that still lie in the aggregator's store."""
        stored = self._arena.stored("aggregator")
        rows = self.rows(
            "aggregator",
            "SELECT c.digest FROM contributions c JOIN rounds r ON r.id = c.round_id"
            " WHERE r.phase IN ('published', 'failed', 'cancelled')",
        )
        return sorted({row.digest for row in rows} & stored)
