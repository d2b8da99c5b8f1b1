"""Drive one worker's rounds: claim, fold updates as they come, conclude, publish, release.

Each round is driven by one task in one process, held by a lease in SQL. A task that dies, or loses its lease, leaves
nothing but committed steps; the worker that claims the round next begins where they end.
"""

import asyncio
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from undersong.services.aggregator.contributions.bodies import local_file
from undersong.services.aggregator.contributions.folding import Folding, code_of
from undersong.services.aggregator.contributions.parts import RoundHolder, RoundParts
from undersong.services.aggregator.domain.manifests import manifest_of
from undersong.services.aggregator.domain.refusals import WrongLength
from undersong.services.aggregator.domain.rounds import (
    BODY_LOST,
    Move,
    Phase,
    Reason,
    due,
    may_send_again,
)
from undersong.services.aggregator.domain.steps import OPENED, step_due
from undersong.services.aggregator.driver.closing import Closing, asked, log_faults
from undersong.services.aggregator.driver.hold import Hold, form_of
from undersong.services.aggregator.driver.publication import (
    ComputedRound,
    Publication,
    RoundFailed,
    RoundLost,
    conclude,
    set_aside,
)
from undersong.services.aggregator.driver.records import Records
from undersong.services.aggregator.driver.verification import Verification
from undersong.services.aggregator.peers.parties import Parties
from undersong.services.aggregator.repository.contributions import Contribution, ContributionRepository
from undersong.services.aggregator.repository.rounds import RoundRepository
from undersong.services.aggregator.repository.rows import Stored
from undersong.services.aggregator.repository.steps import StepRepository
from undersong.services.aggregator.rounds.lifecycle import Rounds, RoundView, apply
from undersong.shared.blobs import BlobStore
from undersong.shared.clock import monotonic
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Refusal, Unavailable
from undersong.shared.faults import point
from undersong.shared.identity.sealing import Sealer
from undersong.shared.ids import RoundId
from undersong.shared.queues import Notifier, Subscription
from undersong.shared.secagg.engine import UPLOAD
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.telemetry.metrics import SECAGG_FAILURES, UPDATES
from undersong.shared.telemetry.traces import continue_trace

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
MAX_FAILURES: Final = 10
_REST_S: Final = 1.0  # after a failure, times its number: a sick round does not take a worker for itself
_CLOCKS_APART_S: Final = 0.2
_PUBLISH_PAUSE_S: Final = 0.5
_LONGEST_PUBLISH_PAUSE_S: Final = 10.0


