"""All SQL of the helper. Rows stay here; what leaves is frozen."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select, update

from undersong.services.keys.helper.domain import HelperRound, RoundUnknown
from undersong.services.keys.helper.tables import OpeningRow, ReportRow, RoundRow, StandingRow
from undersong.services.keys.openings import RecordedOpening
from undersong.shared.database import Transaction
from undersong.shared.ids import Digest, JobId, RoundId, SiteId, digest_of
from undersong.shared.secagg.twoserver.helper import Taken
from undersong.shared.secagg.twoserver.messages import Accepted, Agree, ReportQuestion, ReportVerdict
from undersong.shared.wire.manifest import RoundManifest, SignedManifest

_BY_SQL = {"synchronize_session": False}
NOISE_ROW: Final = "noise-row"
"""Stands for the kind of an opening that is about a row of a job's correlated noise, by its number."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A report that was verified, and what came of it."""

    site_id: SiteId
    question: Digest
    verdict: ReportVerdict


@dataclass(frozen=True, slots=True)
class Kept:
    """An accepted report, with the digest of the body that it came in."""

    taken: Taken
    body_digest: Digest


@dataclass(frozen=True, slots=True)
class NewHelperRound:
    """A round to take part in; `keys`: sealed, until `expires_at`."""

    signed: SignedManifest
    manifest_digest: Digest
    keys: bytes
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class NewVerdict:
    """The verdict on a question about a report of a round of a job."""

    round_id: RoundId
    job_id: JobId
    question: ReportQuestion
    verdict: ReportVerdict
    at: datetime


