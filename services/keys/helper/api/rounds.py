"""The helper's HTTP face: for the aggregator alone, which is the leader of its rounds."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Request, Response

from undersong.services.keys.helper.domain import (
    EngineWithoutHelper,
    ManifestUntrusted,
    RoundAnswered,
    RoundDiffers,
    RoundUnknown,
    RoundVoided,
    SetAgreed,
    SetDiffers,
    SetMissing,
    SetUnfit,
)
from undersong.services.keys.helper.rounds import HelperRounds
from undersong.shared.errors import Forbidden, TooLarge, Unauthenticated, Unavailable
from undersong.shared.identity.verify import CertificateRevoked, Party
from undersong.shared.ids import RoundId
from undersong.shared.secagg.twoserver.messages import (
    MAX_BYTES,
    Agree,
    Begin,
    MessageMalformed,
    pack_verdicts,
    unpack_batch,
)
from undersong.shared.web.access import service_party
from undersong.shared.web.body import receive
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1", tags=["rounds"])

RoundPath = Annotated[RoundId, Path(pattern=r"^rnd_[0-9a-z]{26}$", examples=["rnd_01k5z0000000000000000000aa"])]
Leader = Annotated[Party, Depends(service_party("aggregator"))]
_KEY_BYTES: Final = 32
_BINARY: Final[dict[str, Any]] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_REFUSED: Final = (Unauthenticated, CertificateRevoked, Forbidden, RoundVoided, TooLarge, MessageMalformed)


def _body(description: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "description": description, "content": _BINARY}}


async def _rounds(request: Request) -> HelperRounds:
    found: HelperRounds | None = getattr(request.app.state, "rounds", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


RoundsUse = Annotated[HelperRounds, Depends(_rounds)]


@router.get("/alive", status_code=204, response_class=Response, responses=problems(Unauthenticated, Forbidden))
async def alive(_: Leader, __: RoundsUse) -> Response:
    """Return whether the helper would answer now."""
    return Response(status_code=204)


@router.put(
    "/rounds/{round_id}",
    response_class=Response,
    openapi_extra=_body("msgpack map: manifest (bytes of the signed manifest as JSON), leader_key (32 bytes, X25519)."),
    responses={
        200: {"content": _BINARY, "description": "msgpack map: helper_key, keyid, signature, verify_key (sealed)."},
        **problems(*_REFUSED, ManifestUntrusted, RoundDiffers, EngineWithoutHelper),
    },
)
async def begin_round(round_id: RoundPath, _: Leader, rounds: RoundsUse, request: Request) -> Response:
    """Take part in a round; the same manifest again gets the same keys."""
    begun = await rounds.begin(round_id, Begin.unpack(await _read(request)))
    return _binary(begun.pack())


@router.post(
    "/rounds/{round_id}/reports",
    response_class=Response,
    openapi_extra=_body("msgpack list of up to 64 maps: site_id, length, material, body_digest, verifier_share."),
    responses={
        200: {"content": _BINARY, "description": "msgpack list: for each [message, nil, nil] or [nil, code, detail]."},
        **problems(*_REFUSED, RoundUnknown, SetAgreed),
    },
)
async def verify_reports(round_id: RoundPath, _: Leader, rounds: RoundsUse, request: Request) -> Response:
    """Verify reports, each once; the same question again gets the same verdict."""
    return _binary(pack_verdicts(await rounds.verify(round_id, unpack_batch(await _read(request)))))


@router.post(
    "/rounds/{round_id}/set",
    response_class=Response,
    openapi_extra=_body("msgpack map: members (bitmap over the cohort), root (32 bytes, over the bodies' digests)."),
    responses={
        200: {"content": _BINARY, "description": "msgpack map: share_digest, keyid, signature."},
        **problems(*_REFUSED, RoundUnknown, SetUnfit, SetDiffers, RoundAnswered),
    },
)
async def agree_on_set(round_id: RoundPath, _: Leader, rounds: RoundsUse, request: Request) -> Response:
    """Sign whose reports are in the sum: one set a round, one attempt a round of a job."""
    return _binary((await rounds.agree(round_id, Agree.unpack(await _read(request)))).pack())


@router.post(
    "/rounds/{round_id}/share",
    response_class=Response,
    openapi_extra=_body("The leader's key of the round: 32 bytes, X25519."),
    responses={
        200: {"content": _BINARY, "description": "The share of the sum, sealed by HPKE to that key."},
        **problems(*_REFUSED, RoundUnknown, SetMissing),
    },
)
async def give_share(round_id: RoundPath, _: Leader, rounds: RoundsUse, request: Request) -> Response:
    """Return the helper's share of the sum over the set that it signed."""
    key = await _read(request)
    if len(key) != _KEY_BYTES:
        raise MessageMalformed("the leader's key has 32 bytes")
    return _binary(await rounds.share(round_id, key))


async def _read(request: Request) -> bytes:
    return b"".join([chunk async for chunk in receive(request, MAX_BYTES)])


def _binary(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream")