class RoundDriver:
    """Drives rounds; `worker_id` names this process start."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        rounds: Rounds,
        publication: Publication,
        sealer: Sealer,
        notifier: Notifier,
        closing: Closing,
        records: Records,
        verification: Verification,
        parties: Parties,
        parts: RoundParts,
        *,
        worker_id: str,
        lease_s: float,
    ) -> None:
        self._database, self._blobs, self._sealer, self._notifier = database, blobs, sealer, notifier
        self._rounds, self._publication = rounds, publication
        self._closing, self._records, self._verification = closing, records, verification
        self._parts, self._parties = parts, parties
        self._handing_in: set[asyncio.Task[None]] = set()
        self._worker_id, self._lease = worker_id, timedelta(seconds=lease_s)
        self._driving: dict[RoundId, asyncio.Task[None]] = {}

    def wake(self, round_id: RoundId) -> bool:
        """Look at the round, to which something happened; True when no task here was driving it."""
        self._notifier.notify_local(round_id)
        if round_id in self._driving:
            return False
        task = asyncio.create_task(self.drive(round_id), name=f"round {round_id}")
        self._driving[round_id] = task
        task.add_done_callback(lambda _: self._driving.pop(round_id, None))
        return True

    async def stop(self) -> None:
        """Release all rounds, so that another worker can claim them at once."""
        tasks = [*self._driving.values(), *self._handing_in]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def drive(self, round_id: RoundId) -> None:
        """Look after a round until it ends; returns at once when another worker does."""
        trace = await self._database.read("round.trace", lambda tx: RoundRepository(tx).trace(round_id))
        with (
            structlog.contextvars.bound_contextvars(round_id=round_id),
            continue_trace(trace, "round.look_after", {"round_id": round_id}),
            self._notifier.listen(round_id) as subscription,
        ):
            hold = await self.claim(round_id)
            if hold is None:
                return
            rest_s, failed = 0.0, False
            try:
                while await self.turn(hold, subscription):
                    pass
            except RoundLost as error:
                log.info("round.lost", reason=str(error))
            except RoundFailed as error:
                SECAGG_FAILURES.labels("conclude").inc()
                log.warning("round.failed", reason=str(error.reason), detail=str(error))
                log_faults(error.faults)
                await self._rounds.fail(round_id, error.reason, error.faults)
            except Unavailable as error:
                rest_s = error.retry_after_s or _REST_S
                log.warning("round.waits", reason=error.detail)
            except Exception:
                failed, rest_s = True, _REST_S
                log.exception("round.stumbled")
            finally:
                await asyncio.shield(self._release(hold, rest_s, failed=failed))

    async def claim(self, round_id: RoundId) -> Hold | None:
        """Take the round; None when it has ended or a living worker holds it."""
        stored = await self._database.run(
            "round.claim", lambda tx: RoundRepository(tx).claim(round_id, self._worker_id, self._lease)
        )
        if stored is None or stored.engine_secret is None:
            return None
        point("aggregator.round.claimed")
        # A round on which workers fail unexpectedly would otherwise be tried without end.
        if stored.failures >= MAX_FAILURES:
            await self._rounds.fail(round_id, Reason.GAVE_UP)
            return None
        secret = self._sealer.open(stored.engine_secret, "rounds", round_id, "engine_secret")
        folding = Folding(manifest_of(stored.manifest), secret)
        return Hold(round_id, stored.fence, folding, self._renewal())

    async def turn(self, hold: Hold, subscription: Subscription) -> bool:
        """Do all that can be done now, then wait for more; False when the round has ended."""
        # Every turn decides from SQL alone, so that a turn after a crash, or by another worker, does the same.
        await self._renew(hold)
        view = await self._rounds.view(hold.round_id)
        if view.stored.round.phase.over:
            return False
        if view.stored.fence != hold.fence:
            raise RoundLost("another worker has claimed the round")
        changed = await self._know_form(hold, view) or await self.fold(hold, view, subscription)
        if changed or due(view.stored.round, view.now) is not None:
            moved = await self._rounds.evaluate(hold.round_id)
            if moved.version == view.stored.version and not changed:  # the database's clock is behind ours
                await subscription.wait(_CLOCKS_APART_S)
            return True
        if step_due(view.stored.round, view.now):
            hold.folding.secret = await self._closing.close(view.stored, hold.fence, hold.folding.secret)
            return True
        if view.stored.round.phase is Phase.COLLECTING or view.stored.round.step not in (None, OPENED):
            await subscription.wait(self._patience(view))
            return True
        await self.conclude(hold, view.stored)
        self._hand_in(hold.round_id)
        return False

    def _hand_in(self, round_id: RoundId) -> None:
        """Give the record to keys, beside whatever comes next; the sweeper does it where this fails."""

        async def hand_in() -> None:
            try:
                await self._records.hand_in(round_id)
            except Unavailable as error:
                log.warning("record.waits", reason=error.detail)

        task = asyncio.create_task(hand_in(), name=f"record of {round_id}")
        self._handing_in.add(task)
        task.add_done_callback(self._handing_in.discard)

    async def fold(self, hold: Hold, view: RoundView, subscription: Subscription) -> bool:
        """Add the accepted contributions that the sum lacks; True when the round must be looked at again at once.

        Then some of them had to be rejected, or other workers took part, and notifications came meanwhile. Nothing is
        folded before the form of the round's updates is known.
        """
        if hold.folding.length is None and hold.folding.manifest.encoding is not None:
            return False
        # A contribution that is in the sum was rejected since: the sum is made anew without it.
        if hold.folding.misfits(view.contributions):
            hold.folding = Folding(hold.folding.manifest, hold.folding.secret, length=hold.folding.length)
        if await self._verify(hold, view):
            return True
        waiting, again = hold.folding.missing(view.contributions), False
        if self._parts.worth(view.stored, hold.folding, waiting):
            holder = RoundHolder(hold.fence, hold.folding, lambda c: self._add(hold, c), lambda: self._renew(hold))
            await self._parts.share(view.stored, holder, waiting, subscription)
            waiting, again = hold.folding.missing(view.contributions), True
        for contribution in waiting:
            try:
                await self._add(hold, contribution)
            except Refusal as refusal:
                again = True
                await self._reject(hold, contribution, refusal)
            await self._renew(hold)
        return again

    async def _add(self, hold: Hold, contribution: Contribution) -> None:
        async with self._file(contribution) as path:
            await asyncio.to_thread(hold.folding.add, contribution, path)
            point("aggregator.update.folded")

    async def _verify(self, hold: Hold, view: RoundView) -> bool:
        """Have new reports verified, where a second server does so; True when some of them had to be rejected.

        Once the set is frozen all its members were verified, and only the sum is to be made.
        """
        if view.frozen or not engine_facts(hold.folding.manifest.engine).second_server:
            return False
        rejected = False
        waiting = [c for c in hold.folding.missing(view.contributions) if c.id not in hold.verified]
        if not waiting:
            return False
        verdicts = self._verification.verify(hold.folding, waiting, self._file, lambda: self._renew(hold))
        async with aclosing(verdicts):
            async for contribution, refusal in verdicts:
                if refusal is None:
                    hold.verified.add(contribution.id)
                else:
                    rejected = True
                    await self._reject(hold, contribution, refusal)
        return rejected

    async def _reject(self, hold: Hold, contribution: Contribution, refusal: Refusal) -> None:
        code = code_of(refusal)
        log.warning("update.rejected", site_id=contribution.site_id, code=code, detail=refusal.detail)
        if code == BODY_LOST:
            await set_aside(self._blobs, contribution.digest)

        async def work(tx: Transaction) -> None:
            rows = RoundRepository(tx)
            stored = await rows.lock(hold.round_id)
            if stored.fence != hold.fence or stored.round.phase.over:
                raise RoundLost("the round changed hands while a body was examined")
            frozen = await StepRepository(tx, hold.round_id).frozen(UPLOAD) if stored.round.tracks_steps else None
            # The witness signed the set with this site in it: there is no sum over a smaller set any more.
            if frozen is not None:
                raise RoundFailed(Reason.UPDATE_LOST, f"the update of {contribution.site_id} cannot be used any more")
            given = ContributionRepository(tx)
            if code == BODY_LOST and may_send_again(stored.round, await rows.tx.now()):  # not the site's fault
                taken = await given.lose(hold.round_id, contribution.id, refusal.detail)
                if taken:  # a move also where it collects already: a `close` that is on its way does not count any more
                    await apply(rows, stored, Move(Phase.COLLECTING))
            else:
                taken = await given.reject(hold.round_id, contribution.id, code, refusal.detail)
            if taken:
                detail = {"code": code, "digest": contribution.digest}
                await rows.note(hold.round_id, "update.rejected", contribution.site_id, detail)

        await self._database.run("update.reject", work)
        UPDATES.labels(f"rejected_{code.replace('-', '_')}").inc()

    async def conclude(self, hold: Hold, stored: Stored) -> None:
        """From a frozen round whose bodies are all folded to its end."""
        publication = self._publication
        if stored.round.phase in (Phase.FROZEN, Phase.AGGREGATING):
            stored = await publication.begin(hold.round_id, hold.fence)
            outcome = await self.outcome(hold, stored)
            point("aggregator.sum.opened")
            stored = await publication.check(stored, hold.fence, outcome)
            point("aggregator.round.checked")
        # `checked` is the intent to publish: from here on the round ends with exactly this result, which is computed
        # again from the bodies where its file was lost.
        if stored.round.phase is Phase.CHECKED:
            if not await publication.has_content(stored):
                if hold.folding.missing((await self._rounds.view(hold.round_id)).contributions):
                    raise Unavailable("the round's model was lost as it was stored, and is made again from the bodies")
                await publication.restore(stored, await self.outcome(hold, stored))
            await self._publish(hold, stored)

    async def outcome(self, hold: Hold, stored: Stored) -> ComputedRound:
        """Return the round's outcome; computed in a thread."""
        if hold.base is None:
            hold.base = await self._publication.base(stored)
        asks = hold.folding.engine.server.sum_asks(hold.folding.server_round)
        if asks and not hold.folding.shares:
            hold.folding.shares = await asked(self._parties, "sum", stored, asks)
            point("aggregator.share.received")
        if hold.folding.manifest.buffered:
            given = (await self._rounds.view(hold.round_id)).contributions
            hold.folding.sites = frozenset(each.site_id for each in given if each.id in hold.folding.folded)
        return await asyncio.to_thread(conclude, stored, hold.folding, hold.base)

    async def _publish(self, hold: Hold, stored: Stored) -> None:
        """Ask the registry until it answers, as long as the round has time."""
        pause_s = _PUBLISH_PAUSE_S
        while True:
            try:
                version_id = await self._publication.publish(stored)
                point("aggregator.version.published")
                break
            except Unavailable as error:
                log.warning("publication.waits", reason=error.detail, pause_s=pause_s)
            await asyncio.sleep(min(pause_s, self._lease.total_seconds() / 3))
            pause_s = min(2 * pause_s, _LONGEST_PUBLISH_PAUSE_S)
            # The registry may have published before its answer was lost; asking again gives the same version.
            await self._renew(hold)
            stored = await self._rounds.evaluate(hold.round_id)
            if stored.round.phase.over:
                raise RoundLost(f"the round is {stored.round.phase}")
        await self._publication.finish(stored, hold.fence, version_id)
        point("aggregator.round.finished")

    async def _know_form(self, hold: Hold, view: RoundView) -> bool:
        """Learn the form of the round's updates, and reject those that have another; True when the round has changed.

        It follows from the manifest or its model; where neither says it, from what most sites sent.
        """
        stored, manifest = view.stored, hold.folding.manifest
        if manifest.encoding is None:
            return False
        form = await form_of(hold, view, self._publication)
        if form is None:
            return False
        if stored.length is None:
            await self._database.run("round.form", lambda tx: RoundRepository(tx).fix_form(hold.round_id, form))
        hold.folding.length = form.length
        misfits = [c for c in view.contributions if c.code is None and c.form not in (None, form)]
        for contribution in misfits:
            detail = f"the update has another length or layout than this round's, {form.length} words"
            await self._reject(hold, contribution, WrongLength(detail))
        return bool(misfits) or stored.length is None

    async def _renew(self, hold: Hold) -> None:
        if monotonic() < hold.renew_at:
            return
        if not await self._database.run(
            "round.renew",
            lambda tx: RoundRepository(tx).renew(hold.round_id, hold.fence, self._lease, len(hold.folding.folded)),
        ):
            raise RoundLost("another worker has claimed the round")
        hold.renew_at = self._renewal()

    async def _release(self, hold: Hold, rest_s: float, *, failed: bool) -> None:
        rest = timedelta(seconds=rest_s)
        try:
            await self._database.run(
                "round.release",
                lambda tx: RoundRepository(tx).release(hold.round_id, hold.fence, rest=rest, failed=failed),
            )
        except Unavailable:
            log.warning("round.not_released")  # its lease runs out by itself

    def _renewal(self) -> float:
        return monotonic() + self._lease.total_seconds() / 3

    def _patience(self, view: RoundView) -> float:
        stored = view.stored
        until = stored.round.deadline
        if stored.round.step_deadline is not None:
            until = stored.round.step_deadline
        left_s = (until - view.now).total_seconds()
        return max(0.01, min(self._lease.total_seconds() / 3, left_s))

    def _file(self, contribution: Contribution) -> AbstractAsyncContextManager[Path]:
        return local_file(self._blobs, contribution.digest)