class HelperRepository:
    """The queries of one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def find(self, round_id: RoundId) -> HelperRound | None:
        """Return the stored round, or None."""
        row = await self._session.get(RoundRow, round_id)
        return None if row is None else _round(row)

    async def get(self, round_id: RoundId) -> HelperRound:
        """Return the stored round; raises RoundUnknown."""
        found = await self.find(round_id)
        if found is None:
            raise RoundUnknown(f"the helper was not asked to take part in round {round_id}")
        return found

    async def lock(self, round_id: RoundId) -> HelperRound:
        """Return the round, held by this transaction; raises RoundUnknown."""
        query = select(RoundRow).where(RoundRow.id == round_id).with_for_update()
        row = await self._session.scalar(query, execution_options={"populate_existing": True})
        if row is None:
            raise RoundUnknown(f"the helper was not asked to take part in round {round_id}")
        return _round(row)

    async def in_turn(self) -> None:
        """Wait for our turn: what is given is counted in the order of commits."""
        await self._session.execute(select(StandingRow.id).with_for_update())

    async def mark(self) -> tuple[int, int]:
        """(epoch, counter)."""
        row = (await self._session.execute(select(StandingRow.epoch, StandingRow.counter))).one()
        return row.epoch, row.counter

    async def put_mark(self, epoch: int, counter: int) -> None:
        """Store epoch and counter."""
        await self._session.execute(update(StandingRow).values(epoch=epoch, counter=counter), execution_options=_BY_SQL)

    async def add(self, new: NewHelperRound) -> bool:
        """Begin a round; False, with no change, when it was begun before."""
        manifest = new.signed.manifest
        values = {
            "id": manifest.round_id,
            "job_id": manifest.job_id,
            "manifest": new.signed.model_dump_json(),
            "manifest_digest": new.manifest_digest,
            "keys": new.keys,
            "length": manifest.length,
            "created_at": new.created_at,
            "expires_at": new.expires_at,
        }
        query = self._tx.insert(RoundRow).values(values).on_conflict_do_nothing().returning(RoundRow.id)
        return await self._session.scalar(query) is not None

    async def judge(self, new: NewVerdict) -> bool:
        """Store a verdict; False when the site, or the report's id, has one."""
        report, verdict = new.question.report, new.verdict
        values = {
            "round_id": new.round_id,
            "site_id": report.site_id,
            "job_id": new.job_id,
            "report_id": report.report_id.hex(),
            "question": digest_of(new.question.pack()),
            "body_digest": new.question.body_digest.hex(),
            "length": report.length,
            "helper_share": report.helper_share if verdict.message is not None else None,
            "message": verdict.message,
            "code": verdict.code,
            "detail": verdict.detail,
            "at": new.at,
        }
        query = self._tx.insert(ReportRow).values(values).on_conflict_do_nothing().returning(ReportRow.site_id)
        return await self._session.scalar(query) is not None

    async def judged(self, round_id: RoundId) -> dict[SiteId, Judged]:
        """Return every report of the round that was verified, by site."""
        rows = await self._session.scalars(select(ReportRow).where(ReportRow.round_id == round_id))
        return {SiteId(row.site_id): _judged(row) for row in rows}

    async def kept(self, round_id: RoundId) -> dict[SiteId, Kept]:
        """Return the accepted reports of a round whose secrets are not erased."""
        query = select(ReportRow).where(ReportRow.round_id == round_id, ReportRow.message.is_not(None))
        rows = await self._session.scalars(query.where(ReportRow.helper_share.is_not(None)))
        return {SiteId(row.site_id): _kept(row) for row in rows}

    async def agree(self, found: HelperRound, agree: Agree, answer: Accepted, now: datetime) -> bool:
        """Store the one set of a round; False, to be rolled back, when the round of the job was opened in another
        attempt, or a row of the job's noise that is not before this round's.
        """
        manifest = found.signed.manifest
        if manifest.noise_row is not None and manifest.noise_row <= await self._last_row(manifest.job_id):
            return False
        for opening in openings_of(manifest, found.id):
            if not await self.opened(opening):
                return False
        agreed = _of(found.id).values(
            members=agree.members,
            root=agree.root,
            share_digest=answer.share_digest,
            accepted=answer.pack(),
            agreed_at=now,
        )
        await self._session.execute(agreed, execution_options=_BY_SQL)
        return True

    async def opened(self, opening: RecordedOpening) -> bool:
        """Write down that this attempt is the one; False when another one is."""
        insert = self._tx.insert(OpeningRow).values(**opening._asdict()).on_conflict_do_nothing()
        return await self._session.scalar(insert.returning(OpeningRow.round_id)) is not None

    async def _last_row(self, job_id: JobId) -> int:
        """Return the last row of the job's correlated noise that was given; 0 where none was."""
        query = select(func.max(OpeningRow.number)).where(OpeningRow.job_id == job_id, OpeningRow.kind == NOISE_ROW)
        return int(await self._session.scalar(query) or 0)

    async def void(self) -> int:
        """Erase the secrets of every round; how many had some."""
        unended = await self.unended()
        for round_id in unended:
            await self.erase(round_id)
        return len(unended)

    async def unended(self) -> list[RoundId]:
        """Return rounds whose secrets are not erased."""
        query = select(RoundRow.id).where(RoundRow.keys.is_not(None))
        return [RoundId(found) for found in await self._session.scalars(query)]

    async def expired(self, now: datetime) -> list[RoundId]:
        """Return rounds whose secrets are to be erased."""
        query = select(RoundRow.id).where(RoundRow.expires_at <= now, RoundRow.keys.is_not(None))
        return [RoundId(found) for found in await self._session.scalars(query)]

    async def erase(self, round_id: RoundId) -> None:
        """Keys and shares go; verdicts, digests and the agreement stay."""
        await self._session.execute(_of(round_id).values(keys=None), execution_options=_BY_SQL)
        shares = update(ReportRow).where(ReportRow.round_id == round_id).values(helper_share=None)
        await self._session.execute(shares, execution_options=_BY_SQL)


def openings_of(manifest: RoundManifest, round_id: RoundId) -> list[RecordedOpening]:
    """Return the round of a job that this round is an attempt at, and the row of the job's noise that it takes."""
    found = [RecordedOpening(manifest.job_id, str(manifest.kind), manifest.number, round_id)]
    if manifest.noise_row is not None:
        found.append(RecordedOpening(manifest.job_id, NOISE_ROW, manifest.noise_row, round_id))
    return found


def _of(round_id: RoundId) -> Any:
    return update(RoundRow).where(RoundRow.id == round_id)


def _round(row: RoundRow) -> HelperRound:
    return HelperRound(
        id=RoundId(row.id),
        signed=SignedManifest.model_validate_json(row.manifest),
        manifest_digest=Digest(row.manifest_digest),
        keys=row.keys,
        expires_at=row.expires_at,
        length=row.length,
        members=row.members,
        root=row.root,
        share_digest=row.share_digest,
        accepted=row.accepted,
    )


def _judged(row: ReportRow) -> Judged:
    return Judged(SiteId(row.site_id), Digest(row.question), ReportVerdict(row.message, row.code, row.detail))


def _kept(row: ReportRow) -> Kept:
    taken = Taken(SiteId(row.site_id), bytes.fromhex(row.report_id), row.length, row.helper_share or b"")
    return Kept(taken, Digest(row.body_digest))
