"""The facts of engine `oneshot`."""

from typing import Final

from pydantic import JsonValue

from undersong.shared.secagg.facts import UPLOAD, WITNESS, EngineFacts, PartyFacts, PlanRequest, Wording
from undersong.shared.secagg.oneshot.room import check_room
from undersong.shared.wire.custodian import CUSTODIAN

NAME: Final = "oneshot"
COUNT, THRESHOLD = 3, 2


def plan(request: PlanRequest) -> dict[str, JsonValue]:  # noqa: ARG001
    """Return how many custodians there are, and how many of them open a sum."""
    return {"custodians": COUNT, "threshold": THRESHOLD}


FACTS: Final = EngineFacts(
    name=NAME,
    steps=(UPLOAD,),
    smallest=3,
    wording=Wording(
        description="Experimental: each update is encrypted under a key of its own that the custodians hold in shares; "
        "two of three custodians open the sum and nothing else.",
        protection="Experimental, as its hardness estimate has not been checked by a cryptographer. Each site encrypts "
        "its update under a key that no service has, and sends one message. Two of three custodians open the sum of "
        "all keys, and so the sum of the updates alone.",
        seen_by="no service, unless the operator of the aggregator and those of two custodians work together "
        "(experimental)",
        collusion="experimental: a single update is hidden unless the aggregator and two of the three custodians work "
        "together, or all other sites do, and as long as Ring-LWE is hard",
    ),
    code="undersong.shared.secagg.oneshot.engine:ONESHOT",
    audit="undersong.shared.secagg.oneshot.audit:AUDIT",
    kernels=("undersong.shared.fields.kernels64", "undersong.shared.lattice.kernels", "undersong.shared.privacy.noise"),
    parties=(PartyFacts(WITNESS), PartyFacts(CUSTODIAN, COUNT, THRESHOLD, opens_sum=True)),
    vouched_by="keys",
    commits_nonce=True,
    sums_site_noise=True,
    fixed_bytes=1 << 18,  # seven shares of 33 kB, and a last polynomial that is not full
    check_encoding=check_room,
    plan=plan,
)
