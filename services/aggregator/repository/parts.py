"""The SQL of parts: disjoint sets of a round's contributions that any worker may fold into a partial sum.

A part belongs to the fence of the worker that holds the round, and is claimed under a token: what comes of an earlier
claim, or under an earlier fence, finds nothing to update.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, insert, or_, select, update

from undersong.services.aggregator.domain.rounds import OPEN_PHASES
from undersong.services.aggregator.repository.rounds import WORK_TOPIC
from undersong.services.aggregator.tables import PartRow, RoundRow
from undersong.shared.database import Transaction
from undersong.shared.ids import Digest, RoundId

PARTS_TOPIC = "aggregator.parts"
"""For the aggregator's own workers: there are parts to fold."""
PARTS = "parts"
"""The subject of all events of this topic: they concern every worker, whatever the round."""
_BY_SQL = {"synchronize_session": False}


@dataclass(frozen=True, slots=True)
class Part:
    """A claimed part. `members`: ids of its contributions; `claim` tells this claim from every other."""

    id: int
    round_id: RoundId
    fence: int
    members: tuple[int, ...]
    claim: str


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A part that was folded: of `folded`, sealed under `key` in the blob `digest`; both None where there is no sum."""

    id: int
    claim: str
    members: tuple[int, ...]
    folded: tuple[int, ...]
    digest: Digest | None
    key: bytes | None


@dataclass(frozen=True, slots=True)
class Stale:
    """A part that is no longer needed, with its blob."""

    id: int
    round_id: RoundId
    fence: int
    digest: Digest | None


class PartRepository:
    """Parts, in one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx, self._session = tx, tx.session

    async def offer(self, round_id: RoundId, fence: int, parts: Sequence[Sequence[int]]) -> None:
        """Store parts for any worker to claim, and notify all workers."""
        rows = [{"round_id": round_id, "fence": fence, "members": list(members)} for members in parts]
        await self._session.execute(insert(PartRow), rows)
        await self._tx.emit(PARTS_TOPIC, "parts.offered", PARTS)

    async def take_own(self, round_id: RoundId, fence: int, worker_id: str) -> Part | None:
        """Return the holder's next part; its claim has no end, because its hold on the round has one."""
        mine = (PartRow.round_id == round_id, PartRow.fence == fence)
        return await self._claim([*mine, _free(await self._tx.now())], worker_id, None)

    async def claim(self, worker_id: str, lease: timedelta) -> Part | None:
        """Return a part of a round that another, living worker holds."""
        now = await self._tx.now()
        return await self._claim([_free(now), _wanted(now, worker_id)], worker_id, now + lease)

    async def any_free(self, worker_id: str) -> bool:
        """Return whether `claim` would find one."""
        now = await self._tx.now()
        found = select(PartRow.id).where(_free(now), _wanted(now, worker_id)).limit(1)
        return await self._session.scalar(found) is not None

    async def _claim(self, where: Sequence[ColumnElement[bool]], worker_id: str, until: datetime | None) -> Part | None:
        chosen = select(PartRow.id).where(*where).order_by(PartRow.id).limit(1)
        chosen = chosen.with_for_update(skip_locked=True, of=PartRow)
        values = {"worker_id": worker_id, "until": until, "claim": secrets.token_hex(16)}
        query = update(PartRow).where(PartRow.id == chosen.scalar_subquery()).values(**values).returning(PartRow)
        row = await self._session.scalar(query, execution_options={**_BY_SQL, "populate_existing": True})
        return (
            None if row is None else Part(row.id, RoundId(row.round_id), row.fence, tuple(row.members), row.claim or "")
        )

    async def renew(self, part: Part, lease: timedelta) -> bool:
        """Keep the part for longer; False when it is no longer this claim's."""
        return await self._change(part, until=await self._tx.now() + lease)

    async def give_back(self, part: Part) -> None:
        """Another may take it; the holder is told."""
        if await self._change(part, worker_id=None, until=None, claim=None):
            await self._tx.emit(WORK_TOPIC, "part.given_back", part.round_id)

    async def hand_in(self, part: Part, folded: Sequence[int], digest: Digest | None, key: bytes | None) -> bool:
        """Note that the part is folded; return False, and change nothing, when it is no longer this claim's."""
        if not await self._change(part, handed_in=True, folded=list(folded), digest=digest, key=key):
            return False
        await self._tx.emit(WORK_TOPIC, "part.handed_in", part.round_id)
        return True

    async def _change(self, part: Part, **values: Any) -> bool:
        query = update(PartRow).where(PartRow.id == part.id, PartRow.claim == part.claim)
        query = query.where(PartRow.handed_in.is_(False)).values(**values).returning(PartRow.id)
        return await self._session.scalar(query, execution_options=_BY_SQL) is not None

    async def handed_in(self, round_id: RoundId, fence: int) -> list[HandedIn]:
        """Return the partial sums that were submitted under this fence."""
        query = select(PartRow).where(PartRow.round_id == round_id, PartRow.fence == fence, PartRow.handed_in)
        rows = await self._session.scalars(query.order_by(PartRow.id))
        return [
            HandedIn(
                row.id,
                row.claim or "",
                tuple(row.members),
                tuple(row.folded or ()),
                None if row.digest is None else Digest(row.digest),
                row.key,
            )
            for row in rows
        ]

    async def under_way(self, round_id: RoundId, fence: int) -> datetime | None:
        """Return when the first claim of another worker on a part of this fence runs out; None where there is none."""
        query = select(PartRow.until).where(PartRow.round_id == round_id, PartRow.fence == fence)
        query = query.where(PartRow.until.is_not(None), PartRow.handed_in.is_(False))
        return await self._session.scalar(query.order_by(PartRow.until).limit(1))

    async def stale(self, limit: int = 100) -> list[Stale]:
        """Parts of rounds that have ended, or of a hold before the present one."""
        ended = RoundRow.phase.not_in(OPEN_PHASES)
        query = select(PartRow.id, PartRow.round_id, PartRow.fence, PartRow.digest)
        query = query.join(RoundRow, RoundRow.id == PartRow.round_id).where(or_(ended, RoundRow.fence != PartRow.fence))
        rows = await self._session.execute(query.limit(limit))
        return [Stale(r.id, RoundId(r.round_id), r.fence, None if r.digest is None else Digest(r.digest)) for r in rows]

    async def drop(self, ids: Sequence[int]) -> None:
        """Forget parts that are done with, whose blobs are gone."""
        if ids:
            await self._session.execute(delete(PartRow).where(PartRow.id.in_(ids)), execution_options=_BY_SQL)

    async def forget(self, part: Stale) -> None:
        """Delete a stale part, unless its sum was submitted since it was looked at."""
        same = PartRow.digest.is_(None) if part.digest is None else PartRow.digest == part.digest
        query = delete(PartRow).where(PartRow.id == part.id, PartRow.round_id == part.round_id, same)
        await self._session.execute(query.where(PartRow.fence == part.fence), execution_options=_BY_SQL)


def _free(now: datetime) -> ColumnElement[bool]:
    """Match parts without a claim, or with one whose lease has expired."""
    return PartRow.handed_in.is_(False) & or_(PartRow.claim.is_(None), PartRow.until < now)


def _wanted(now: datetime, worker_id: str) -> ColumnElement[bool]:
    """Return its round is held under the same fence, by another worker that lives."""
    return exists().where(
        RoundRow.id == PartRow.round_id,
        RoundRow.fence == PartRow.fence,
        RoundRow.phase.in_(OPEN_PHASES),
        RoundRow.worker_until >= now,
        RoundRow.worker_id != worker_id,
    )
