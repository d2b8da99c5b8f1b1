"""Rounds, the one set of each, and which attempt's sum was given."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from undersong.services.keys.custodian.domain import CustodianRound, RoundNotBegun
from undersong.services.keys.custodian.tables import CustodianMarkRow, CustodianRoundRow, GivenSumRow
from undersong.services.keys.openings import RecordedOpening
from undersong.shared.database import Transaction
from undersong.shared.ids import Digest, RoundId
from undersong.shared.wire.manifest import SignedManifest

_BY_SQL = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class NewCustodianRound:
    """A round to take part in; `key`: sealed, until `expires_at`."""

    signed: SignedManifest
    manifest_digest: Digest
    key: bytes
    created_at: datetime
    expires_at: datetime


class CustodianRepository:
    """The queries of one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def get(self, round_id: RoundId, *, lock: bool = False) -> CustodianRound:
        """Return the stored round, with `lock` held by this transaction; raises RoundNotBegun."""
        query = select(CustodianRoundRow).where(CustodianRoundRow.id == round_id)
        query = query.with_for_update() if lock else query
        row = await self._session.scalar(query, execution_options={"populate_existing": True})
        if row is None:
            raise RoundNotBegun(f"the custodian was not asked to take part in round {round_id}")
        return _round(row)

    async def in_turn(self) -> None:
        """Wait for our turn: what is given is counted in the order of commits."""
        await self._session.execute(select(CustodianMarkRow.id).with_for_update())

    async def mark(self) -> tuple[int, int]:
        """(epoch, counter)."""
        row = (await self._session.execute(select(CustodianMarkRow.epoch, CustodianMarkRow.counter))).one()
        return row.epoch, row.counter

    async def put_mark(self, epoch: int, counter: int) -> None:
        """Store epoch and counter."""
        change = update(CustodianMarkRow).values(epoch=epoch, counter=counter)
        await self._session.execute(change, execution_options=_BY_SQL)

    async def add(self, new: NewCustodianRound) -> bool:
        """Begin a round; False, with no change, when it was begun before."""
        values = {
            "id": new.signed.manifest.round_id,
            "manifest": new.signed.model_dump_json(),
            "manifest_digest": new.manifest_digest,
            "key": new.key,
            "created_at": new.created_at,
            "expires_at": new.expires_at,
        }
        query = self._tx.insert(CustodianRoundRow).values(values).on_conflict_do_nothing()
        return await self._session.scalar(query.returning(CustodianRoundRow.id)) is not None

    async def put_answer(self, round_id: RoundId, asked: bytes, checked: bytes, total: bytes | None) -> None:
        """Store the one set of a round and what was answered; `total` is sealed."""
        change = _of(round_id).values(asked=asked, checked=checked, total=total)
        await self._session.execute(change, execution_options=_BY_SQL)

    async def opened(self, opening: RecordedOpening) -> RoundId:
        """Write down that this attempt is the one; return which is."""
        insert = self._tx.insert(GivenSumRow).values(**opening._asdict()).on_conflict_do_nothing()
        await self._session.execute(insert)
        query = select(GivenSumRow.round_id).where(
            GivenSumRow.job_id == opening.job_id,
            GivenSumRow.kind == opening.kind,
            GivenSumRow.number == opening.number,
        )
        return RoundId(str(await self._session.scalar(query)))

    async def unended(self) -> list[RoundId]:
        """Return rounds whose secrets are not erased."""
        query = select(CustodianRoundRow.id).where(CustodianRoundRow.key.is_not(None))
        return [RoundId(found) for found in await self._session.scalars(query)]

    async def expired(self, now: datetime) -> list[RoundId]:
        """Return rounds whose secrets are to be erased."""
        query = select(CustodianRoundRow.id).where(CustodianRoundRow.expires_at <= now)
        return [
            RoundId(found) for found in await self._session.scalars(query.where(CustodianRoundRow.key.is_not(None)))
        ]

    async def erase(self, round_id: RoundId) -> None:
        """Key and sum go; what was asked and answered stays."""
        await self._session.execute(_of(round_id).values(key=None, total=None), execution_options=_BY_SQL)

    async def void(self) -> int:
        """Erase the secrets of every round; how many had some."""
        unended = await self.unended()
        for round_id in unended:
            await self.erase(round_id)
        return len(unended)


def _of(round_id: RoundId) -> Any:
    return update(CustodianRoundRow).where(CustodianRoundRow.id == round_id)


def _round(row: CustodianRoundRow) -> CustodianRound:
    return CustodianRound(
        id=RoundId(row.id),
        signed=SignedManifest.model_validate_json(row.manifest),
        manifest_digest=Digest(row.manifest_digest),
        key=row.key,
        expires_at=row.expires_at,
        asked=row.asked,
        checked=row.checked,
        total=row.total,
    )
