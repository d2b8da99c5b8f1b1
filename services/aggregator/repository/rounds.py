"""The SQL of rounds: their phases, who holds them, what they publish. Rows stay here; what leaves is frozen."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    String,
    Table,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from undersong.services.aggregator.domain.refusals import RoundUnknown
from undersong.services.aggregator.domain.rounds import OPEN_PHASES, SUMMING_PHASES, Form, Move, Phase
from undersong.services.aggregator.domain.steps import OPENED
from undersong.services.aggregator.repository.rows import (
    Intent,
    Made,
    NewRound,
    Stored,
    columns_made,
    columns_of,
    stored_of,
)
from undersong.services.aggregator.tables import (
    ContributionRow,
    PartRow,
    PublicationRow,
    RoundEventRow,
    RoundRow,
    StepBodyRow,
    StepMessageRow,
)
from undersong.shared.database import Transaction
from undersong.shared.errors import no_such
from undersong.shared.ids import Digest, JobId, RoundId, VersionId

PROGRESS_TOPIC = "aggregator.rounds"
"""For the coordinator: something about a round changed."""
WORK_TOPIC = "aggregator.updates"
"""For the aggregator's own workers: there is something to do for a round."""
STEPS_TOPIC = "aggregator.steps"
"""For the API's long polls: a step of a round was closed, or the round ended."""


