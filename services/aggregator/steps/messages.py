"""Messages and questions of many sites, in one transaction.

All sites of a round say something in each step, and all hear the answer at the same moment: what comes together is
taken and answered together.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from undersong.services.aggregator.domain.manifests import check_member, manifest_of
from undersong.services.aggregator.domain.refusals import (
    BodyLost,
    DealerAtFault,
    RoundClosed,
    RoundUnknown,
    SiteFellOut,
    StepDiffers,
    StepUnknown,
)
from undersong.services.aggregator.domain.rounds import BODY_LOST
from undersong.services.aggregator.domain.steps import admit_step
from undersong.services.aggregator.repository.contributions import ContributionRepository
from undersong.services.aggregator.repository.faults import FaultRepository
from undersong.services.aggregator.repository.rounds import WORK_TOPIC, RoundRepository
from undersong.services.aggregator.repository.steps import Said, StepRepository, Turn
from undersong.shared.database import Transaction
from undersong.shared.errors import Refusal
from undersong.shared.identity.verify import Party
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.secagg.engine import UPLOAD
from undersong.shared.secagg.engines import engine_facts


@dataclass(frozen=True, slots=True)
class StepQuestion:
    """A site wants to know what a step of a round came to."""

    round_id: RoundId
    step: str
    site: Party

    @property
    def site_id(self) -> SiteId:
        """The site that asks."""
        return SiteId(self.site.name)


@dataclass(frozen=True, slots=True)
class StepMessage(StepQuestion):
    """A site says something in a step: `digest` of the plain bytes, the key that signed them, and them sealed."""

    digest: Digest
    public_key: bytes
    sealed: bytes


Q = TypeVar("Q", bound=StepQuestion)
A = TypeVar("A")


async def take(tx: Transaction, messages: Sequence[StepMessage]) -> list[bool | Exception]:
    """Return whether each message is new, or why it is refused: RoundUnknown, NotInCohort, StepUnknown, StepDiffers,
    StepNotOpen, StepClosed, SiteFellOut, RoundClosed.
    """
    return await _by_round(messages, lambda round_id, some: _take_in(tx, round_id, some))


async def _take_in(tx: Transaction, round_id: RoundId, messages: Sequence[StepMessage]) -> list[bool | Exception]:
    steps = StepRepository(tx, round_id)
    answers: list[bool | Exception] = []
    rows: dict[tuple[str, SiteId], StepMessage] = {}
    awaited = 0
    try:
        turn, now = await steps.turn(), await tx.now()
    except RoundUnknown as unknown:
        return [unknown] * len(messages)
    for message in messages:
        place = message.step, message.site_id
        try:
            fresh, lost = await _admit(steps, turn, now, message, rows.get(place))
        except Refusal as refusal:
            answers.append(refusal)
            continue
        answers.append(fresh)
        if fresh:
            rows[place] = message
            awaited += not lost
    if rows:
        await steps.say([(m.step, Said(m.site_id, m.public_key, m.sealed), m.digest) for m in rows.values()])
    # A site that was given up is not counted in `step_missing` any more; its message still counts for the step.
    if awaited and await steps.miss_fewer(awaited) <= 0:
        await tx.emit(WORK_TOPIC, "step.complete", round_id)
    return answers


async def _admit(
    steps: StepRepository, turn: Turn, now: datetime, message: StepMessage, other: StepMessage | None
) -> tuple[bool, bool]:
    """Return whether the message is new, and whether its site was given up; `other` came just before it."""
    step, site_id = message.step, message.site_id
    order = order_of(turn.round.id, turn.manifest, message.site)
    seen = await steps.seen(step, order[order.index(step) - 1] if step in order[1:] else None, site_id)
    said = seen.digest if other is None else other.digest
    if said is not None:
        # The first message is final, whatever the state of the step: a site that could replace it could show different
        # sites different secrets. The same bytes again are a retry after a lost answer.
        if said != message.digest:
            raise StepDiffers(f"{site_id} has sent the message {said[:16]}… in step {step}; the first one counts")
        return False, seen.lost
    admit_step(turn.round, order, step, now, frozen=seen.frozen)
    # A site without an answer to the step before has not seen what this step's message must depend on.
    if seen.left_behind:
        raise SiteFellOut(f"the round went on before step {step} without {site_id}")
    return True, seen.lost


async def look(tx: Transaction, questions: Sequence[StepQuestion]) -> list[bytes | Exception | None]:
    """Return the answer to each, None while its step is open, or why there will be none: RoundUnknown, NotInCohort,
    StepUnknown, SiteFellOut, DealerAtFault, RoundClosed.
    """
    return await _by_round(questions, lambda round_id, some: _look_in(tx, round_id, some))


async def _look_in(
    tx: Transaction, round_id: RoundId, questions: Sequence[StepQuestion]
) -> list[bytes | Exception | None]:
    steps = StepRepository(tx, round_id)
    found: dict[tuple[str, SiteId], bytes] = {}
    for step in sorted({each.step for each in questions}):
        sites = [each.site_id for each in questions if each.step == step]
        found |= {(step, site): body for site, body in (await steps.answers(step, sites)).items()}
    answers: list[bytes | Exception | None] = []
    for each in questions:
        answer = found.get((each.step, each.site_id))
        answers.append(answer if answer is not None else await _why_none(tx, steps, each))
    return answers


async def _why_none(tx: Transaction, steps: StepRepository, asked: StepQuestion) -> Exception | None:
    """Why there is no answer and will be none; None where there may be one."""
    try:
        stored = await RoundRepository(tx).get(asked.round_id)
        order = order_of(asked.round_id, stored.manifest, asked.site)
        if asked.step not in order or not stored.round.tracks_steps:
            raise StepUnknown(f"this round's engine gives no answers in a step {asked.step}")
        # The most final reason is told: an ended round before a closed step, a closed step before a lost body.
        if stored.round.phase.over and (found := await _at_fault(tx, asked.round_id, asked.site_id)) is not None:
            raise found
        if stored.round.phase.over:
            why = f": {stored.reason}" if stored.reason else ""
            raise RoundClosed(f"the round is {stored.round.phase}{why}")
        frozen = await steps.frozen(asked.step)
        # Answers are stored in the transaction that closes the step: none after it means that this site gets none.
        if frozen is not None and frozen.closed:
            raise await fallen(tx, asked.round_id, asked.step, asked.site_id)
        if asked.step == UPLOAD:
            await _check_body(tx, asked)
        await must_go_on(tx, asked.round_id, order, asked.step, asked.site_id)
    except Refusal as refusal:
        return refusal
    return None


async def _check_body(tx: Transaction, asked: StepQuestion) -> None:
    """Raise BodyLost where the site's update is not here any more, so that it sends the same bytes again."""
    known = await ContributionRepository(tx).known(asked.round_id, asked.site_id)
    if known is not None and known[0].rejected_for == BODY_LOST:
        raise BodyLost(f"the stored update of {asked.site_id} was damaged: send the same bytes again")


