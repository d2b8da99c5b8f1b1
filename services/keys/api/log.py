"""The HTTP face of the transparency log. Heads and proofs are public: they hold hashes only."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, StringConstraints

from undersong.services.keys.api.rounds import LogUse
from undersong.services.keys.domain import EntryUnknown, HeadOfAnother, HeadsTooMany
from undersong.services.keys.ledger_heads import LedgerHeads
from undersong.shared.errors import Forbidden, Invalid, Unauthenticated, Unavailable
from undersong.shared.identity.verify import CertificateRevoked, Party
from undersong.shared.ids import RoundId
from undersong.shared.transparency.documents import ConsistencyProof, InclusionProof, LogEntry, LoggedRecords, LogHead
from undersong.shared.transparency.ledger_heads import LedgerHead, LedgerHeadInvalid, LoggedLedgerHead
from undersong.shared.web.access import Actor, SiteParty
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


async def _ledger_heads(request: Request) -> LedgerHeads:
    found: LedgerHeads | None = getattr(request.app.state, "ledger_heads", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


HeadsUse = Annotated[LedgerHeads, Depends(_ledger_heads)]
PartyName = Annotated[str, Query(min_length=1, max_length=64)]


class LedgerHeadItems(BaseModel):
    """Heads of one site's ledger in the log's order."""

    items: list[LoggedLedgerHead]


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


@router.post(
    "/ledger-heads",
    status_code=201,
    responses={
        200: {"model": LoggedLedgerHead, "description": "The same head was logged before."},
        **problems(Unauthenticated, CertificateRevoked, Forbidden, HeadOfAnother, LedgerHeadInvalid, HeadsTooMany),
    },
)
async def add_ledger_head(head: LedgerHead, site: SiteParty, heads: HeadsUse, response: Response) -> LoggedLedgerHead:
    """Log how far the asking site's ledger has come, as it signed it; again, and it is answered the same."""
    logged, new = await heads.add(head, site)
    response.status_code = 201 if new else 200
    return logged


@router.get("/ledger-heads", responses=problems(Unauthenticated, Forbidden))
async def get_ledger_heads(
    actor: Actor,
    heads: HeadsUse,
    federation_id: PartyName,
    site_id: PartyName,
    start: Index = 0,
    limit: Annotated[int, Query(ge=1, le=_MOST)] = 100,
) -> LedgerHeadItems:
    """Return the heads of a site's ledger from the entry `start` of the log on, for operators and its federation."""
    if isinstance(actor, Party) and actor.federation_id not in (None, federation_id):
        raise Forbidden("these are heads of another federation")
    return LedgerHeadItems(items=await heads.of_site(federation_id, site_id, start, limit))
