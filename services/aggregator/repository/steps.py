"""The SQL of steps: what sites said, whom a step is closed over, what they are answered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Integer, String, Table, bindparam, exists, func, insert, select, update

from undersong.services.aggregator.domain.refusals import RoundUnknown
from undersong.services.aggregator.domain.rounds import Round
from undersong.services.aggregator.repository.rounds import STEPS_TOPIC
from undersong.services.aggregator.repository.rows import ROUND_COLUMNS, round_of
from undersong.services.aggregator.tables import (
    Base,
    LostSiteRow,
    NoiseRow,
    RoundRow,
    StepAnswerRow,
    StepBodyRow,
    StepMessageRow,
    StepRow,
)
from undersong.shared.database import Transaction
from undersong.shared.errors import no_such
from undersong.shared.ids import Digest, RoundId, SiteId, digest_of

_BY_SQL = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class Said:
    """One site's message, still sealed; the key that its request was signed with."""

    site_id: SiteId
    public_key: bytes
    sealed: bytes | None


@dataclass(frozen=True, slots=True)
class Frozen:
    """Whom a step is closed over."""

    members: tuple[SiteId, ...]
    closed: bool


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that takes no more messages: how many sites it is closed over; `closed_at` is None while it is opened."""

    step: str
    sites: int
    frozen_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Next:
    """Where a round goes when a step is closed, with the engine's state, sealed."""

    step: str
    deadline: datetime | None
    secret: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """A round as far as a message needs it."""

    round: Round
    manifest: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One site in one step: what it said, whether the step takes more, whether the round left it behind or lost it."""

    digest: Digest | None
    frozen: bool
    left_behind: bool
    lost: bool


class StepRepository:
    """The queries of one transaction about one round's steps."""

    def __init__(self, tx: Transaction, round_id: RoundId) -> None:
        self._tx, self._session, self._round_id = tx, tx.session, round_id

    async def turn(self) -> Turn:
        """Return and lock the round's state, as far as a message needs it; raises RoundUnknown."""
        row = (await self._session.execute(_TURN, {"round": self._round_id})).one_or_none()
        if row is None:
            raise no_such("round", self._round_id, RoundUnknown)
        return Turn(round_of(row), row.manifest)

    async def seen(self, step: str, before: str | None, site_id: SiteId) -> Seen:
        """Return what is stored of this site in this step and the one before.

        Ask with the round held, in a query of its own: a query that waits for a lock sees the state before it waited.
        """
        who = {"round": self._round_id, "site": site_id, "step": step, "before": before}
        row = (await self._session.execute(_SEEN, who)).one()
        behind = before is not None and row.passed and not row.answered
        return Seen(None if row.digest is None else Digest(row.digest), row.frozen, behind, row.lost)

    async def digest(self, step: str, site_id: SiteId) -> Digest | None:
        """Return the digest of what the site said in this step."""
        return (await self.seen(step, None, site_id)).digest

    async def say(self, messages: Iterable[tuple[str, Said, Digest]]) -> None:
        """Insert messages (step, message, digest of its plain bytes); the round is locked, and their sites have said
        nothing in their steps."""
        now = await self._tx.now()
        rows = [
            {
                "round_id": self._round_id, "step": step, "site_id": said.site_id, "accepted_at": now,
                "digest": digest, "public_key": said.public_key.hex(), "body": said.sealed,
            }
            for step, said, digest in messages
        ]  # fmt: skip
        await self._session.execute(_SAY, rows)

    async def messages(self, step: str) -> list[Said]:
        """Return what was said in this step."""
        query = select(StepMessageRow).where(*self._of(StepMessageRow, step)).order_by(StepMessageRow.site_id)
        rows = await self._session.scalars(query)
        return [Said(SiteId(r.site_id), bytes.fromhex(r.public_key), r.body) for r in rows]

    async def frozen(self, step: str) -> Frozen | None:
        """Whom the step is closed over, once that is fixed."""
        row = await self._session.get(StepRow, (self._round_id, step))
        if row is None:
            return None
        return Frozen(tuple(SiteId(site) for site in row.members), row.closed_at is not None)

    async def records(self) -> tuple[StepRecord, ...]:
        """Return the round's steps that take no more messages, in their order."""
        query = select(StepRow).where(StepRow.round_id == self._round_id).order_by(StepRow.frozen_at)
        rows = await self._session.scalars(query)
        return tuple(StepRecord(row.step, len(row.members), row.frozen_at, row.closed_at) for row in rows)

    async def freeze(self, step: str, members: Iterable[SiteId]) -> None:
        """Fix the set that the step is closed over, unless it is fixed. Idempotent."""
        row = {"round_id": self._round_id, "step": step, "members": sorted(members), "frozen_at": await self._tx.now()}
        await self._session.execute(self._tx.insert(StepRow).values(row).on_conflict_do_nothing())

    async def take_row(self, job_id: str, row: int) -> bool:
        """Give a row of the job's noise to this round's sum, for good; False where it, or a later one, is another's."""
        others = select(func.max(NoiseRow.row)).where(NoiseRow.job_id == job_id, NoiseRow.round_id != self._round_id)
        if row <= int(await self._session.scalar(others) or 0):
            return False
        own = {"job_id": job_id, "row": row, "round_id": self._round_id}
        await self._session.execute(self._tx.insert(NoiseRow).values(own).on_conflict_do_nothing())
        holder = select(NoiseRow.round_id).where(NoiseRow.job_id == job_id, NoiseRow.row == row)
        return await self._session.scalar(holder) == self._round_id

    async def close(self, step: str, answers: Mapping[SiteId, bytes], following: Next) -> None:
        """Store a step's answers and go on to the next; the round is locked and the step is frozen."""
        await self._answer(step, answers)
        gone = await self.lost()
        missing = sum(1 for site in answers if site not in gone)
        closed = update(StepRow).where(*self._of(StepRow, step)).values(closed_at=await self._tx.now())
        used = update(StepMessageRow).where(*self._of(StepMessageRow, step)).values(body=None)
        moved = update(RoundRow).where(RoundRow.id == self._round_id)
        moved = moved.values(
            step=following.step,
            step_missing=missing,
            step_deadline=following.deadline,
            engine_secret=following.secret,
        )
        for statement in (closed, used, moved):
            await self._session.execute(statement, execution_options=_BY_SQL)
        await self._tx.emit(STEPS_TOPIC, "step.closed", self._round_id)

    async def _answer(self, step: str, answers: Mapping[SiteId, bytes]) -> None:
        if not answers:
            return
        digests = {site: digest_of(body) for site, body in answers.items()}
        bodies = {digests[site]: body for site, body in answers.items()}
        of_round = {"round_id": self._round_id}
        rows = [{**of_round, "digest": digest, "body": body} for digest, body in sorted(bodies.items())]
        await self._session.execute(self._tx.insert(StepBodyRow).on_conflict_do_nothing(), rows)
        who = [{**of_round, "step": step, "site_id": site, "digest": digest} for site, digest in digests.items()]
        await self._session.execute(insert(StepAnswerRow), who)

    async def answered(self, step: str, site_id: SiteId) -> bool:
        """Return whether the site goes on after this step."""
        query = select(func.count()).select_from(StepAnswerRow)
        query = query.where(*self._of(StepAnswerRow, step), StepAnswerRow.site_id == site_id)
        return bool(await self._session.scalar(query))

    async def answers(self, step: str, sites: Sequence[SiteId]) -> dict[SiteId, bytes]:
        """Return the answers to this step that these sites are to have, as long as the round lasts."""
        rows = await self._session.execute(_ANSWERS_TO, {"round": self._round_id, "sites": sites, "step": step})
        return {SiteId(row.site_id): row.body for row in rows}

    async def keys(self, first_step: str) -> dict[SiteId, bytes]:
        """Return the identity keys under which the sites entered the round."""
        query = select(StepMessageRow.site_id, StepMessageRow.public_key)
        rows = await self._session.execute(query.where(*self._of(StepMessageRow, first_step)))
        return {SiteId(row.site_id): bytes.fromhex(row.public_key) for row in rows}

    async def lost(self) -> frozenset[SiteId]:
        """Return the sites that were given up."""
        query = select(LostSiteRow.site_id).where(LostSiteRow.round_id == self._round_id)
        return frozenset(SiteId(site) for site in await self._session.scalars(query))

    async def lose(self, site_id: SiteId) -> bool:
        """Wait for this site no longer; False when that was so before."""
        row = {"round_id": self._round_id, "site_id": site_id, "at": await self._tx.now()}
        query = self._tx.insert(LostSiteRow).values(row).on_conflict_do_nothing().returning(LostSiteRow.site_id)
        return await self._session.scalar(query) is not None

    async def miss_fewer(self, count: int) -> int:
        """Let the step wait for this many sites fewer; return for how many it still does."""
        return int(await self._session.scalar(_MISS_FEWER, {"round": self._round_id, "fewer": count}) or 0)

    def _of(self, table: Any, step: str) -> tuple[Any, Any]:
        return table.round_id == self._round_id, table.step == step


