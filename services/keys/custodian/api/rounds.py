"""A custodian's routes: for the aggregator alone."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Request, Response

from undersong.services.keys.custodian.domain import (
    EngineWithoutCustodians,
    NothingSummed,
    OtherManifest,
    OtherSet,
    RoundNotBegun,
    SumGiven,
)
from undersong.services.keys.custodian.rounds import CustodianRounds
from undersong.services.keys.domain import ManifestUntrusted, RoundVoided
from undersong.services.keys.signatories import SignatureUntrusted
from undersong.shared.errors import Forbidden, TooLarge, Unauthenticated, Unavailable
from undersong.shared.identity.verify import CertificateRevoked, Party
from undersong.shared.ids import RoundId
from undersong.shared.secagg.oneshot.messages import BeginAsk, CheckAsk, SumAsk
from undersong.shared.secagg.strict import MessageMalformed
from undersong.shared.web.access import service_party
from undersong.shared.web.body import receive
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1", tags=["rounds"])

RoundPath = Annotated[RoundId, Path(pattern=r"^rnd_[0-9a-z]{26}$", examples=["rnd_01k5z0000000000000000000aa"])]
Aggregator = Annotated[Party, Depends(service_party("aggregator"))]
MOST_BYTES: Final = 1 << 30
"""Of a question: 33 kB for each site of a round."""
_BINARY: Final[dict[str, Any]] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_REFUSED: Final = (Unauthenticated, CertificateRevoked, Forbidden, RoundVoided, TooLarge, MessageMalformed)


def _body(description: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "description": description, "content": _BINARY}}


async def _rounds(request: Request) -> CustodianRounds:
    found: CustodianRounds | None = getattr(request.app.state, "rounds", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


RoundsUse = Annotated[CustodianRounds, Depends(_rounds)]


@router.put(
    "/rounds/{round_id}",
    response_class=Response,
    openapi_extra=_body("msgpack map: manifest (bytes of the signed manifest as JSON)."),
    responses={
        200: {"content": _BINARY, "description": "msgpack map: share_key, keyid, signature."},
        **problems(*_REFUSED, ManifestUntrusted, OtherManifest, EngineWithoutCustodians),
    },
)
async def begin_round(round_id: RoundPath, _: Aggregator, rounds: RoundsUse, request: Request) -> Response:
    """Take part in a round; the same manifest again gets the same key."""
    return _binary((await rounds.begin(round_id, BeginAsk.unpack(await _read(request)))).pack())


@router.post(
    "/rounds/{round_id}/checks",
    response_class=Response,
    openapi_extra=_body("msgpack map: set (members, root), witnessed (nonce, keyid, signature), dealt (of each site)."),
    responses={
        200: {"content": _BINARY, "description": "msgpack list: for each site [site, word] or [site, reason]."},
        **problems(*_REFUSED, RoundNotBegun, SignatureUntrusted, OtherSet),
    },
)
async def check_shares(round_id: RoundPath, _: Aggregator, rounds: RoundsUse, request: Request) -> Response:
    """Answer about the shares of the one set that the witness signed; the same set again gets the same answer."""
    return _binary(await rounds.check(round_id, CheckAsk.unpack(await _read(request))))


@router.post(
    "/rounds/{round_id}/sum",
    response_class=Response,
    openapi_extra=_body("msgpack map: members (bitmap over the cohort), root and sum_key (32 bytes each)."),
    responses={
        200: {"content": _BINARY, "description": "msgpack map: sealed (the sum of shares), keyid, signature."},
        **problems(*_REFUSED, RoundNotBegun, NothingSummed, SumGiven),
    },
)
async def give_sum(round_id: RoundPath, _: Aggregator, rounds: RoundsUse, request: Request) -> Response:
    """Return the sum of shares over the set: for one attempt at a round of a job."""
    return _binary((await rounds.give(round_id, SumAsk.unpack(await _read(request)))).pack())


async def _read(request: Request) -> bytes:
    return b"".join([chunk async for chunk in receive(request, MOST_BYTES)])


def _binary(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream")
