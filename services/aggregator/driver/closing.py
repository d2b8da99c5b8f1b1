"""Closing a step: the engine's part, other parties where it asks them, and one transaction at the end.

Where other parties are asked, whom the step is closed over is committed before; after a crash exactly that is asked
for again. Everything else may be computed any number of times: nothing of it is seen before the last transaction.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import structlog

from undersong.services.aggregator.contributions.bodies import opener
from undersong.services.aggregator.domain.manifests import manifest_of
from undersong.services.aggregator.domain.rounds import Phase, Reason
from undersong.services.aggregator.domain.steps import OPENED, step_after, step_deadline
from undersong.services.aggregator.driver.publication import RoundFailed, RoundLost, held
from undersong.services.aggregator.peers.parties import Parties, Stage, refusal_reason
from undersong.services.aggregator.peers.peer import AskRefused
from undersong.services.aggregator.repository.contributions import ContributionRepository
from undersong.services.aggregator.repository.faults import FaultRepository
from undersong.services.aggregator.repository.rounds import RoundRepository
from undersong.services.aggregator.repository.rows import Stored
from undersong.services.aggregator.repository.steps import Frozen, Next, StepRepository
from undersong.services.aggregator.steps.exchange import place
from undersong.shared.blobs import BlobStore
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Refusal
from undersong.shared.faults import point
from undersong.shared.identity.sealing import Sealer
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.secagg.engine import UPLOAD, Asks, Closed, Fault, Replies, RoundSpoiled, ServerRound
from undersong.shared.secagg.engines import engine_facts, engine_named
from undersong.shared.telemetry.metrics import SECAGG_FAILURES

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Table:
    """What a step is closed over, as it was read."""

    said: Mapping[SiteId, bytes]
    keys: Mapping[SiteId, bytes]
    frozen: Frozen | None


class Closing:
    """Ends steps for the worker that holds the round."""

    def __init__(
        self, database: Database, blobs: BlobStore, sealer: Sealer, parties: Parties, *, patience: timedelta
    ) -> None:
        self._database, self._sealer, self._patience = database, sealer, patience
        self._blobs, self._parties = blobs, parties

    async def close(self, stored: Stored, fence: int, secret: bytes) -> bytes:
        """End the present step; the engine's state after it. RoundFailed, RoundLost, or Unavailable: ask again."""
        step, manifest = stored.round.step or "", manifest_of(stored.manifest)
        table = await self._database.read("step.table", lambda tx: self._read(tx, stored))
        _check_members(stored, table)
        digests = {site: Digest(said[:32].hex()) for site, said in table.said.items()} if step == UPLOAD else {}
        server_round = ServerRound(manifest, secret, table.keys, body=opener(self._blobs, digests))
        # What other parties sign must not change: the set is committed before they are asked, so a worker that takes
        # over after a crash asks the same question and gets the same signature.
        closed = await self._ended(server_round, step, table.said, None)
        if closed.asks:
            if table.frozen is None:
                await self._freeze(stored, fence, table)
            point("aggregator.step.frozen")
        # The engine may need several rounds of questions; its state between them is in memory only, as each answer can
        # be had again.
        while closed.asks:
            replies = await self._ask(stored, closed.asks)
            point("aggregator.step.witnessed")
            closed = await self._ended(replace(server_round, secret=closed.secret), step, table.said, replies)
        await self._commit(stored, fence, table, closed)
        point("aggregator.step.closed")
        log.info("step.closed", step=step, sites=len(table.said), answers=len(closed.answers))
        for site, dealers in closed.complaints.items():
            log.warning("shares.complaint", step=step, site_id=site, dealers=list(dealers))
        log_faults(closed.faults, step=step)
        return closed.secret

    async def _read(self, tx: Transaction, stored: Stored) -> _Table:
        round_id, step = stored.round.id, stored.round.step or ""
        steps = StepRepository(tx, round_id)
        frozen = await steps.frozen(step)
        if step == UPLOAD:
            standing = [c for c in await ContributionRepository(tx).of(round_id) if c.code is None]
            said = {c.site_id: bytes.fromhex(c.digest) + (c.signature or b"") for c in standing}
        else:
            said = {m.site_id: self._open(round_id, step, m.site_id, m.sealed) for m in await steps.messages(step)}
            if frozen is not None:
                said = {site: body for site, body in said.items() if site in frozen.members}
        order = engine_facts(manifest_of(stored.manifest).engine).steps
        return _Table(said, await steps.keys(order[0]), frozen)

    def _open(self, round_id: RoundId, step: str, site_id: SiteId, sealed: bytes | None) -> bytes:
        if sealed is None:
            raise RoundLost(f"step {step} was closed by another worker")
        return self._sealer.open(sealed, "step_messages", place(round_id, step, site_id), "body")

    async def _ended(
        self, server_round: ServerRound, step: str, said: Mapping[SiteId, bytes], replies: Replies | None
    ) -> Closed:
        engine = engine_named(server_round.manifest.engine)
        try:
            return await asyncio.to_thread(engine.server.close, server_round, step, said, replies)
        except Refusal as refusal:  # a pure function of what is stored: asking again gives the same
            SECAGG_FAILURES.labels(step).inc()
            faults = refusal.faults if isinstance(refusal, RoundSpoiled) else ()
            raise RoundFailed(_reason(refusal), f"step {step}: {refusal.detail}", faults) from refusal

    async def _freeze(self, stored: Stored, fence: int, table: _Table) -> None:
        """Fix whom the step is closed over; with the upload's set also which row of the job's noise its sum gets."""
        step, row = stored.round.step or "", manifest_of(stored.manifest).noise_row

        async def work(tx: Transaction) -> bool:
            await self._at_step(tx, stored, fence)
            steps = StepRepository(tx, stored.round.id)
            if step == UPLOAD and row is not None and not await steps.take_row(stored.job_id, row):
                return False
            await steps.freeze(step, table.said)
            return True

        if not await self._database.run("step.freeze", work):
            raise RoundFailed(Reason.ROW_TAKEN, f"row {row} of the job's noise, or a later one, is another sum's")

    async def _ask(self, stored: Stored, asks: Asks) -> Replies:
        return await asked(self._parties, "close", stored, asks)

    async def _commit(self, stored: Stored, fence: int, table: _Table, closed: Closed) -> None:
        round_, step = stored.round, stored.round.step or ""
        order = engine_facts(manifest_of(stored.manifest).engine).steps
        following = step_after(order, step)
        sealed = self._sealer.seal(closed.secret, "rounds", round_.id, "engine_secret")

        async def work(tx: Transaction) -> None:
            await self._at_step(tx, stored, fence)
            now, steps = await tx.now(), StepRepository(tx, round_.id)
            deadline = None
            if following != OPENED:
                deadline = step_deadline(order, following, stored.opened_at, round_.deadline, now, self._patience)
            # Members, answers, the next step and the engine's state are one transaction: a site that has an answer can
            # always send its next message.
            await steps.freeze(step, table.said)
            await steps.close(step, closed.answers, Next(following, deadline, sealed))
            detail: dict[str, Any] = {"step": step, "sites": len(table.said), "answers": len(closed.answers)}
            if closed.complaints:
                detail["complaints"] = {site: list(dealers) for site, dealers in sorted(closed.complaints.items())}
            await RoundRepository(tx).note(round_.id, "step.closed", "aggregator", detail)
            await FaultRepository(tx).add(round_.id, closed.faults)

        await self._database.run("step.close", work)

    @staticmethod
    async def _at_step(tx: Transaction, stored: Stored, fence: int) -> None:
        # The fence says that no other worker has claimed the round since, the step that this worker has not lost time.
        found = await held(RoundRepository(tx), stored.round.id, fence)
        if found.round.step != stored.round.step:
            raise RoundLost(f"the round is at step {found.round.step}")


