"""What a manifest says of the updates of its round, and of who may send one. Pure."""

from functools import lru_cache

from undersong.services.aggregator.domain.refusals import (
    NotInCohort,
    RoundUnknown,
)
from undersong.shared.errors import no_such
from undersong.shared.identity.verify import Party
from undersong.shared.ids import RoundId
from undersong.shared.learning.metrics import layout_length
from undersong.shared.secagg.compression import sent_length
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.quantise import sums_length
from undersong.shared.wire.manifest import (
    RoundManifest,
)


@lru_cache(maxsize=64)
def manifest_of(text: str) -> RoundManifest:
    """Return the manifest as it was stored."""
    return RoundManifest.model_validate_json(text)


def check_member(round_id: RoundId, manifest: RoundManifest, site: Party) -> None:
    """Raise NotInCohort, or, for a site of another federation, RoundUnknown: it must not learn of the round."""
    if site.federation_id != manifest.federation_id:
        raise no_such("round", round_id, RoundUnknown)
    if site.name not in manifest.cohort:
        raise NotInCohort(f"{site.name} is not in the cohort of round {round_id}")


def update_length(manifest: RoundManifest, model_length: int | None, parameters: int | None = None) -> int | None:
    """Return how many words an update of this round has, as the manifest or its model says; None where neither does.

    parameters: how many of the model's coordinates are parameters; needed where not all of them are sent.
    """
    if manifest.metrics_layout is not None:
        return evaluation_length(manifest.metrics_layout)
    if manifest.kind != "train" or model_length is None:
        return manifest.length
    if manifest.compression is None:
        return model_length + tail_length(manifest)
    if parameters is None:
        return None
    return sent_length(manifest.compression, parameters, model_length) + tail_length(manifest)


def tail_length(manifest: RoundManifest) -> int:
    """Return how many words follow the model's in a training update: a count of clipped ones, the engine's tail."""
    clip_words = 0 if manifest.encoding is None else manifest.encoding.clip_words
    return clip_words + engine_facts(manifest.engine).tail_words


def evaluation_length(layout: str) -> int:
    """Return how many words an evaluation of this layout has; raises LayoutUnknown."""
    return sums_length(layout_length(layout))
