"""Rounds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast

from sqlalchemy import Integer, Row, String, Table, bindparam, func, insert, select, update

from undersong.services.coordinator.domain.comparison import PublishedRound
from undersong.services.coordinator.domain.rounds import ENDED, Phase, Round
from undersong.services.coordinator.repository import Overtaken
from undersong.services.coordinator.tables import RoundRow
from undersong.shared.database import Page, Transaction, ordering, page
from undersong.shared.errors import no_such
from undersong.shared.ids import JobId, RoundId, SiteId
from undersong.shared.wire.manifest import RoundKind, SignedManifest

_ROUNDS = cast("Table", RoundRow.__table__)
_DOCUMENTS = ("manifest", "engine_public", "result", "metrics")
_LIGHT = tuple(column for column in _ROUNDS.c if column.name not in _DOCUMENTS)
# Every lease and completion runs these, so they are built once.
_ONE = select(*_LIGHT).where(_ROUNDS.c.id == bindparam("round", type_=String()))
_LOCKED = _ONE.with_for_update()
_THESE = _ROUNDS.c.id.in_(bindparam("rounds", expanding=True, type_=String()))
_ALL_LOCKED = select(*_LIGHT).where(_THESE).order_by(_ROUNDS.c.id).with_for_update()
_COUNT = (
    update(_ROUNDS)
    .where(_ROUNDS.c.id == bindparam("round", type_=String()))
    .values(
        outstanding=_ROUNDS.c.outstanding + bindparam("more_outstanding", type_=Integer()),
        got=_ROUNDS.c.got + bindparam("more_got", type_=Integer()),
        version=_ROUNDS.c.version + 1,
    )
    .returning(*_LIGHT)
)
_OF_JOBS = _ROUNDS.c.job_id.in_(bindparam("jobs", expanding=True, type_=String()))
_PUBLISHED = select(
    _ROUNDS.c.job_id, _ROUNDS.c.kind, _ROUNDS.c.number, _ROUNDS.c.got, _ROUNDS.c.finished_at, _ROUNDS.c.metrics
).where(
    _OF_JOBS,
    _ROUNDS.c.kind.in_([str(RoundKind.TRAIN), str(RoundKind.EVALUATE)]),
    _ROUNDS.c.phase == str(Phase.PUBLISHED),
)
_NEWEST_TRAINED = select(_ROUNDS.c.job_id, _ROUNDS.c.result).where(
    _ROUNDS.c.id.in_(
        select(func.max(_ROUNDS.c.id))
        .where(_OF_JOBS, _ROUNDS.c.kind == str(RoundKind.TRAIN), _ROUNDS.c.phase == str(Phase.PUBLISHED))
        .group_by(_ROUNDS.c.job_id)
    )
)
_SUMS = RoundRow.kind != str(RoundKind.PREPARE)
_ORDERS = RoundRow.kind == str(RoundKind.PREPARE)
_OPEN_PHASES = tuple(str(phase) for phase in Phase if phase not in ENDED)


@dataclass(frozen=True, slots=True)
class StoredRound:
    """A round with the documents that belong to it."""

    round: Round
    manifest: SignedManifest
    engine_public: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    metrics: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What changes beside a round's state; None leaves a column as it is.

    `unreported`, `uncancelled`: duties towards other services that outlive the round.
    """

    manifest: SignedManifest | None = None
    engine_public: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] | None = None
    unreported: bool | None = None
    uncancelled: bool | None = None

    def columns(self) -> dict[str, Any]:
        """Return the columns that change, with their values."""
        columns = {
            "manifest": self.manifest and self.manifest.model_dump(mode="json"),
            "engine_public": None if self.engine_public is None else dict(self.engine_public),
            "result": None if self.result is None else dict(self.result),
            "metrics": None if self.metrics is None else dict(self.metrics),
            "unreported": self.unreported,
            "uncancelled": self.uncancelled,
        }
        return {name: value for name, value in columns.items() if value is not None}


