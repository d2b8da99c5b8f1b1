"""The HTTP face of the transparency log. Heads and proofs are public: they hold hashes only."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, StringConstraints

from undersong.services.keys.api.rounds import LogUse
from undersong.services.keys.domain import EntryUnknown
from undersong.shared.errors import Forbidden, Invalid, Unauthenticated
from undersong.shared.identity.verify import Party
from undersong.shared.ids import RoundId
from undersong.shared.transparency.documents import ConsistencyProof, InclusionProof, LogEntry, LoggedRecords, LogHead
from undersong.shared.web.access import Actor
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1/log", tags=["log"])

_MOST = 500
Index = Annotated[int, Query(ge=0, lt=2**63)]
Since = Annotated[int, Query(ge=0, lt=2**63)]
Rounds = Annotated[
    list[Annotated[RoundId, StringConstraints(pattern=r"^rnd_[0-9a-z]{26}$")]], Query(min_length=1, max_length=16)
]
Size = Annotated[int, Query(ge=1, lt=2**63)]


class RangeInvalid(Invalid):
    """A range of entries begins before its end and holds at most 500."""


class LogEntries(BaseModel):
    """Entries in order; fewer than asked for at the log's end."""

    items: list[LogEntry]


@router.get("/head")
async def get_head(log: LogUse) -> LogHead:
    """Return the log's size and root now, signed."""
    return await log.head()


@router.get("/entries", responses=problems(Unauthenticated, Forbidden, RangeInvalid))
async def get_entries(_actor: Actor, log: LogUse, start: Index, end: Index) -> LogEntries:
    """Return the entries from `start` up to, not including, `end`, for operators and for parties of the federation."""
    if not start <= end <= start + _MOST:
        raise RangeInvalid(f"start <= end <= start + {_MOST} must hold")
    return LogEntries(items=await log.entries(start, end))


@router.get("/records", response_model=LoggedRecords, responses=problems(Unauthenticated, Forbidden, Invalid))
async def get_records(actor: Actor, log: LogUse, round_id: Rounds, since: Since = 0) -> Response:
    """Return the records of up to 16 rounds under one head; sites see those of their own federation.

    `since` is the size of the log when the reader last looked: if it has grown, the proof that it only grew comes too.
    """
    only = actor.subject.federation_id if isinstance(actor, Party) else None
    found = await log.records(round_id, only, since)
    return Response(found.model_dump_json(), media_type="application/json")


@router.get("/proofs/inclusion", responses=problems(EntryUnknown))
async def get_inclusion_proof(log: LogUse, index: Index, size: Size) -> InclusionProof:
    """Prove that entry `index` is in the tree of the first `size` entries."""
    return await log.inclusion(index, size)


@router.get("/proofs/consistency", responses=problems(EntryUnknown))
async def get_consistency_proof(log: LogUse, first: Size, second: Size) -> ConsistencyProof:
    """Return the proof that the tree of the first `first` entries is a prefix of the one of `second`."""
    return await log.consistency(first, second)
