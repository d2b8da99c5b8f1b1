"""The facts of engine `twoserver`."""

from typing import Final

from pydantic import JsonValue

from undersong.shared.secagg.facts import UPLOAD, EngineFacts, PartyFacts, PlanRequest, Wording
from undersong.shared.wire.helper import HELPER, NORM_PROOFS
from undersong.shared.wire.manifest import RoundKind

NAME: Final = "twoserver"
REPORT_ID: Final = "report_id"
CONSORTIUM: Final = 16
"""Below this many sites, where each report counts for much, a report carries two proofs of norm equality."""


def plan(request: PlanRequest) -> dict[str, JsonValue]:
    """Return what two servers must know of a training round: the number of proofs in each report."""
    if request.kind is not RoundKind.TRAIN:
        return {}
    return {NORM_PROOFS: request.norm_equality_proofs or (2 if request.sites < CONSORTIUM else 1)}


FACTS: Final = EngineFacts(
    name=NAME,
    steps=(UPLOAD,),
    smallest=2,
    wording=Wording(
        description="Two servers each hold half of every update, check a proof of its norm, and open only the sum.",
        protection="Each site splits its update between two servers and proves in zero knowledge that its norm is "
        "within the bound. Neither server sees the update, only the sum is opened; it takes both together to see more.",
        seen_by="no service, unless the operators of aggregator and keys put their halves together",
        collusion="a single update is hidden unless the operators of the aggregator and of the helper work together",
    ),
    code="undersong.shared.secagg.twoserver.engine:TWOSERVER",
    audit="undersong.shared.secagg.twoserver.audit:AUDIT",
    kernels=(
        "undersong.shared.fields.kernels64",
        "undersong.shared.vdaf.projections64",
        "undersong.shared.privacy.noise",
        "undersong.shared.privacy.matrix",
    ),
    parties=(PartyFacts(HELPER, opens_sum=True),),
    vouched_by=HELPER,
    second_server=True,
    proves_norm=True,
    proves_counts=True,
    adds_noise=True,
    weighted=False,
    tail_words=0,
    single_use_ids=REPORT_ID,
    plan=plan,
)
