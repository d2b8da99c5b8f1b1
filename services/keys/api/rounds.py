"""The HTTP face of the witness and of round records."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, Field

from undersong.services.keys.authority import pem_of
from undersong.services.keys.domain import (
    AlreadyWitnessed,
    CertificateUnknown,
    ManifestUntrusted,
    NonceUnknown,
    RecordDiffers,
    RecordUnknown,
    RoundVoided,
)
from undersong.services.keys.log import Log
from undersong.services.keys.rounds import RoundRecords
from undersong.services.keys.witness import Witness, WitnessQuestion
from undersong.shared.errors import Forbidden, Invalid, TooLarge, Unauthenticated, Unavailable
from undersong.shared.identity.authority import public_bytes
from undersong.shared.identity.verify import CertificateRevoked, Party
from undersong.shared.ids import Digest, RoundId
from undersong.shared.secagg.pairwise.messages import MAX_BYTES, MalformedStep
from undersong.shared.secagg.pairwise.witness import WitnessRefused
from undersong.shared.transparency.documents import LoggedRecord, RoundRecord
from undersong.shared.transparency.records import RecordInvalid
from undersong.shared.web.access import Actor, service_party
from undersong.shared.web.body import receive_whole
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1")

RoundPath = Annotated[RoundId, Path(pattern=r"^rnd_[0-9a-z]{26}$", examples=["rnd_01k5z0000000000000000000aa"])]
Coordinator = Annotated[Party, Depends(service_party("coordinator"))]
Aggregator = Annotated[Party, Depends(service_party("aggregator"))]
_BINARY: Final[dict[str, Any]] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_QUESTION: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "msgpack map: manifest (bytes of the signed manifest as JSON), ask (the engine's question).",
        "content": _BINARY,
    }
}


class WitnessView(BaseModel):
    """Who witnesses: the key that signs rosters, survivors and log heads."""

    keyid: Digest
    public_key: str = Field(description="32 bytes of an Ed25519 public key in hex")
    certificate_pem: str
    epoch: int = Field(description="Rounds of earlier epochs are void; it goes up when the database was restored")


class NonceCommitment(BaseModel):
    """What belongs into the round's manifest."""

    commitment: Digest
    epoch: int


async def _witness(request: Request) -> Witness:
    found: Witness | None = getattr(request.app.state, "witness", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


async def _records(request: Request) -> RoundRecords:
    found: RoundRecords | None = getattr(request.app.state, "records", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


async def _log(request: Request) -> Log:
    found: Log | None = getattr(request.app.state, "log", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


WitnessUse = Annotated[Witness, Depends(_witness)]
RecordsUse = Annotated[RoundRecords, Depends(_records)]
LogUse = Annotated[Log, Depends(_log)]


@router.get("/witness", tags=["witness"])
async def get_witness(witness: WitnessUse) -> WitnessView:
    """Return the witness's certificate and epoch. Public: its signatures are checked with them."""
    identity = witness.identity
    return WitnessView(
        keyid=identity.keyid,
        public_key=public_bytes(identity.private_key.public_key()).hex(),
        certificate_pem=pem_of(identity.certificate),
        epoch=await witness.epoch(),
    )


@router.post(
    "/rounds/{round_id}/nonce-commitments",
    status_code=201,
    tags=["witness"],
    responses=problems(Unauthenticated, CertificateRevoked, Forbidden, RoundVoided),
)
async def commit_nonce(round_id: RoundPath, coordinator: Coordinator, witness: WitnessUse) -> NonceCommitment:
    """Commit to the round's nonce, which is opened with the roster; asking again gives the same."""
    given = await witness.commit(round_id, coordinator)
    return NonceCommitment(commitment=given.commitment, epoch=given.epoch)


@router.post(
    "/rounds/{round_id}/witness",
    tags=["witness"],
    response_class=Response,
    openapi_extra=_QUESTION,
    responses={
        200: {"content": _BINARY, "description": "To a roster: msgpack list of nonce and signature. Else a signature."},
        **problems(
            Unauthenticated,
            CertificateRevoked,
            Forbidden,
            ManifestUntrusted,
            WitnessRefused,
            NonceUnknown,
            CertificateUnknown,
            AlreadyWitnessed,
            RoundVoided,
            TooLarge,
            MalformedStep,
            Invalid,
        ),
    },
)
async def ask_witness(round_id: RoundPath, aggregator: Aggregator, witness: WitnessUse, request: Request) -> Response:
    """Have the roster, then the survivors signed: each once; the same question gets the same answer."""
    async with receive_whole(request, MAX_BYTES) as body:
        reply = await witness.answer(round_id, WitnessQuestion.read(body), aggregator)
    return Response(reply, media_type="application/octet-stream")


@router.post(
    "/rounds/{round_id}/records",
    status_code=201,
    tags=["records"],
    responses={
        200: {"model": LoggedRecord, "description": "The same record was logged before."},
        **problems(Unauthenticated, CertificateRevoked, Forbidden, ManifestUntrusted, RecordInvalid, RecordDiffers),
    },
)
async def add_record(
    round_id: RoundPath, record: RoundRecord, aggregator: Aggregator, records: RecordsUse, response: Response
) -> LoggedRecord:
    """Log the record of a published round, once it is checked; again, and it is answered the same."""
    if record.round_id != round_id:
        raise RecordInvalid(f"the record is of round {record.round_id}")
    logged, new = await records.add(record, aggregator)
    response.status_code = 201 if new else 200
    return logged


@router.get(
    "/rounds/{round_id}/record", tags=["records"], responses=problems(Unauthenticated, Forbidden, RecordUnknown)
)
async def get_record(round_id: RoundPath, actor: Actor, log: LogUse) -> LoggedRecord:
    """Return the round's record with its proof; sites see those of their own federation."""
    only = actor.subject.federation_id if isinstance(actor, Party) else None
    return await log.record(round_id, only)
