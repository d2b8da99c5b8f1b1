"""One case of the matrix: hurt, let everything recover, and compare the databases of all parties.

A failure is: a round that does not end; a job that does not end; an update counted twice, or acknowledged and lost; a
sum of others than the receipts say; two signatures for one attempt; work, bodies or blobs that are not needed and not
cleared away; a next round that does not begin. No failure is: a round that is aborted with a reason and tried again, a
site that is left out of a round because it was away, time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from tests.simulation.arena import Arena, NotReachedError, eventually
from tests.simulation.cases import Case
from tests.simulation.ledger import Ledger
from tests.simulation.verdicts import Verdicts

REACHED_WITHIN_S: Final = 60.0
ENDS_WITHIN_S: Final = 300.0  # two rounds, each at worst its deadline, the grace after it, and two more attempts
SETTLED_WITHIN_S: Final = 60.0


@dataclass(frozen=True)
class Outcome:
    """What became of a case: how many rounds got a sum, why others did not, and what the platform did wrong.

    `tried` is False where the step was never come to: then nothing was tried. `at` and `revision`: when, and with what.
    """

    case: Case
    tried: bool
    seconds: float
    job: str = ""
    published: int = 0
    aborted: Sequence[str] = ()
    faults: Sequence[str] = ()
    at: str = ""
    revision: str = ""


def run(arena: Arena, case: Case) -> Outcome:
    """Try the case; never raises for what the platform does."""
    began = time.monotonic()
    ledger = Ledger(arena)
    with Verdicts(arena, forgets=case.forgets) as verdicts:
        outcome = _tried(arena, ledger, case, began)
        return replace(outcome, faults=[*outcome.faults, *verdicts.faults()])


def _tried(arena: Arena, ledger: Ledger, case: Case, began: float) -> Outcome:
    job_id, tried = _hurt(arena, case)
    try:
        job = arena.wait(job_id, ENDS_WITHIN_S)
        state, faults = f"{job.state}: {job.reason}", [] if job.reason else [f"the job {job.state} without a reason"]
        if job.state in ("failed", "paused") and not case.may_fail:
            faults.append(f"the job is {job.state}: {job.reason}")
    except TimeoutError as error:
        state, faults = "hangs", [str(error)]
    seconds = time.monotonic() - began
    arena.calm()
    faults += settled(ledger)
    entries = ledger.entries(job_id)
    faults += [fault for entry in entries for fault in entry.faults()]
    published = sum(entry.phase == "published" for entry in entries)
    aborted = [str(entry.reason) for entry in entries if entry.phase != "published"]
    return Outcome(case, tried, seconds, state, published, aborted, faults)


def _hurt(arena: Arena, case: Case) -> tuple[str, bool]:
    """Submit a job and do to it what the case says; the job's id, and whether the step was ever come to."""
    if not case.point:
        job = arena.submit(case.name, engine=case.engine)
        try:
            case.meanwhile(arena)
        except NotReachedError:
            return job.id, False
        return job.id, True
    arena.arm(case.process, case.point, case.action)
    tried = True
    with arena.submitting(case.name, engine=case.engine) as job_id:
        try:
            arena.wait_reached(case.process, case.point, REACHED_WITHIN_S)
            case.meanwhile(arena)
        except NotReachedError:
            tried = False
        finally:
            arena.disarm(case.process, case.point)
        return job_id(), tried


def settled(ledger: Ledger, within_s: float = SETTLED_WITHIN_S) -> list[str]:
    """What is left undone, after a while."""
    eventually(lambda: not (ledger.unfinished() or ledger.bodies()), within_s)
    bodies = [f"the body {digest[:8]} of an ended round is still there" for digest in ledger.bodies()]
    return [*ledger.unfinished(), *bodies, *ledger.witness_faults()]


async def collect(arena: Arena) -> list[str]:
    """Clear away what no round and no version needs, as the workers do; names of blobs that are left all the same."""
    return [*await _collect_aggregator(arena), *await _collect_registry(arena)]


async def _collect_aggregator(arena: Arena) -> list[str]:
    from undersong.services.aggregator.driver.maintenance import RoundMaintenance
    from undersong.services.aggregator.repository.rounds import RoundRepository
    from undersong.services.aggregator.tables import common
    from undersong.shared.blobs import BlobStore
    from undersong.shared.database import Database

    database = Database(arena.async_database_url("aggregator"), common)
    blobs = BlobStore.open(f"file://{arena.blobs('aggregator')}")
    try:
        await RoundMaintenance(database, blobs, None, None, None, None).clear(timedelta())  # type: ignore[arg-type]
        left = [blob.digest async for blob in blobs.list(timedelta())]
        used = [await database.read("used", lambda tx, d=d: RoundRepository(tx).in_use(d)) for d in left]
    finally:
        await database.close()
    return [f"aggregator keeps {d[:8]}, which no row needs" for d, needed in zip(left, used, strict=True) if not needed]


async def _collect_registry(arena: Arena) -> list[str]:
    from undersong.services.registry.contents import Contents
    from undersong.services.registry.tables import Base
    from undersong.shared.blobs import BlobStore
    from undersong.shared.database import Database

    database = Database(arena.async_database_url("registry"), Base.common)
    blobs = BlobStore.open(f"file://{arena.blobs('registry')}")
    try:
        contents = Contents(database, blobs, limit=1 << 30)
        while await contents.collect(timedelta()):
            pass
        left = {blob.digest async for blob in blobs.list(timedelta())}
    finally:
        await database.close()
    versions = {row.content_digest for row in Ledger(arena).rows("registry", "SELECT content_digest FROM versions")}
    lost = [f"registry has lost {digest[:8]}" for digest in versions - left]
    return [f"registry keeps {digest[:8]}, which no row needs" for digest in left - versions] + lost
