"""The aggregator's HTTP face."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field

from undersong.services.aggregator.contributions.updates import Body, DigestNeeded, Updates, UpdateUnsigned
from undersong.services.aggregator.domain.manifests import manifest_of
from undersong.services.aggregator.domain.refusals import (
    DealerAtFault,
    HelperRefused,
    ManifestUntrusted,
    NotInCohort,
    RoundClosed,
    RoundDiffers,
    RoundOver,
    RoundUnknown,
    SampleCountChanged,
    SampleCountMissing,
    SampleCountUnproved,
    SiteFellOut,
    StepNotOpen,
    UpdateDiffers,
    UpdateRejected,
    WrongLength,
)
from undersong.services.aggregator.domain.rounds import Phase, Reason
from undersong.services.aggregator.domain.steps import opening
from undersong.services.aggregator.rounds.lifecycle import Rounds, RoundView
from undersong.shared.blobs import DigestMismatch
from undersong.shared.errors import (
    Forbidden,
    Invalid,
    LengthRequired,
    StorageFull,
    TooLarge,
    Unauthenticated,
    Unavailable,
    no_such,
)
from undersong.shared.identity.verify import Party
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.secagg.engine import EngineUnknown, ReportMalformed, ReportRepeated, UpdateRefused
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.web.access import Actor, Principal, Role, SiteParty, service_party
from undersong.shared.web.body import announced_digest, receive
from undersong.shared.web.problems import problems
from undersong.shared.wire.manifest import RoundKind, SignedEnginePublic, SignedManifest
from undersong.shared.wire.updates import MalformedUpdate

router = APIRouter(prefix="/v1", tags=["rounds"])

RoundPath = Annotated[RoundId, Path(pattern=r"^rnd_[0-9a-z]{26}$", examples=["rnd_01k5z0000000000000000000aa"])]
UpdateSignature = Annotated[
    str | None,
    Header(
        pattern=r"^[0-9a-f]{128}$",
        description="Where bodies are signed: the site's signature over the digest of the body, in hexadecimal",
    ),
]
Coordinator = Annotated[Party, Depends(service_party("coordinator"))]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "USU1 body: magic, u32le header length, msgpack header, payload. Content-Digest is required.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class RoundOpened(BaseModel):
    """What sites need to hide their updates, signed by the aggregator."""

    engine_public: SignedEnginePublic
    state: Phase


class Receipt(BaseModel):
    """The aggregator holds these bytes durably; the signature covers all but `keyid` and itself."""

    round_id: RoundId
    site_id: SiteId
    digest: Digest
    size: int
    accepted_at: str
    keyid: Digest
    signature: str


class ClippingView(BaseModel):
    """A round's clip norm that moves: the norm, the noisy share of updates within it, and the next round's norm."""

    norm: float
    within: float
    next: float


class RoundResultView(BaseModel):
    """What came of a round. `values` are opened sums, only of statistics and evaluate rounds."""

    version_id: str | None = None
    digest: Digest | None = None
    vector_length: int | None = None
    count: int
    weight: int | None = None
    loss: float | None = None
    clipped: int | None = None
    values: list[float] | None = None
    metrics_layout: str | None = None
    clipping: ClippingView | None = None


class Rejection(BaseModel):
    """An accepted update that could not be used."""

    site_id: SiteId
    code: str
    message: str | None


class FaultView(BaseModel):
    """What a site did against the round's protocol: `dealer-at-fault`, `wrong-share`.

    `shares-disputed` is what others say of it, and proves nothing.
    """

    site_id: SiteId
    code: str
    message: str


class StepView(BaseModel):
    """A step of the engine that takes no more messages."""

    step: str
    sites: int = Field(description="how many sites it is closed over")
    closed_at: datetime = Field(description="when no more messages were taken")


class RoundState(BaseModel):
    """The state of a round. `got` counts accepted updates, one a site."""

    id: RoundId
    job_id: str
    federation_id: str
    kind: RoundKind
    state: Phase
    moves: int = Field(description="how often the state has changed, or the round began to wait for a site again")
    step: str | None = Field(default=None, description="the present step of an engine of several steps")
    steps: list[StepView] = Field(default=[], description="the engine's steps that take no more messages, in order")
    opening: bool = Field(default=False, description="sites may have answered what opens the sum: never ask them again")
    reason: str | None
    got: int
    min_cohort: int
    target: int
    manifest_digest: Digest
    accepted: list[SiteId] = Field(description="sites whose update is accepted")
    rejections: list[Rejection]
    faults: list[FaultView] = Field(
        default=[], description="sites that broke the engine's protocol, or of which others say so"
    )
    samples: dict[SiteId, str] = Field(
        default_factory=dict, description="each accepted site's committed sample count: a point, in hexadecimal"
    )
    result: RoundResultView | None


async def _rounds(request: Request) -> Rounds:
    found: Rounds | None = getattr(request.app.state, "rounds", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


async def _updates(request: Request) -> Updates:
    found: Updates | None = getattr(request.app.state, "updates", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


RoundsNeeded = Annotated[Rounds, Depends(_rounds)]
MovesQuery = Annotated[int | None, Query(ge=0, description="the round's `moves` when the caller decided this")]
UpdatesNeeded = Annotated[Updates, Depends(_updates)]


@router.put(
    "/rounds/{round_id}",
    responses=problems(
        Unauthenticated, ManifestUntrusted, Forbidden, RoundDiffers, HelperRefused, EngineUnknown, Invalid
    ),
)
async def open_round(
    round_id: RoundPath, signed: SignedManifest, coordinator: Coordinator, rounds: RoundsNeeded, request: Request
) -> RoundOpened:
    """Open a round for a manifest; the same manifest again gives the same answer."""
    if signed.manifest.round_id != round_id:
        raise RoundDiffers(f"the manifest is of round {signed.manifest.round_id}")
    stored = await rounds.open(signed, coordinator, getattr(request.app.state, "directory", None))
    public = SignedEnginePublic.model_validate(stored.engine_public)
    return RoundOpened(engine_public=public, state=stored.round.phase)


@router.put(
    "/rounds/{round_id}/updates",
    status_code=201,
    openapi_extra=_BODY,
    responses={
        200: {"model": Receipt, "description": "These bytes are here already; the same receipt."},
        **problems(
            DigestNeeded,
            Unauthenticated,
            Forbidden,
            NotInCohort,
            RoundUnknown,
            UpdateDiffers,
            RoundClosed,
            StepNotOpen,
            SiteFellOut,
            DealerAtFault,
            LengthRequired,
            TooLarge,
            MalformedUpdate,
            UpdateRefused,
            UpdateUnsigned,
            UpdateRejected,
            WrongLength,
            SampleCountMissing,
            SampleCountUnproved,
            SampleCountChanged,
            DigestMismatch,
            StorageFull,
            ReportMalformed,
            ReportRepeated,
        ),
    },
)
async def submit_update(
    round_id: RoundPath,
    site: SiteParty,
    updates: UpdatesNeeded,
    request: Request,
    response: Response,
    update_signature: UpdateSignature = None,
) -> Receipt:
    """Give a site's update to a round, once. Send identical bytes at every retry."""
    digest = announced_digest(request)
    if digest is None:
        raise DigestNeeded("the header Content-Digest with sha-256 is needed")
    stored, receipt = await updates.expect(round_id, site, digest)
    length = int(request.headers.get("content-length", "0"))
    body = Body(receive(request, updates.limit(stored), check_digest=False), length)
    if receipt is None:
        signature = None if update_signature is None else bytes.fromhex(update_signature)
        return Receipt.model_validate(await updates.accept(stored, site, digest, body, signature))
    await body.drain()
    response.status_code = 200
    return Receipt.model_validate(receipt)