def _table(row: type[Base]) -> Table:
    return cast("Table", row.__table__)


# Every message of every site runs these, so they are built once, and over tables, which is quicker than over rows.
_ROUNDS, _STEPS = RoundRow.__table__.c, StepRow.__table__.c
_MESSAGES, _ANSWERS, _BODIES = StepMessageRow.__table__.c, StepAnswerRow.__table__.c, StepBodyRow.__table__.c
_LOST = LostSiteRow.__table__.c
_ROUND, _SITE, _STEP, _BEFORE = (bindparam(name, type_=String()) for name in ("round", "site", "step", "before"))

_TURN = (
    select(*(_ROUNDS[name] for name in ROUND_COLUMNS), _ROUNDS.manifest).where(_ROUNDS.id == _ROUND).with_for_update()
)
_SEEN = select(
    select(_MESSAGES.digest)
    .where(_MESSAGES.round_id == _ROUND, _MESSAGES.step == _STEP, _MESSAGES.site_id == _SITE)
    .scalar_subquery()
    .label("digest"),
    exists().where(_STEPS.round_id == _ROUND, _STEPS.step == _STEP).label("frozen"),
    exists().where(_STEPS.round_id == _ROUND, _STEPS.step == _BEFORE, _STEPS.closed_at.is_not(None)).label("passed"),
    exists().where(_ANSWERS.round_id == _ROUND, _ANSWERS.step == _BEFORE, _ANSWERS.site_id == _SITE).label("answered"),
    exists().where(_LOST.round_id == _ROUND, _LOST.site_id == _SITE).label("lost"),
)
_SAY = insert(_table(StepMessageRow))
_ANSWERS_TO = select(_ANSWERS.site_id, _BODIES.body).where(
    _BODIES.round_id == _ROUND,
    _ANSWERS.round_id == _ROUND,
    _ANSWERS.digest == _BODIES.digest,
    _ANSWERS.step == _STEP,
    _ANSWERS.site_id.in_(bindparam("sites", expanding=True)),
)
_MISS_FEWER = (
    update(_table(RoundRow))
    .where(_ROUNDS.id == _ROUND)
    .values(step_missing=_ROUNDS.step_missing - bindparam("fewer", type_=Integer()))
    .returning(_ROUNDS.step_missing)
)
