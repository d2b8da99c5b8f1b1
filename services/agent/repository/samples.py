"""This site's committed sample counts: made once for a job, durable before they leave, the same in all its rounds."""

from __future__ import annotations

import hashlib
import time

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.repository.store import Store
from undersong.shared.ids import SiteId
from undersong.shared.secagg.payload import weight_of
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.zk import samples


class Samples:
    """The commitments in the agent's database. The blinding stays there, for whom the site may open one to."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def message(self, manifest: RoundManifest, site_id: SiteId, examples: int) -> bytes | None:
        """Return what the update carries; None where a round takes no commitments.

        Raises TaskFailure when the data set's count, or the job's limits, are others than in the job's first round.
        """
        if not samples.takes_commitments(manifest):
            return None
        weight = weight_of(examples, manifest)
        context = hashlib.sha256(samples.context_of(manifest, site_id)).digest()
        found = self._find(manifest.job_id) or self._make(manifest, site_id, weight, context)
        if found[1] != context:
            raise TaskFailure("sample-limits-changed", "the job counts samples otherwise than in its first round")
        if found[0] != weight:
            raise TaskFailure(
                "sample-count-changed",
                "the data set has another number of samples than this site committed to when the job began: "
                "put back the data as they were, or start a new job",
            )
        return found[2]

    def _make(self, manifest: RoundManifest, site_id: SiteId, weight: int, context: bytes) -> tuple[int, bytes, bytes]:
        made = samples.Committed.make(manifest, site_id, weight)
        row = (manifest.job_id, weight, context, made.opening.blinding.encoded, made.message, time.time())
        with self._store.writing() as db:
            db.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)", row)
        return weight, context, made.message

    def _find(self, job_id: str) -> tuple[int, bytes, bytes] | None:
        with self._store.reading() as db:
            row = db.execute("SELECT weight, context, message FROM samples WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else (int(row[0]), bytes(row[1]), bytes(row[2]))
