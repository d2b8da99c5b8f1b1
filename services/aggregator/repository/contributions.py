"""The SQL of contributions: one site's update to one round, counted once or taken out of the count."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, cast

from sqlalchemy import BigInteger, String, Table, bindparam, or_, select, update

from undersong.services.aggregator.domain.rounds import BODY_LOST, Form, Known, Phase
from undersong.services.aggregator.repository.rounds import PROGRESS_TOPIC
from undersong.services.aggregator.repository.rows import Stored, stored_of
from undersong.services.aggregator.tables import ContributionRow, ReportIdRow, RoundRow
from undersong.shared.database import Transaction, UtcDateTime, insert_for
from undersong.shared.ids import Digest, RoundId, SiteId

_BY_SQL = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class Contribution:
    """An accepted update, or (with a code) one that does not count."""

    id: int
    site_id: SiteId
    digest: Digest
    code: str | None
    message: str | None
    form: Form | None = None
    signature: bytes | None = None


@dataclass(frozen=True, slots=True)
class NewContribution:
    """An update whose bytes are stored; `signature`: the site's, where the engine has bodies signed."""

    round_id: RoundId
    site_id: SiteId
    digest: Digest
    size: int
    accepted_at: datetime
    receipt: Mapping[str, Any]
    form: Form | None = None
    signature: bytes | None = None


class ContributionRepository:
    """The contributions of rounds, in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self._session = tx.session

    async def known(self, round_id: RoundId, site_id: SiteId) -> tuple[Known, Mapping[str, Any]] | None:
        """Return what the site has given before, with its receipt."""
        values = {"round": round_id, "site": site_id}
        row = (await self._session.execute(_KNOWN, values)).one_or_none()
        return None if row is None else (Known(Digest(row.digest), row.code), row.receipt)

    async def add(self, new: NewContribution) -> bool:
        """Insert a contribution; False when the site has one in this round."""
        query = _adding(self.tx.dialect)
        return (await self._session.execute(query, _columns_of(new))).first() is not None

    async def take_report_id(self, stored: Stored, site_id: SiteId, report_id: str) -> bool:
        """Note a report's id, once in a job; False when it was seen."""
        row = {"job_id": stored.job_id, "report_id": report_id, "round_id": stored.round.id, "site_id": site_id}
        query = self.tx.insert(ReportIdRow).values(row).on_conflict_do_nothing()
        return await self._session.scalar(query.returning(ReportIdRow.report_id)) is not None

    async def count(self, round_id: RoundId, form: Form, *, awaited: bool = False) -> Stored | None:
        """Count one more update of an open round, unless the round is known to have another form; None then.

        `awaited`: the round's step waited for this site.
        """
        statement = _counting(by_layout=form.layout is not None, awaited=awaited)
        facts = {"with_length": form.length, "with_layout": form.layout}
        values = {"round": round_id, "at": await self.tx.now(), **{k: v for k, v in facts.items() if v is not None}}
        row = (await self._session.execute(statement, values)).one_or_none()
        return None if row is None else stored_of(row)

    async def of(self, round_id: RoundId) -> list[Contribution]:
        """Return all of a round, in the order of their arrival."""
        query = select(ContributionRow).where(ContributionRow.round_id == round_id).order_by(ContributionRow.id)
        rows = await self._session.scalars(query)
        return [contribution_of(row) for row in rows]

    async def lose(self, round_id: RoundId, contribution_id: int, message: str) -> bool:
        """Take a contribution whose bytes are lost out of the count; its site is waited for again."""
        query = update(ContributionRow).where(ContributionRow.id == contribution_id, ContributionRow.code.is_(None))
        taken = query.values(code=BODY_LOST, message=message[:500]).returning(ContributionRow.id)
        if await self._session.scalar(taken, execution_options=_BY_SQL) is None:
            return False
        counted = update(RoundRow).where(RoundRow.id == round_id)
        await self._session.execute(
            counted.values(got=RoundRow.got - 1, step_missing=RoundRow.step_missing + 1), execution_options=_BY_SQL
        )
        await self.tx.emit(PROGRESS_TOPIC, "round.body-lost", round_id)
        return True

    async def find_again(self, round_id: RoundId, site_id: SiteId) -> bool:
        """Note that the lost bytes of a contribution are here again; return False when they were not lost."""
        query = update(ContributionRow).where(ContributionRow.round_id == round_id, ContributionRow.site_id == site_id)
        found = query.where(ContributionRow.code == BODY_LOST).values(code=None, message=None)
        return await self._session.scalar(found.returning(ContributionRow.id), execution_options=_BY_SQL) is not None

    async def reject(self, round_id: RoundId, contribution_id: int, code: str, message: str) -> bool:
        """Take a contribution out of the count, once; False when it was out already."""
        query = update(ContributionRow).where(ContributionRow.id == contribution_id, ContributionRow.code.is_(None))
        taken = query.values(code=code, message=message[:500]).returning(ContributionRow.id)
        if await self._session.scalar(taken, execution_options=_BY_SQL) is None:
            return False
        counted = update(RoundRow).where(RoundRow.id == round_id)
        await self._session.execute(
            counted.values(got=RoundRow.got - 1, rejected=RoundRow.rejected + 1), execution_options=_BY_SQL
        )
        await self.tx.emit(PROGRESS_TOPIC, "round.progress", round_id)
        return True


# Each upload runs these, so they are built once, and over tables: quicker than over rows.
_ROUNDS = cast("Table", RoundRow.__table__)
_COLUMNS, _ID = _ROUNDS.c, bindparam("round", type_=String())
_KNOWN = select(ContributionRow.digest, ContributionRow.code, ContributionRow.receipt).where(
    ContributionRow.round_id == bindparam("round"), ContributionRow.site_id == bindparam("site")
)


def contribution_of(row: ContributionRow) -> Contribution:
    """Return the row as a value."""
    form = None if row.length is None else Form(row.length, row.layout)
    return Contribution(row.id, SiteId(row.site_id), Digest(row.digest), row.code, row.message, form, row.signature)


def _columns_of(new: NewContribution) -> dict[str, Any]:
    """Return the row of a new contribution."""
    return {
        "round_id": new.round_id,
        "site_id": new.site_id,
        "digest": new.digest,
        "size": new.size,
        "length": None if new.form is None else new.form.length,
        "layout": None if new.form is None else new.form.layout,
        "signature": new.signature,
        "accepted_at": new.accepted_at,
        "receipt": dict(new.receipt),
    }


@cache
def _counting(*, by_layout: bool, awaited: bool) -> Any:
    """Count one more update of an open round, of the length and layout that the round has, where they are known."""
    at, length = bindparam("at", type_=UtcDateTime()), bindparam("with_length", type_=BigInteger())
    layout = bindparam("with_layout", type_=String())
    query = update(_ROUNDS).where(_COLUMNS.id == _ID, _COLUMNS.phase == str(Phase.COLLECTING), _COLUMNS.deadline > at)
    query = query.where(or_(_COLUMNS.length.is_(None), _COLUMNS.length == length)).values(got=_COLUMNS.got + 1)
    if by_layout:
        query = query.where(or_(_COLUMNS.layout.is_(None), _COLUMNS.layout == layout))
    if awaited:
        query = query.values(step_missing=_COLUMNS.step_missing - 1)
    return query.returning(*_COLUMNS)


@cache
def _adding(dialect: str) -> Any:
    """Add one site's update, unless it has one in the round."""
    table = cast("Table", ContributionRow.__table__)
    return (
        insert_for(dialect, table).on_conflict_do_nothing(index_elements=["round_id", "site_id"]).returning(table.c.id)
    )