NO_CHANGES: Final = Changes()
Duty = Literal["unreported", "uncancelled"]


@dataclass(frozen=True, slots=True)
class RoundFilter:
    """Which of a job's rounds a list has, all where None; by sort `created` or, newest first, `-created`."""

    kind: str | None = None
    state: str | None = None
    sort: str = "created"


EVERY_ROUND: Final = RoundFilter()


class RoundRepository:
    """Rounds in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._session = tx.session

    async def add(self, round_: Round, manifest: SignedManifest) -> None:
        """Insert."""
        values = {
            **_values(round_),
            "id": round_.id,
            "job_id": round_.job_id,
            "kind": str(round_.kind),
            "number": round_.number,
            "attempt": round_.attempt,
            "cohort": list(round_.cohort),
            "min_cohort": round_.min_cohort,
            "target": round_.target,
            "deadline_s": round_.deadline.total_seconds(),
            "created_at": round_.created_at,
            "version": round_.version,
            "manifest": manifest.model_dump(mode="json"),
            "unreported": False,
            "uncancelled": False,
        }
        await self._session.execute(insert(RoundRow).values(values))

    async def get(self, round_id: str, *, lock: bool = False) -> Round:
        """Load, with the row locked where asked; raises NotFound."""
        row = (await self._session.execute(_LOCKED if lock else _ONE, {"round": round_id})).first()
        if row is None:
            raise no_such("round", round_id)
        return _round(row)

    async def lock_all(self, round_ids: Collection[str]) -> dict[RoundId, Round]:
        """Load the existing ones of these, with their rows locked in one order."""
        rows = await self._session.execute(_ALL_LOCKED, {"rounds": list(round_ids)})
        return {RoundId(row.id): _round(row) for row in rows}

    async def record(self, round_id: str) -> StoredRound:
        """Load with its documents; raises NotFound."""
        row = (await self._session.execute(select(_ROUNDS).where(_ROUNDS.c.id == round_id))).first()
        if row is None:
            raise no_such("round", round_id)
        return _record(row)

    async def save(self, round_: Round, changes: Changes = NO_CHANGES) -> None:
        """Write a round back that was loaded at this version, with the changes; raises `Overtaken`."""
        done = await self._session.execute(
            update(_ROUNDS)
            .where(_ROUNDS.c.id == round_.id, _ROUNDS.c.version == round_.version)
            .values({**_values(round_), **changes.columns(), "version": round_.version + 1})
            .returning(_ROUNDS.c.id)
        )
        if done.first() is None:
            raise Overtaken(f"Round {round_.id} was changed by another request just now.", retry_after_s=1)

    async def postpone(self, round_id: str, moment: datetime) -> None:
        """Nothing new: look again at `moment`. No state changes, so the version stays."""
        await self._session.execute(
            update(RoundRow)
            .where(RoundRow.id == round_id, RoundRow.phase.in_(_OPEN_PHASES))
            .values(next_check_at=moment)
            .execution_options(synchronize_session=False)
        )

    async def count(self, round_id: str, *, outstanding: int = 0, got: int = 0) -> Round:
        """Move the counters and give the round as it is after that; the row is locked until the transaction ends."""
        moved = {"round": round_id, "more_outstanding": outstanding, "more_got": got}
        row = (await self._session.execute(_COUNT, moved)).first()
        if row is None:
            raise no_such("round", round_id)
        return _round(row)

    async def settle(self, round_id: str, duty: Duty) -> None:
        """Note that a duty towards another service is done."""
        done = update(RoundRow).where(RoundRow.id == round_id).values({duty: False})
        await self._session.execute(done.execution_options(synchronize_session=False))

    async def due(self, now: datetime) -> Sequence[RoundId]:
        """Return rounds that have not ended and should have been looked at by now, oldest first."""
        query = select(RoundRow.id).where(RoundRow.phase.in_(_OPEN_PHASES), RoundRow.next_check_at <= now)
        return [RoundId(one) for one in await self._session.scalars(query.order_by(RoundRow.next_check_at).limit(200))]

    async def answered(self) -> Sequence[RoundId]:
        """Return rounds in collection that wait for no site any more, oldest first."""
        query = select(RoundRow.id).where(RoundRow.phase == Phase.COLLECTING, RoundRow.outstanding == 0, _SUMS)
        return [RoundId(one) for one in await self._session.scalars(query.order_by(RoundRow.next_check_at).limit(20))]

    async def oldest(self) -> dict[Phase, datetime]:
        """For each phase that is no end, when the oldest round in it was planned."""
        query = select(RoundRow.phase, func.min(RoundRow.created_at)).where(RoundRow.phase.in_(_OPEN_PHASES), _SUMS)
        rows = await self._session.execute(query.group_by(RoundRow.phase))
        return {Phase(phase): moment for phase, moment in rows}

    async def open_count(self) -> int:
        """Return how many rounds have not ended."""
        query = select(func.count()).select_from(RoundRow).where(RoundRow.phase.in_(_OPEN_PHASES), _SUMS)
        return await self._session.scalar(query) or 0

    async def ended(self, since: datetime) -> dict[Phase, int]:
        """Return how many rounds ended since then, by how."""
        ended = RoundRow.phase.in_(sorted(map(str, ENDED)))  # named, so that the index by phase and end serves
        query = select(RoundRow.phase, func.count()).where(ended, RoundRow.finished_at >= since, _SUMS)
        return {Phase(phase): count for phase, count in await self._session.execute(query.group_by(RoundRow.phase))}

    async def lengths(self, since: datetime, limit: int) -> Sequence[float]:
        """Return for the last rounds published since then the seconds from plan to publication, the least first."""
        query = select(_ROUNDS.c.created_at, _ROUNDS.c.finished_at).where(
            RoundRow.finished_at >= since, RoundRow.phase == str(Phase.PUBLISHED), _SUMS
        )
        rows = await self._session.execute(query.order_by(RoundRow.finished_at.desc()).limit(limit))
        return sorted((row.finished_at - row.created_at).total_seconds() for row in rows)

    async def earliest_deadline(self) -> datetime | None:
        """Return the deadline that passes first among rounds that have not ended."""
        return await self._session.scalar(
            select(func.min(RoundRow.deadline_at)).where(RoundRow.phase.in_(_OPEN_PHASES), _SUMS)
        )

    async def turnout(self, limit: int) -> Sequence[tuple[int, int, int]]:
        """Of the rounds that ended last: sites counted, the fewest needed, sites asked. First models count for none."""
        query = (
            select(RoundRow.got, RoundRow.min_cohort, RoundRow.cohort)
            .where(RoundRow.phase.in_([str(Phase.PUBLISHED), str(Phase.FAILED)]))
            .where(RoundRow.kind != str(RoundKind.INITIALISE), RoundRow.finished_at.is_not(None), _SUMS)
            .order_by(RoundRow.id.desc())
            .limit(limit)
        )
        return [(row.got, row.min_cohort, len(row.cohort)) for row in await self._session.execute(query)]

    async def unreported(self) -> Sequence[RoundId]:
        """Return rounds whose metrics the registry has not got yet."""
        query = select(RoundRow.id).where(RoundRow.unreported.is_(True)).order_by(RoundRow.id).limit(100)
        return [RoundId(one) for one in await self._session.scalars(query)]

    async def uncancelled(self) -> Sequence[RoundId]:
        """Return ended rounds of whose end the aggregator has not been told yet."""
        query = select(RoundRow.id).where(RoundRow.uncancelled.is_(True)).order_by(RoundRow.id).limit(100)
        return [RoundId(one) for one in await self._session.scalars(query)]

    async def ended_of(self, job_id: str) -> Sequence[StoredRound]:
        """Return a job's rounds that have ended, oldest first, without its training orders."""
        ended = RoundRow.phase.in_([str(phase) for phase in ENDED])
        query = select(RoundRow).where(RoundRow.job_id == job_id, ended, _SUMS)
        return [_record(row) for row in await self._session.scalars(query.order_by(RoundRow.id))]

    async def orders(self, job_id: str) -> Sequence[StoredRound]:
        """Return a job's training orders that have not ended, oldest first."""
        query = select(RoundRow).where(RoundRow.job_id == job_id, RoundRow.phase.in_(_OPEN_PHASES), _ORDERS)
        return [_record(row) for row in await self._session.scalars(query.order_by(RoundRow.id))]

    async def newest_of_job(self, job_id: str, limit: int, before: str | None = None) -> Sequence[StoredRound]:
        """Return the job's newest rounds, the newest first; with `before`, of those that are older than that one.

        Its training orders are left out.
        """
        query = select(_ROUNDS).where(_ROUNDS.c.job_id == job_id, _ROUNDS.c.kind != str(RoundKind.PREPARE))
        if before is not None:
            query = query.where(_ROUNDS.c.id < before)
        return [_record(row) for row in await self._session.execute(query.order_by(_ROUNDS.c.id.desc()).limit(limit))]

    async def published(self, job_ids: Collection[str]) -> Sequence[PublishedRound]:
        """Return the published rounds of these jobs that trained or evaluated; read without their documents."""
        rows = await self._session.execute(_PUBLISHED, {"jobs": list(job_ids)})
        return [
            PublishedRound(JobId(job_id), kind == RoundKind.TRAIN, number, got, finished_at, metrics)
            for job_id, kind, number, got, finished_at, metrics in rows
        ]

    async def vector_lengths(self, job_ids: Collection[str]) -> dict[JobId, int]:
        """Return how many parameters an update of each of these jobs has, as its newest published training says."""
        rows = await self._session.execute(_NEWEST_TRAINED, {"jobs": list(job_ids)})
        lengths = {job_id: (result or {}).get("vector_length") for job_id, result in rows}
        return {JobId(job_id): length for job_id, length in lengths.items() if isinstance(length, int)}

    async def of_job(
        self, job_id: str, limit: int, after: str | None, chosen: RoundFilter = EVERY_ROUND
    ) -> Page[StoredRound]:
        """Return a page of the chosen rounds of a job."""
        query = select(RoundRow).where(RoundRow.job_id == job_id)
        if chosen.kind is not None:
            query = query.where(RoundRow.kind == chosen.kind)
        if chosen.state is not None:
            query = query.where(RoundRow.phase == chosen.state)
        _, falling = ordering(chosen.sort, {})
        return (await page(self._session, query, RoundRow.id, limit, after, descending=falling)).map(_record)


