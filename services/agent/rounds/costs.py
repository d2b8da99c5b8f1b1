"""What a round costs in privacy, as this site computes it from the manifest. Imports numpy: loaded with a round."""

from __future__ import annotations

from pathlib import Path

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.ledger.rules import PRIVACY_MISMATCH
from undersong.services.agent.rounds.updates import mapped
from undersong.shared.errors import Refusal
from undersong.shared.learning import tensors
from undersong.shared.secagg.private import coordinates_of, event_of
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.privacy import PrivacyEvent


def cost_of(manifest: RoundManifest, model: Path | None) -> PrivacyEvent | None:
    """Return the event of a round, None where it uses no data; `model` is the file of the model that it starts from.

    Raises TaskFailure `privacy-mismatch` for terms that the round's engine and encoding cannot keep.
    """
    try:
        return event_of(manifest, _length(manifest, model))
    except Refusal as refusal:
        raise TaskFailure(PRIVACY_MISMATCH, refusal.detail) from refusal


def _length(manifest: RoundManifest, model: Path | None) -> int:
    """Return the number of coordinates of the update."""
    if manifest.privacy is None or model is None:
        return manifest.length or 1
    return coordinates_of(manifest, tensors.load(mapped(model)).schema.length)
