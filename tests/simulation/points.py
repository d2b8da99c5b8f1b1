"""Every named step of a round: which processes reach it, what a crash just after it leaves, and how that is recovered.

The order is that of a round. `docs/operations/fault-matrix.md` is made of this, and of what was tried.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Point:
    """`times`: at which of its passages in one round a fault is tried (a pairwise round has six steps)."""

    processes: tuple[str, ...]
    left: str
    mended_by: str
    times: tuple[int, ...] = (1,)


_C, _A, _K, _R, _N = "coordinator", "aggregator", "keys", "registry", "agent.north"
_ALL: Final = (f"{_C}.api", f"{_C}.worker", f"{_A}.api", f"{_A}.worker", f"{_K}.api", f"{_R}.api")
_RELAYS: Final = (f"{_C}.api", f"{_C}.worker", f"{_A}.api", f"{_A}.worker")

POINTS: Final[dict[str, Point]] = {
    "coordinator.job.submitted": Point((f"{_C}.api",), "job row, no answer", "the client asks again under its key"),
    "coordinator.round.planned": Point((f"{_C}.worker",), "planned round, hint in the outbox", "relay, then sweeper"),
    "coordinator.nonce.given": Point(
        (f"{_C}.worker",), "the keys service has committed, manifest is a draft", "keys service: the same"
    ),
    "coordinator.round.keyed": Point((f"{_C}.worker",), "open at the aggregator only", "opened again: same key"),
    "coordinator.tasks.out": Point((f"{_C}.worker",), "open tasks, hints in the outbox", "relay; attendance looks"),
    "coordinator.task.leased": Point((f"{_C}.api",), "leased task, no answer", "the site gets its own lease again"),
    "coordinator.task.completed": Point((f"{_C}.api",), "task done, no answer", "the agent asks again"),
    "coordinator.result.heard": Point((f"{_C}.worker",), "published there, not here", "sweeper asks again"),
    "coordinator.round.stepped": Point((f"{_C}.worker",), "next round planned, no driver yet", "sweeper"),
    "aggregator.round.opened": Point((f"{_A}.api",), "round row, no answer", "coordinator opens again: same key"),
    "aggregator.message.committed": Point(
        (f"{_A}.api",), "message counted, no answer", "the agent sends the same bytes", times=(1, 5, 9, 13, 17)
    ),
    "aggregator.body.stored": Point((f"{_A}.api",), "body without a row", "sent again, or cleared away"),
    "aggregator.update.committed": Point((f"{_A}.api",), "counted, no receipt", "the same bytes get the same receipt"),
    "aggregator.round.claimed": Point((f"{_A}.worker",), "lease of a dead worker", "its lease ends"),
    "aggregator.update.folded": Point((f"{_A}.worker",), "sum in memory only", "folded again, same sum", times=(1, 4)),
    "aggregator.step.frozen": Point((f"{_A}.worker",), "members fixed, not asked", "asks for those", times=(1, 2)),
    "aggregator.step.witnessed": Point((f"{_A}.worker",), "signed, not stored", "keys service: the same", times=(1, 2)),
    "aggregator.step.closed": Point(
        (f"{_A}.worker",), "step closed, no site told", "relay; long polls look", times=(1, 2, 3, 4, 5, 6)
    ),
    "aggregator.sum.opened": Point((f"{_A}.worker",), "frozen round, sum in memory", "computed again, same digest"),
    "aggregator.round.checked": Point((f"{_A}.worker",), "intent to publish", "published by the next worker"),
    "aggregator.version.published": Point((f"{_A}.worker",), "version there, round checked", "registry gives the same"),
    "aggregator.round.finished": Point((f"{_A}.worker",), "published, record not submitted", "sweeper"),
    "aggregator.record.given": Point((f"{_A}.worker",), "logged, not noted", "keys service: the same"),
    "keys.given.committed": Point(
        (f"{_K}.api",), "given, file behind, no answer", "asked again: the same", times=(1, 2, 3, 4)
    ),
    "keys.given.noted": Point((f"{_K}.api",), "given, no answer", "asked again: the same", times=(1, 2, 3, 4)),
    "registry.content.stored": Point((f"{_R}.api",), "content without a version", "sent again: the same"),
    "registry.version.committed": Point((f"{_R}.api",), "version, no answer", "asked again: the same"),
    "agent.charge.held": Point((_N,), "charge held, mark behind", "the same charge, marked; trained"),
    "agent.charge.noted": Point((_N,), "charge held, nothing trained", "the same charge; trained"),
    "agent.training": Point((_N,), "leased task", "trained again under the same lease"),
    "agent.message.kept": Point((_N,), "message on disk, not sent", "sent byte for byte", times=(1, 2, 3, 4, 5)),
    "agent.message.noted": Point((_N,), "message and mark on disk, not sent", "sent byte for byte", times=(1, 5)),
    "agent.message.said": Point((_N,), "sent, not noted", "sent byte for byte", times=(1, 2, 3, 4, 5)),
    "agent.body.written": Point((_N,), "body without a row", "swept; trained again"),
    "agent.update.kept": Point((_N,), "update on disk, not sent", "sent byte for byte"),
    "agent.update.noted": Point((_N,), "update and mark on disk, not sent", "sent byte for byte"),
    "agent.update.acknowledged": Point((_N,), "receipt in memory", "sent again: the same receipt"),
    "agent.task.completed": Point((_N,), "told, not settled", "told again"),
    "blob.written": Point((f"{_A}.api", f"{_A}.worker", f"{_R}.api"), "a file in incoming", "cleared away"),
    "blob.stored": Point((f"{_A}.api", f"{_A}.worker", f"{_R}.api"), "a blob without a row", "sent again"),
    "relay.announcing": Point(_RELAYS, "events in the outbox", "the relay of any process"),
    "relay.announced": Point(_RELAYS, "announced, not marked", "announced twice: no difference"),
    "consumer.heard": Point((f"{_C}.worker", f"{_A}.worker"), "hint with a dead consumer", "claimed by another"),
    "consumer.handled": Point((f"{_C}.worker", f"{_A}.worker"), "done, not acknowledged", "done twice: no difference"),
    "database.committing": Point(_ALL, "nothing", "done again", times=(2, 5)),
    "database.committed": Point(_ALL, "what any transaction leaves", "done again: no difference", times=(2, 5)),
}

_H: Final = "keys.helper"

TWO_SERVERS: Final[dict[str, Point]] = {
    "helper.round.begun": Point((_H,), "keys made, no answer", "asked again: the same keys"),
    "aggregator.helper.begun": Point((f"{_A}.api",), "helper has begun, no round here", "opened again"),
    "helper.report.judged": Point((_H,), "verdict committed, no answer", "same question, same verdict", times=(1, 4)),
    "aggregator.reports.verified": Point((f"{_A}.worker",), "verdicts in memory", "the same questions again"),
    "helper.set.agreed": Point((_H,), "set signed, no answer", "asked again: the same signature"),
    "helper.share.made": Point((_H,), "nothing new", "asked again: the same share"),
    "aggregator.share.received": Point((f"{_A}.worker",), "share in memory", "asked again: the same share"),
}

_W: Final = (f"{_A}.worker",)

PARTS: Final[dict[str, Point]] = {
    "aggregator.parts.offered": Point(_W, "parts of a dead holder", "ignored by their fence, cleared away"),
    "aggregator.part.claimed": Point(_W, "a claim of a dead worker", "its lease ends; folded from the bodies"),
    "aggregator.part.folded": Point(_W, "half a sum in memory only", "its lease ends; folded from the bodies"),
    "aggregator.part.stored": Point(_W, "a blob without a key", "its lease ends; cleared away"),
    "aggregator.part.handed": Point(_W, "a partial sum submitted", "the holder adds it"),
    "aggregator.part.added": Point(_W, "sum in memory only, part in the way", "folded again; cleared away"),
}
"""Steps of a round that several workers share, which no round of the matrix is large enough for: they are tried in
`tests/services/aggregator` (`contributions/test_parts.py`, `test_worker_processes.py`), where two workers share one."""

CUSTODIANS: Final[dict[str, Point]] = {
    "custodian.round.begun": Point(("keys.custodian",), "key made, no answer", "asked again: the same key"),
    "custodian.set.checked": Point(("keys.custodian",), "answer committed, not given", "asked again: the same answer"),
    "custodian.sum.given": Point(("keys.custodian",), "opening noted, no sum given", "asked again: the same sum"),
}
"""Steps of a round with custodians: they are tried in `tests/services/aggregator/test_oneshot.py`."""

BESIDE: Final[dict[str, Point]] = {
    "agent.charge.settled": Point((_N,), "end of a charge written, mark behind", "marked at the start; others settled"),
}
"""Steps beside a round, some seconds after it: they are tried in `tests/services/agent/test_ledger_crashes.py`."""

SHARED: Final = (
    "coordinator.round.keyed",
    "aggregator.round.opened",
    "aggregator.update.committed",
    "aggregator.round.claimed",
    "aggregator.update.folded",
    "aggregator.step.frozen",
    "aggregator.step.witnessed",
    "aggregator.step.closed",
    "aggregator.sum.opened",
    "aggregator.round.checked",
    "aggregator.version.published",
    "aggregator.round.finished",
    "aggregator.record.given",
    "agent.update.kept",
    "agent.update.acknowledged",
)
"""Steps of all rounds that leave something else behind where there are two servers: they are tried with those too."""