def _values(round_: Round) -> dict[str, Any]:
    return {
        "phase": str(round_.phase),
        "reason": round_.reason,
        "outstanding": round_.outstanding,
        "got": round_.got,
        "closing": round_.closing,
        "deadline_at": round_.deadline_at,
        "next_check_at": round_.next_check_at,
        "opened_at": round_.opened_at,
        "finished_at": round_.finished_at,
    }


def _round(row: "RoundRow | Row[Any]") -> Round:
    return Round(
        id=RoundId(row.id),
        job_id=JobId(row.job_id),
        kind=RoundKind(row.kind),
        number=row.number,
        attempt=row.attempt,
        cohort=tuple(SiteId(site) for site in row.cohort),
        min_cohort=row.min_cohort,
        target=row.target,
        deadline=timedelta(seconds=row.deadline_s),
        deadline_at=row.deadline_at,
        next_check_at=row.next_check_at,
        phase=Phase(row.phase),
        version=row.version,
        reason=row.reason,
        outstanding=row.outstanding,
        got=row.got,
        closing=row.closing,
        created_at=row.created_at,
        opened_at=row.opened_at,
        finished_at=row.finished_at,
    )


def _record(row: "RoundRow | Row[Any]") -> StoredRound:
    return StoredRound(
        round=_round(row),
        manifest=SignedManifest.model_validate(row.manifest),
        engine_public=row.engine_public,
        result=row.result,
        metrics=row.metrics,
    )
