"""Steps beside the upload, as sites and the coordinator see them: say, hear the answer, be given up."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

from undersong.services.aggregator.domain.manifests import manifest_of
from undersong.services.aggregator.repository.contributions import ContributionRepository
from undersong.services.aggregator.repository.rounds import WORK_TOPIC, RoundRepository
from undersong.services.aggregator.repository.rows import Stored
from undersong.services.aggregator.repository.steps import StepRepository
from undersong.services.aggregator.steps.messages import StepMessage, StepQuestion, look, take
from undersong.shared.clock import monotonic
from undersong.shared.database import Database, Gathering, Transaction
from undersong.shared.faults import point
from undersong.shared.identity.authority import public_bytes
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.verify import Party
from undersong.shared.ids import RoundId, SiteId, digest_of
from undersong.shared.queues import Notifier, Subscription
from undersong.shared.secagg.engine import UPLOAD
from undersong.shared.secagg.engines import engine_facts

MAX_MESSAGE = 16 << 20


class Steps:
    """Use cases about single steps. `notifier` wakes those who wait for a round when one of its steps closes."""

    def __init__(self, database: Database, sealer: Sealer, notifier: Notifier) -> None:
        self._database, self._sealer, self._notifier = database, sealer, notifier
        self._messages: Gathering[StepMessage, bool] = Gathering(self._take_all)
        self._questions: Gathering[StepQuestion, bytes | None] = Gathering(self._look_all)

    async def say(
        self,
        round_id: RoundId,
        site: Party,
        step: str,
        message: AbstractAsyncContextManager[bytes],
        wait_s: float = 0.0,
        stopping: asyncio.Event | None = None,
    ) -> bytes | None:
        """Take a site's message, durably; the same bytes again change nothing. Then wait up to `wait_s` for the answer.

        `message` gives its bytes, which are released before the wait: a thousand sites wait at one time.
        None when the step is still open. Raises RoundUnknown, NotInCohort, StepUnknown, StepDiffers, StepNotOpen,
        StepClosed, SiteFellOut, RoundClosed; the last two also where the message was stored and the round went on
        without this site.
        """
        # Listen before storing: the step may close, and notify, between the commit and the first look.
        with self._notifier.listen(round_id) as subscription:
            async with message as body:
                fresh = await self._take(round_id, site, step, body)
                del body
            if wait_s <= 0:
                return None
            asking = partial(self._look, round_id, site, step)
            return await _patiently(subscription, asking, wait_s, stopping, look_first=not fresh)

    async def _take(self, round_id: RoundId, site: Party, step: str, body: bytes) -> bool:
        """Return whether the message is new."""
        sealed = self._sealer.seal(body, "step_messages", place(round_id, step, SiteId(site.name)), "body")
        message = StepMessage(round_id, step, site, digest_of(body), public_bytes(site.public_key), sealed)
        fresh = await self._messages.ask(message)
        point("aggregator.message.committed")
        return fresh

    async def _take_all(self, messages: Sequence[StepMessage]) -> list[bool | Exception]:
        return await self._database.run("step.say", lambda tx: take(tx, messages))

    async def answer(
        self, round_id: RoundId, site: Party, step: str, wait_s: float, stopping: asyncio.Event | None = None
    ) -> bytes | None:
        """Return the answer to a step, waiting for it up to `wait_s`; None when the step is still open.

        Raises RoundUnknown, NotInCohort, StepUnknown, SiteFellOut, RoundClosed.
        """
        with self._notifier.listen(round_id) as subscription:
            return await _patiently(subscription, partial(self._look, round_id, site, step), wait_s, stopping)

    async def _look(self, round_id: RoundId, site: Party, step: str) -> bytes | None:
        return await self._questions.ask(StepQuestion(round_id, step, site))

    async def _look_all(self, questions: Sequence[StepQuestion]) -> list[bytes | Exception | None]:
        return await self._database.read("step.answer", lambda tx: look(tx, questions))

    async def lose(self, round_id: RoundId, sites: Sequence[SiteId]) -> None:
        """Wait for these sites no longer; what they sent still counts. Idempotent. Raises RoundUnknown."""

        async def work(tx: Transaction) -> None:
            rows, given, steps = RoundRepository(tx), ContributionRepository(tx), StepRepository(tx, round_id)
            stored = await rows.lock(round_id)
            if not stored.round.tracks_steps or stored.round.phase.over:
                return
            # Each site is subtracted once: `steps.lose` says whether it is new, under the lock on the round.
            cohort = set(manifest_of(stored.manifest).cohort)
            fresh = [site for site in sorted(set(sites) & cohort) if await steps.lose(site)]
            if not fresh:
                return
            await rows.note(round_id, "sites.lost", "coordinator", {"sites": fresh})
            awaited = [site for site in fresh if await self._awaited(given, steps, stored, site)]
            if awaited and await steps.miss_fewer(len(awaited)) <= 0:
                await tx.emit(WORK_TOPIC, "step.complete", round_id)

        await self._database.run("round.lose", work)

    @staticmethod
    async def _awaited(given: ContributionRepository, steps: StepRepository, stored: Stored, site_id: SiteId) -> bool:
        """Return whether the present step waits for this site."""
        order, step = engine_facts(manifest_of(stored.manifest).engine).steps, stored.round.step
        if step not in order:
            return False
        if step == UPLOAD:
            said = await given.known(stored.round.id, site_id) is not None
        else:
            said = await steps.digest(step, site_id) is not None
        before = order.index(step) - 1
        return not said and (before < 0 or await steps.answered(order[before], site_id))


def place(round_id: RoundId, step: str, site_id: SiteId) -> str:
    """Return the row that a message's sealing is bound to."""
    return f"{round_id}/{step}/{site_id}"


async def _patiently(
    subscription: Subscription,
    look: Callable[[], Awaitable[bytes | None]],
    wait_s: float,
    stopping: asyncio.Event | None,
    *,
    look_first: bool = True,
) -> bytes | None:
    """Look for an answer, and again at every notification, for up to `wait_s`."""
    until = monotonic() + wait_s
    found = await look() if look_first else None
    # A notification is a hint: only what SQL says is an answer, so lost and false notifications do no harm.
    while found is None and not (stopping and stopping.is_set()) and (left_s := until - monotonic()) > 0:
        await subscription.wait(left_s)
        found = await look()
    return found