async def must_go_on(tx: Transaction, round_id: RoundId, order: Sequence[str], step: str, site_id: SiteId) -> None:
    """Raise SiteFellOut or DealerAtFault where the step before was closed without this site."""
    steps = StepRepository(tx, round_id)
    before = order[order.index(step) - 1] if order.index(step) else None
    if before is None or await steps.answered(before, site_id):
        return
    frozen = await steps.frozen(before)
    if frozen is not None and frozen.closed:
        raise await fallen(tx, round_id, before, site_id)


async def fallen(tx: Transaction, round_id: RoundId, step: str, site_id: SiteId) -> Refusal:
    """Why the round went on after a step without a site."""
    fault = await _at_fault(tx, round_id, site_id)
    return fault or SiteFellOut(f"the round went on after step {step} without {site_id}")


async def _at_fault(tx: Transaction, round_id: RoundId, site_id: SiteId) -> Refusal | None:
    fault = await FaultRepository(tx).find(round_id, site_id, DealerAtFault.slug())
    return None if fault is None else DealerAtFault(f"{site_id} is at fault: {fault.detail}")


def order_of(round_id: RoundId, manifest_text: str, site: Party) -> Sequence[str]:
    """Return the steps of a round that the site is in; raises RoundUnknown or NotInCohort."""
    manifest = manifest_of(manifest_text)
    check_member(round_id, manifest, site)
    return engine_facts(manifest.engine).steps


async def _by_round(asked: Sequence[Q], work: Callable[[RoundId, Sequence[Q]], Awaitable[Sequence[A]]]) -> list[A]:
    """Return `work`'s answers, a round at a time; in the order of ids, so that locks cannot deadlock."""
    places: dict[RoundId, list[int]] = {}
    for place, each in enumerate(asked):
        places.setdefault(each.round_id, []).append(place)
    answers: dict[int, A] = {}
    for round_id, some in sorted(places.items()):
        answers |= zip(some, await work(round_id, [asked[place] for place in some]), strict=True)
    return [answers[place] for place in range(len(asked))]
