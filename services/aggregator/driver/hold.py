"""What a worker holds of a round that it drives: its lease, what it has folded, the model and the form of updates."""

from dataclasses import dataclass, field

import structlog

from undersong.services.aggregator.contributions.folding import Folding
from undersong.services.aggregator.domain.manifests import update_length
from undersong.services.aggregator.domain.refusals import FormUndecided
from undersong.services.aggregator.domain.rounds import Form, Phase, Reason, settled_form
from undersong.services.aggregator.driver.publication import Publication, RoundFailed, StartingModel
from undersong.services.aggregator.repository.rows import Stored
from undersong.services.aggregator.rounds.lifecycle import RoundView
from undersong.shared.errors import Unavailable
from undersong.shared.ids import RoundId
from undersong.shared.wire.manifest import RoundKind

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Hold:
    """A worker's hold on a round, with what it has computed so far."""

    round_id: RoundId
    fence: int
    folding: Folding
    renew_at: float
    base: StartingModel | None = None
    verified: set[int] = field(default_factory=set)


async def form_of(hold: Hold, view: RoundView, publication: Publication) -> Form | None:
    """Return the form of the round's updates: from its manifest or model, else what most sites sent; None: not yet.

    Raises RoundFailed where all sites have sent and none can be chosen.
    """
    stored, manifest = view.stored, hold.folding.manifest
    if manifest.kind is RoundKind.TRAIN:
        await know_base(hold, stored, publication)
        schema = hold.base.model.schema if hold.base else None
        length = None if schema is None else update_length(manifest, schema.length, schema.parameters)
        return None if length is None else Form(length)
    if stored.length is not None:
        return Form(stored.length, stored.layout)
    forms = [c.form for c in view.contributions if c.code is None and c.form is not None]
    complete = stored.round.phase is not Phase.COLLECTING
    try:
        return settled_form(forms, stored.round.cohort_size, complete=complete)
    except FormUndecided as refusal:
        raise RoundFailed(Reason.UNDECIDED, refusal.detail) from refusal


async def know_base(hold: Hold, stored: Stored, publication: Publication) -> None:
    """Fetch the model that the round starts from, early, so that its length is the updates' and not the reverse."""
    if hold.base is not None:
        return
    try:
        hold.base = await publication.base(stored)
    except Unavailable as error:
        log.warning("round.model_waits", reason=error.detail)
        if stored.round.phase is not Phase.COLLECTING:
            raise