@router.post("/rounds/{round_id}/close", responses=problems(Unauthenticated, Forbidden, RoundUnknown))
async def close_round(
    round_id: RoundPath, _: Coordinator, rounds: RoundsNeeded, moves: MovesQuery = None
) -> RoundState:
    """Stop waiting for more updates: go on with the accepted ones, or fail for want of a quorum. Idempotent.

    With `moves`, nothing happens where the round has moved since the caller saw it.
    """
    await rounds.close(round_id, moves)
    return round_state(await rounds.view(round_id))


@router.post("/rounds/{round_id}/cancel", responses=problems(Unauthenticated, Forbidden, RoundUnknown, RoundOver))
async def cancel_round(round_id: RoundPath, _: Coordinator, rounds: RoundsNeeded) -> RoundState:
    """End the round without a result. Idempotent."""
    await rounds.cancel(round_id)
    return round_state(await rounds.view(round_id))


@router.get("/rounds/{round_id}", responses=problems(Unauthenticated, Forbidden, RoundUnknown))
async def get_round(round_id: RoundPath, actor: Actor, rounds: RoundsNeeded) -> RoundState:
    """Return the state of a round, for the coordinator, scientists and auditors."""
    if isinstance(actor, Principal):
        actor.check(Role.SCIENTIST, Role.AUDITOR)
    elif actor.subject.kind != "service" or actor.subject.name != "coordinator":
        raise Forbidden("only the coordinator, a scientist or an auditor may see this")
    view = await rounds.view(round_id)
    if isinstance(actor, Principal):
        hidden = no_such("round", round_id, RoundUnknown)
        actor.check(Role.SCIENTIST, Role.AUDITOR, federation_id=view.stored.federation_id, hidden=hidden)
    return round_state(view)


def _opening(view: RoundView) -> bool:
    facts = engine_facts(manifest_of(view.stored.manifest).engine)
    taken = view.stored.reason == Reason.ROW_TAKEN  # under this number the round would get the same row again
    return view.frozen or taken if facts.opened_by_parties else opening(facts.steps, view.stored.round.step)


def round_state(view: RoundView) -> RoundState:
    """Return the document of a round."""
    stored, rules = view.stored, view.stored.round
    ended = rules.phase is Phase.PUBLISHED
    return RoundState(
        id=rules.id,
        job_id=stored.job_id,
        federation_id=stored.federation_id,
        kind=RoundKind(stored.kind),
        state=rules.phase,
        moves=stored.version,
        step=rules.step,
        steps=[StepView(step=each.step, sites=each.sites, closed_at=each.frozen_at) for each in view.steps],
        opening=_opening(view),
        reason=stored.reason,
        got=rules.got,
        min_cohort=rules.min_cohort,
        target=rules.target,
        manifest_digest=stored.manifest_digest,
        accepted=[c.site_id for c in view.contributions if c.code is None],
        rejections=[Rejection(site_id=c.site_id, code=c.code, message=c.message) for c in view.contributions if c.code],
        faults=[FaultView(site_id=each.site_id, code=each.code, message=each.detail) for each in view.faults],
        samples=dict(view.samples),
        result=RoundResultView.model_validate(stored.result) if ended and stored.result is not None else None,
    )
