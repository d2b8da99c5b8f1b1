"""The facts of engine `pairwise`."""

from typing import Final

from pydantic import JsonValue

from undersong.shared.secagg.facts import UPLOAD, WITNESS, EngineFacts, PartyFacts, PlanRequest, Wording
from undersong.shared.secagg.pairwise.graph import COMPLETE_UP_TO

NAME: Final = "pairwise"
ADVERTISE: Final = "advertise"
SHARE: Final = "share"
CHECK: Final = "check"
COMMIT: Final = "commit"
UNMASK: Final = "unmask"
STEPS: Final = (ADVERTISE, SHARE, CHECK, UPLOAD, COMMIT, UNMASK)
PLANNED: Final[dict[str, JsonValue]] = {"corrupt": 1 / 3, "dropout": 0.3}
"""The shares of sites that collude with the server, and that drop out, which a round is planned for."""


def plan(request: PlanRequest) -> dict[str, JsonValue]:
    """Return the engine's parameters: up to COMPLETE_UP_TO sites all know each other and sign the survivor set."""
    return {**PLANNED, "quorum": request.sites <= COMPLETE_UP_TO}


FACTS: Final = EngineFacts(
    name=NAME,
    steps=STEPS,
    smallest=3,
    wording=Wording(
        description="No service sees an update: masks cancel in the sum over the survivors, and only that sum is "
        "opened.",
        protection="Each site masks its update with keys it shares with the other sites. The masks cancel in the sum, "
        "and only that sum is opened: no service sees a single update, the aggregator included.",
        seen_by="no service",
        collusion="a single update is hidden unless the aggregator and a large part of the sites work together: a "
        "round is planned for a third of them",
    ),
    code="undersong.shared.secagg.pairwise.engine:PAIRWISE",
    audit="undersong.shared.secagg.pairwise.audit:AUDIT",
    kernels=("undersong.shared.secagg.pairwise.decoding",),
    parties=(PartyFacts(WITNESS),),
    vouched_by="keys",
    commits_nonce=True,
    sums_site_noise=True,
    plan=plan,
)