class RoundRepository:
    """The queries of one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self._session = tx.session

    async def find(self, round_id: RoundId) -> Stored | None:
        """Return the round's present state."""
        row = (await self._session.execute(_ROUND, {"round": round_id})).one_or_none()
        return None if row is None else stored_of(row)

    async def get(self, round_id: RoundId) -> Stored:
        """Return the round's present state; raises RoundUnknown."""
        found = await self.find(round_id)
        if found is None:
            raise no_such("round", round_id, RoundUnknown)
        return found

    async def lock(self, round_id: RoundId) -> Stored:
        """Return the round, held by this transaction; raises RoundUnknown."""
        row = (await self._session.execute(_ROUND_LOCKED, {"round": round_id})).one_or_none()
        if row is None:
            raise no_such("round", round_id, RoundUnknown)
        return stored_of(row)

    async def add(self, new: NewRound) -> bool:
        """Insert a round; False when there is one of this id."""
        query = self.tx.insert(RoundRow).values(columns_of(new)).on_conflict_do_nothing(index_elements=["id"])
        return await self._session.scalar(query.returning(RoundRow.id)) is not None

    async def move(self, stored: Stored, move: Move, made: Made | None = None) -> None:
        """Make a transition of a locked round, with what it has brought, and tell whom it concerns."""
        now = await self.tx.now()
        ended: dict[str, Any] = {"engine_secret": None} if move.phase.over else {}
        reason = str(move.reason) if move.reason else None
        query = (
            update(RoundRow)
            .where(RoundRow.id == stored.round.id, RoundRow.phase == stored.round.phase)
            .where(RoundRow.version == stored.version)
            .values(
                phase=str(move.phase),
                reason=reason,
                version=stored.version + 1,
                moved_at=now,
                **ended,
                **columns_made(made),
            )
            .returning(RoundRow.id)
        )
        if (
            await self._session.scalar(query, execution_options=_BY_SQL) is None
        ):  # the row is locked, so this is a mistake of ours
            raise RuntimeError(f"round {stored.round.id} moved while it was locked")
        await self.note(stored.round.id, f"round.{move.phase}", "aggregator", {"reason": reason})
        if move.phase in (Phase.FROZEN, Phase.CANCELLED, Phase.FAILED):
            await self.tx.emit(WORK_TOPIC, f"round.{move.phase}", stored.round.id)
        if move.phase.over:
            await self.tx.emit(PROGRESS_TOPIC, f"round.{move.phase}", stored.round.id)
            if stored.round.tracks_steps:
                await erase_steps(self.tx, stored.round.id)
                await self.tx.emit(STEPS_TOPIC, f"round.{move.phase}", stored.round.id)
        elif move.phase is Phase.FROZEN:
            await self.tx.emit(PROGRESS_TOPIC, "round.progress", stored.round.id)

    async def note(self, round_id: RoundId, type_: str, actor: str, detail: Mapping[str, Any]) -> None:
        """Add to the round's audit trail."""
        row = {"round_id": round_id, "at": await self.tx.now(), "type": type_, "actor": actor, "detail": dict(detail)}
        await self._session.execute(insert(RoundEventRow).values(row))

    async def trace(self, round_id: RoundId) -> str | None:
        """Return the trace in which the round was opened."""
        query = select(RoundEventRow.detail).where(RoundEventRow.round_id == round_id)
        detail = await self._session.scalar(query.where(RoundEventRow.type == "round.opened").limit(1))
        return None if detail is None else detail.get("trace")

    # Workers.

    async def claim(self, round_id: RoundId, worker_id: str, lease: timedelta) -> Stored | None:
        """Take a round that no living worker holds; the fence tells this hold from every other."""
        now = await self.tx.now()
        free = or_(RoundRow.worker_until.is_(None), RoundRow.worker_until < now, RoundRow.worker_id == worker_id)
        query = (
            update(RoundRow)
            .where(RoundRow.id == round_id, RoundRow.phase.in_(OPEN_PHASES), free)
            .values(worker_id=worker_id, worker_until=now + lease, fence=RoundRow.fence + 1, folded=0)
            .returning(RoundRow)
        )
        row = await self._session.scalar(query, execution_options=_FRESH)
        return None if row is None else stored_of(row)

    async def renew(self, round_id: RoundId, fence: int, lease: timedelta, folded: int) -> bool:
        """Hold the round for longer, and note how many updates are in its sum; False when it is another's."""
        return await self._held(round_id, fence, worker_until=await self.tx.now() + lease, folded=folded)

    async def release(self, round_id: RoundId, fence: int, *, rest: timedelta, failed: bool) -> bool:
        """Release the round, which no worker claims again before it has rested (longer with every failure)."""
        values: dict[str, Any] = {"failures": RoundRow.failures + 1} if failed else {}
        check_at = await self.tx.now() + rest
        values |= {"worker_id": None, "worker_until": None, "folded": 0}
        return await self._held(round_id, fence, next_check_at=check_at, **values)

    async def _held(self, round_id: RoundId, fence: int, **values: Any) -> bool:
        query = update(RoundRow).where(RoundRow.id == round_id, RoundRow.fence == fence).values(**values)
        query = query.returning(RoundRow.id)
        return await self._session.scalar(query, execution_options=_BY_SQL) is not None

    async def unattended(self, limit: int = 100) -> list[RoundId]:
        """Open rounds that no living worker holds and that do not rest after a failure."""
        now = await self.tx.now()
        free = or_(RoundRow.worker_until.is_(None), RoundRow.worker_until < now)
        return await self._ids(RoundRow.phase.in_(OPEN_PHASES), free, RoundRow.next_check_at <= now, limit=limit)

    async def overdue(self, limit: int = 100) -> list[RoundId]:
        """Return open rounds whose guards may demand a transition, whichever worker holds them."""
        now, collecting = await self.tx.now(), RoundRow.phase == Phase.COLLECTING
        answered = or_(RoundRow.got >= RoundRow.target, RoundRow.got + RoundRow.rejected >= RoundRow.cohort_size)
        is_open = RoundRow.phase.in_(OPEN_PHASES)
        later = RoundRow.phase.in_([p for p in OPEN_PHASES if p is not Phase.COLLECTING])
        guard = or_(
            collecting & RoundRow.step.is_(None) & (answered | (RoundRow.deadline <= now)),
            RoundRow.step.is_not(None)
            & (RoundRow.step != OPENED)
            & ((RoundRow.step_missing <= 0) | (RoundRow.step_deadline <= now))
            & is_open,
            later & (RoundRow.finish_by <= now),
        )
        return await self._ids(guard, limit=limit)

    async def unscrubbed(self, limit: int = 100) -> list[RoundId]:
        """Return ended rounds whose bodies are still stored."""
        return await self._ids(RoundRow.phase.not_in(OPEN_PHASES), RoundRow.scrubbed_at.is_(None), limit=limit)

    async def _ids(self, *where: ColumnElement[bool], limit: int) -> list[RoundId]:
        query = select(RoundRow.id).where(*where).order_by(RoundRow.opened_at).limit(limit)
        return [RoundId(found) for found in await self._session.scalars(query)]

    async def oldest(self) -> dict[str, datetime]:
        """Return when the oldest round of each open phase was opened."""
        query = select(RoundRow.phase, func.min(RoundRow.opened_at)).where(RoundRow.phase.in_(OPEN_PHASES))
        rows = await self._session.execute(query.group_by(RoundRow.phase))
        return {row[0]: row[1] for row in rows}

    async def earliest_deadline(self) -> datetime | None:
        """Return the moment that passes first: a deadline of a round that collects, a time to finish of one that does
        not.
        """
        until = case((RoundRow.phase == str(Phase.COLLECTING), RoundRow.deadline), else_=RoundRow.finish_by)
        found: datetime | None = await self._session.scalar(
            select(func.min(until)).where(RoundRow.phase.in_(OPEN_PHASES))
        )
        return found

    async def unfolded(self) -> int:
        """Return how many updates are stored and in no holder's sum yet, over the rounds whose sum is not opened."""
        missing = case((RoundRow.got > RoundRow.folded, RoundRow.got - RoundRow.folded), else_=0)
        query = select(func.coalesce(func.sum(missing), 0)).where(RoundRow.phase.in_(SUMMING_PHASES))
        return int(await self._session.scalar(query) or 0)

    async def uncounted(self, since: datetime) -> int:
        """By how many the receipts that stand and the updates that were summed differ, in rounds published since."""
        standing = (
            select(func.count())
            .where(ContributionRow.round_id == RoundRow.id, ContributionRow.code.is_(None))
            .scalar_subquery()
        )
        query = select(func.coalesce(func.sum(func.abs(standing - RoundRow.got)), 0))
        query = query.where(RoundRow.phase == str(Phase.PUBLISHED), RoundRow.moved_at >= since)
        return int(await self._session.scalar(query) or 0)

    # Publication.

    async def fix_form(self, round_id: RoundId, form: Form) -> None:
        """Write down the form of the round's updates, once."""
        query = update(RoundRow).where(RoundRow.id == round_id, RoundRow.length.is_(None))
        await self._session.execute(query.values(length=form.length, layout=form.layout), execution_options=_BY_SQL)

    async def model_length(self, digest: Digest) -> int | None:
        """Return the vector length of a model that a round here made."""
        query = select(RoundRow.model_length).where(RoundRow.content_digest == digest).limit(1)
        return await self._session.scalar(query.where(RoundRow.model_length.is_not(None)))

    async def state_of(self, job_id: JobId, version_id: VersionId) -> Digest | None:
        """Return the strategy's state after the round of this job that made this version."""
        query = select(RoundRow.state_digest).where(RoundRow.job_id == job_id, RoundRow.version_id == version_id)
        found = await self._session.scalar(query.limit(1))
        return None if found is None else Digest(found)

    async def intend(self, round_id: RoundId, model_id: str, body: Mapping[str, Any]) -> None:
        """Write down what the registry is going to be asked."""
        row = {"round_id": round_id, "model_id": model_id, "body": dict(body), "intended_at": await self.tx.now()}
        await self._session.execute(self.tx.insert(PublicationRow).values(row).on_conflict_do_nothing())

    async def intent(self, round_id: RoundId) -> Intent | None:
        """Return what the registry is asked for this round."""
        row = await self._session.get(PublicationRow, round_id)
        if row is None:
            return None
        return Intent(row.model_id, row.body, None if row.version_id is None else VersionId(row.version_id))

    async def published_as(self, round_id: RoundId, version_id: VersionId) -> None:
        """Write down the registry's answer."""
        query = update(PublicationRow).where(PublicationRow.round_id == round_id).values(version_id=version_id)
        await self._session.execute(query, execution_options=_BY_SQL)

    # Blobs.

    async def supersede(self, job_id: JobId, round_id: RoundId) -> list[Digest]:
        """Models and states of the job's earlier rounds are needed no longer; these may go after the commit."""
        query = update(RoundRow).where(RoundRow.job_id == job_id, RoundRow.id != round_id, RoundRow.keeps_blobs)
        ended = query.where(RoundRow.phase.not_in(OPEN_PHASES)).values(keeps_blobs=False)
        ended = ended.returning(RoundRow.content_digest, RoundRow.state_digest)
        rows = await self._session.execute(ended, execution_options=_BY_SQL)
        return sorted({Digest(digest) for row in rows for digest in row if digest is not None})

    async def in_use(self, digest: Digest) -> bool:
        """Return whether a round still needs this blob."""
        body = exists().where(
            ContributionRow.digest == digest,
            ContributionRow.round_id == RoundRow.id,
            RoundRow.scrubbed_at.is_(None),
        )
        made = exists().where(
            or_(RoundRow.content_digest == digest, RoundRow.state_digest == digest), RoundRow.keeps_blobs
        )
        part = exists().where(PartRow.digest == digest)
        return bool(await self._session.scalar(select(or_(body, made, part))))

    async def scrubbed(self, round_ids: Sequence[RoundId]) -> None:
        """Note that the bodies of these rounds are gone."""
        query = update(RoundRow).where(RoundRow.id.in_(round_ids)).values(scrubbed_at=await self.tx.now())
        await self._session.execute(query, execution_options=_BY_SQL)


async def erase_steps(tx: Transaction, round_id: RoundId) -> None:
    """Forget what the sites of a round that is over said; what stays is only the digests of their messages."""
    said = update(StepMessageRow).where(StepMessageRow.round_id == round_id).values(body=None)
    await tx.session.execute(said, execution_options=_BY_SQL)
    await tx.session.execute(delete(StepBodyRow).where(StepBodyRow.round_id == round_id), execution_options=_BY_SQL)


_BY_SQL = {"synchronize_session": False}
_FRESH = {"synchronize_session": False, "populate_existing": True}

# Each upload and each turn of a worker runs these, so they are built once, and over tables: quicker than over rows.
_ROUNDS = cast("Table", RoundRow.__table__)
_COLUMNS, _ID = _ROUNDS.c, bindparam("round", type_=String())
_ROUND = select(_ROUNDS).where(_COLUMNS.id == _ID)
_ROUND_LOCKED = _ROUND.with_for_update()
