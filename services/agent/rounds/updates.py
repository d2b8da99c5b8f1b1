"""From what a recipe made to the bytes that leave: the change, quantised, sealed, and durable on disk.

Imports numpy, so the agent loads this module with the first round. One vector at a time is in memory besides
the models, which are mapped.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.ledger.rules import PRIVACY_MISMATCH
from undersong.services.agent.repository.residuals import Residuals
from undersong.services.agent.repository.samples import Samples
from undersong.services.agent.rounds.exchange import Exchange
from undersong.services.agent.runner.protocol import RunOutcome
from undersong.shared.errors import Refusal
from undersong.shared.files import sync_folder
from undersong.shared.ids import Digest, SiteId
from undersong.shared.learning import tensors
from undersong.shared.privacy.accounting import within
from undersong.shared.secagg.compression import Compressor, add_left_out
from undersong.shared.secagg.engine import Payload
from undersong.shared.secagg.payload import compressed_payload, model_payload, sums_payload
from undersong.shared.statistics.measures import asked_of
from undersong.shared.statistics.sensitivity import to_multiples
from undersong.shared.wire.manifest import RoundKind, RoundManifest

Body = tuple[Digest, int]


@dataclass(frozen=True, slots=True)
class Written:
    """A body in the outbox, the engine's state after it, and the site's signature over it where the engine has one."""

    body: Body
    state: bytes
    signature: bytes | None


def make_payload(
    manifest: RoundManifest,
    site_id: SiteId,
    outcome: RunOutcome,
    model: Path | None,
    samples: Samples,
    residuals: Residuals,
) -> Payload:
    """Return what the engine sums, made of a recipe's outcome; TaskFailure for an outcome that is not one.

    With error feedback what the update leaves out is durable on return; it counts once an answer to the round is kept.
    The payload of a first model is the mapped file: it may be deleted, and must not be written to.
    """
    try:
        check_noise(manifest, outcome)
        return _payload(manifest, outcome, model, _committed(manifest, site_id, outcome, samples), residuals)
    except Refusal as refusal:
        raise TaskFailure(refusal.slug(), refusal.detail) from refusal


def write_body(exchange: Exchange, answer: bytes | None, payload: Payload, outbox: Path) -> Written:
    """Write the update's body to the outbox, named by its digest; TaskFailure where the engine refuses it.

    `answer` is the one to the step before. What comes back is to be stored with the body's digest. On return the bytes
    are durable. Nothing has left.
    """
    try:
        state, pieces = exchange.upload(answer, payload)
        body = _write(pieces, outbox)
        return Written(body, state, exchange.sign_body(state, body[0]))
    except Refusal as refusal:
        raise TaskFailure(refusal.slug(), refusal.detail) from refusal


def check_noise(manifest: RoundManifest, outcome: RunOutcome) -> None:
    """Raise TaskFailure `privacy-mismatch` unless the recipe added all the noise that the round's terms promise."""
    noise = manifest.privacy.record_noise if manifest.privacy is not None else None
    if noise is None or within(outcome.events, noise.event):
        return
    ran = "; ".join(f"{event.model_dump(mode='json')}" for event in outcome.events) or "no noise"
    raise TaskFailure(
        PRIVACY_MISMATCH, f"the recipe reports {ran}, and the round promises {noise.event.model_dump(mode='json')}"
    )


def _committed(manifest: RoundManifest, site_id: SiteId, outcome: RunOutcome, samples: Samples) -> bytes | None:
    if manifest.kind is not RoundKind.TRAIN:
        return None
    if outcome.examples < 1:
        raise TaskFailure("no-examples", "the recipe found no examples to train on")
    return samples.message(manifest, site_id, outcome.examples)


def _payload(
    manifest: RoundManifest, outcome: RunOutcome, model: Path | None, committed: bytes | None, residuals: Residuals
) -> Payload:
    if manifest.kind in (RoundKind.STATISTICS, RoundKind.EVALUATE):
        return sums_to_hide(manifest, outcome)
    if outcome.tensors is None:
        raise TaskFailure("bad-result", "the recipe gave no model")
    if manifest.kind is RoundKind.INITIALISE:
        after = mapped(outcome.tensors)
        tensors.load(after)  # an unreadable model must not become version 0
        return model_payload(after)
    delta, parameters = change_of(outcome, model)
    if manifest.compression is not None and manifest.compression.error_feedback:
        add_left_out(delta, residuals.before(manifest, parameters))
    made, left_out = compressed_payload(
        manifest,
        Compressor.of(manifest, parameters, delta.size),
        delta,
        examples=outcome.examples,
        loss=outcome.loss,
        key=os.urandom(32),
        samples=committed,
    )
    if left_out is not None:
        residuals.keep(manifest, left_out)
    return made


def change_of(outcome: RunOutcome, model: Path | None) -> tuple[tensors.Vector, int]:
    """Return by how much a recipe changed the model, float32[d], and how many of its coordinates are parameters.

    Raises a Refusal or TaskFailure where it made no model.
    """
    if outcome.tensors is None:
        raise TaskFailure("bad-result", "the recipe gave no model")
    if model is None:
        raise TaskFailure("manifest-model", "a training round without a model")
    return _difference(mapped(model), mapped(outcome.tensors))  # the files are mapped no longer than that


def sums_to_hide(manifest: RoundManifest, outcome: RunOutcome) -> Payload:
    """Return what the engine sums of a recipe's sums, with the site's noise where the round asks for it.

    Raises TaskFailure for an outcome that is not what the round asks for, a Refusal for sums that do not fit it.
    """
    if outcome.sums is None:
        raise TaskFailure("bad-result", "the recipe gave no sums")
    sums = np.fromfile(outcome.sums, "<f8")
    if manifest.privacy is not None:
        sums = to_multiples(asked_of(manifest.recipe.params), sums)
    payload = sums_payload(manifest, sums, outcome.metrics_layout, key=os.urandom(32))
    _check_form(manifest, payload)
    return payload


def _check_form(manifest: RoundManifest, payload: Payload) -> None:
    """Raise TaskFailure for sums that are not those that the manifest asks for: the servers would refuse them."""
    if manifest.metrics_layout not in (None, payload.metrics_layout):
        detail = f"the recipe evaluates {payload.metrics_layout}, the round asks for {manifest.metrics_layout}"
        raise TaskFailure("bad-result", detail)
    if manifest.length not in (None, payload.length):
        raise TaskFailure("bad-result", f"the recipe made {payload.length} words, the round asks for {manifest.length}")


def _difference(before: memoryview, after: memoryview) -> tuple[tensors.Vector, int]:
    """Return the change, and how many of its coordinates are parameters."""
    old, new = tensors.load(before), tensors.load(after)
    if new.schema != old.schema.result(new.tensors):
        raise TaskFailure("model-mismatch", "the recipe changed the roles of tensors")
    return tensors.difference(old.schema, new.tensors, old.tensors), old.schema.parameters


def mapped(path: Path) -> memoryview:
    """Return a file's bytes without a copy; the mapping ends with the last view of it."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise TaskFailure("bad-result", "an empty model file")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _write(pieces: Iterator[bytes | memoryview], outbox: Path) -> Body:
    running, size = hashlib.sha256(), 0
    part = outbox / "body.part"  # one task at a time writes; a crash leaves at most this file
    with part.open("wb") as file:
        for piece in pieces:
            running.update(piece)
            size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    digest = Digest(running.hexdigest())
    part.replace(outbox / f"{digest}.body")
    sync_folder(outbox)
    return digest, size
