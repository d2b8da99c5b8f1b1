"""Manifests and headers for tests."""

from typing import Any

from undersong.shared.ids import Digest
from undersong.shared.secagg.quantise import plan_encoding, plan_sums
from undersong.shared.wire.manifest import RoundKind, RoundManifest

SITES = ("site_a", "site_b", "site_c")
DIGEST = Digest("ab" * 32)


def manifest(kind: RoundKind = RoundKind.TRAIN, **changes: Any) -> RoundManifest:
    """A valid manifest with these changes."""
    encodings = {
        RoundKind.INITIALISE: None,
        RoundKind.TRAIN: plan_encoding(summands=3, max_weight=10, clip_norm=5.0, bound_value=None, modulus_bits=32),
    }
    document: dict[str, Any] = {
        "federation_id": "fed_1",
        "job_id": "job_1",
        "round_id": "rnd_1",
        "number": 1,
        "attempt": 1,
        "kind": kind,
        "engine": "sealed",
        "recipe": {"name": "null", "digest": DIGEST},
        "data": {"dataset": "heart", "features": ["age"], "label": "target"},
        "model": {"version_id": "ver_1", "digest": DIGEST},
        "model_id": "mdl_1",
        "encoding": encodings.get(kind, plan_sums(summands=3)),
        "cohort": SITES,
        "min_cohort": 2,
        "target": 3,
        "strategy": {"name": "fedavg"},
        "seed": 7,
        "deadline_s": 60.0,
        "weight_unit": 10,
    }
    return RoundManifest.model_validate({**document, **changes})
