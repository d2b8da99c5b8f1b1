"""Changes that are trained ahead of a round, and given to the round that collects them. Imports numpy.

The site keeps its change, weighs it by its age itself, and gives it to one round only: no server sees a single change,
so none could weigh it.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.repository.changes import ChangeNote, TrainedChanges
from undersong.services.agent.rounds.updates import change_of, check_noise
from undersong.services.agent.runner.protocol import RunOutcome
from undersong.shared.errors import Refusal
from undersong.shared.ids import Digest, SiteId
from undersong.shared.learning.staleness import stale_weight
from undersong.shared.learning.strategies import STRATEGIES
from undersong.shared.secagg.engine import Payload
from undersong.shared.secagg.payload import train_payload
from undersong.shared.secagg.quantise import finite_measures
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.manifest import TRAINING_ROUND, RoundManifest


def keep_change(
    changes: TrainedChanges, manifest: RoundManifest, digest: Digest, outcome: RunOutcome, model: Path | None
) -> None:
    """Store what a recipe trained for an order, durably; TaskFailure for an outcome that is no change of the model."""
    if manifest.model is None:
        raise TaskFailure("manifest-model", "an order to train without a model")
    if outcome.examples < 1:
        raise TaskFailure("no-examples", "the recipe found no examples to train on")
    check_noise(manifest, outcome)
    try:
        delta = np.ascontiguousarray(change_of(outcome, model)[0], "<f4")
        finite_measures(delta, outcome.loss)
    except Refusal as refusal:
        raise TaskFailure(refusal.slug(), refusal.detail) from refusal
    data = delta.data.cast("B")
    note = ChangeNote(
        order=digest,
        version_id=manifest.model.version_id,
        place=_place(manifest),
        terms=_terms(manifest),
        examples=outcome.examples,
        loss=outcome.loss,
        until=time.time() + manifest.deadline_s,
        vector=Digest(hashlib.sha256(data).hexdigest()),
        length=delta.size,
    )
    changes.keep(manifest.job_id, note, data)


def buffered_payload(manifest: RoundManifest, site_id: SiteId, changes: TrainedChanges) -> Payload:
    """Return what the engine sums of this site's change, weighed by its age.

    Raises TaskFailure where the round asks for another change than this site has, tells another age, or asks for one
    that was given before.
    """
    note = changes.find(manifest.job_id)
    if note is None:
        raise TaskFailure("change-gone", "this site has no change for the round: it was given, replaced or too old")
    staleness = _check(manifest, site_id, note)
    data = changes.vector(note)
    if data is None or len(data) != 4 * note.length:
        raise TaskFailure("change-gone", "the change that this site kept is damaged")
    changes.use(manifest.job_id, note, manifest.number)
    delta = np.frombuffer(data, "<f4") * np.float32(stale_weight(staleness))
    try:
        return train_payload(manifest, delta, examples=note.examples, loss=note.loss, key=os.urandom(32))
    except Refusal as refusal:
        raise TaskFailure(refusal.slug(), refusal.detail) from refusal


def _check(manifest: RoundManifest, site_id: SiteId, note: ChangeNote) -> int:
    """Return how many versions old this site's change is, which is what the manifest says."""
    asked = next((each for each in manifest.buffered if each.site_id == site_id), None)
    staleness = _place(manifest) - note.place
    if asked is None or asked.version_id != note.version_id or note.terms != _terms(manifest):
        raise TaskFailure("change-other", "the round asks for another change than the one that this site has")
    if asked.staleness != staleness:
        raise TaskFailure(
            "change-age", f"the round says the change is {asked.staleness} versions old, it is {staleness}"
        )
    strategy = STRATEGIES.get(manifest.strategy.name)
    if strategy is None or not strategy.buffered or manifest.encoding is None or manifest.encoding.max_weight != 1:
        raise TaskFailure("change-other", f"strategy {manifest.strategy.name} collects no changes of equal weight")
    try:
        most = strategy.settings(manifest.strategy.params)["max_staleness"]
    except Refusal as refusal:
        raise TaskFailure(refusal.slug(), refusal.detail) from refusal
    if not 0 <= staleness <= most:
        raise TaskFailure("change-age", f"the change is {staleness} versions old, and the job collects up to {most:g}")
    if note.used not in (None, manifest.number):
        raise TaskFailure("change-gone", "this change was given to another round, which may have opened its sum")
    return staleness


def _place(manifest: RoundManifest) -> int:
    """Return how many rounds of the job were trained before."""
    found = manifest.context.get(TRAINING_ROUND)
    if not found or not 0 <= found[0] < 2**31:
        raise TaskFailure("manifest-context", "the manifest does not say the round's place in its job")
    return int(found[0])


def _terms(manifest: RoundManifest) -> Digest:
    """Return the digest of what an order and the round that collects must agree on."""
    return digest_document(
        {
            "recipe": manifest.recipe.model_dump(mode="json"),
            "data": manifest.data.model_dump(mode="json"),
            "privacy": None if manifest.privacy is None else manifest.privacy.model_dump(mode="json"),
        }
    )
