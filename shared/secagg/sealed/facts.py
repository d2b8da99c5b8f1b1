"""The facts of engine `sealed`."""

from typing import Final

from undersong.shared.secagg.facts import UPLOAD, EngineFacts, Wording

NAME: Final = "sealed"
FACTS: Final = EngineFacts(
    name=NAME,
    steps=(UPLOAD,),
    smallest=1,
    wording=Wording(
        description="No one on the way, in storage or at the coordinator sees an update; the aggregator sees each one.",
        protection="Each update is sealed to the aggregator's key for this round. No one on the way, on disk or at the "
        "coordinator can read it; the aggregator itself sees every single update.",
        seen_by="the aggregator sees each update",
        collusion="no two parties have to collude: the aggregator alone sees each update",
    ),
    code="undersong.shared.secagg.sealed.engine:SEALED",
    audit="undersong.shared.secagg.sealed.audit:AUDIT",
    sees_updates=True,
)