def log_faults(faults: Iterable[Fault], **where: str) -> None:
    """Log the sites that broke the protocol, and, under another name, those of which it is only said."""
    for fault in faults:
        event = "site.at_fault" if fault.proved else "site.shares_disputed"
        log.warning(event, site_id=fault.site_id, code=fault.code, detail=fault.detail, **where)


async def asked(parties: Parties, stage: Stage, stored: Stored, asks: Asks) -> Replies:
    """Return the other parties' answers; RoundFailed where they refuse, Unavailable: ask again."""
    signed, reason = stored.signed_manifest(), refusal_reason(asks)
    if signed is None:
        raise RoundFailed(reason, "the manifest's signature was not stored")
    try:
        return await parties.ask(stage, signed, asks)
    except AskRefused as refusal:
        raise RoundFailed(reason, refusal.detail) from refusal


def _check_members(stored: Stored, table: _Table) -> None:
    """Nothing is asked or opened over fewer sites than the manifest demands, nor over others than were fixed."""
    round_, step = stored.round, stored.round.step
    if table.frozen is not None and set(table.frozen.members) != set(table.said):
        raise RoundFailed(Reason.UPDATE_LOST, f"step {step} was fixed over other sites than there are now")
    # After the upload the set is fixed, and the engine itself knows how many answers open its sum.
    needed = round_.min_cohort if round_.phase is Phase.COLLECTING or step == UPLOAD else 1
    if len(table.said) < needed:
        raise RoundFailed(Reason.QUORUM, f"{len(table.said)} of {needed} sites came to step {step}")


def _reason(refusal: Refusal) -> Reason:
    try:
        return Reason(refusal.slug())
    except ValueError:
        return Reason.STEP_UNUSABLE
