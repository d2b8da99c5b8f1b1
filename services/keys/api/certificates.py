"""The HTTP face of the keys service."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from undersong.services.keys.authority import Authority
from undersong.services.keys.certificates import Certificates
from undersong.services.keys.domain import (
    ApprovalPending,
    CertificateUnknown,
    ChallengeUnknown,
    Issued,
    KeyInUse,
    ProofInvalid,
    PublicKeyInvalid,
    TokenExpired,
    TokenUnknown,
    TokenUsed,
)
from undersong.services.keys.enrolments import Enrolments, TokenRequestDiffers
from undersong.shared.errors import Forbidden, Unauthenticated
from undersong.shared.identity.authority import Subject, keyid_of
from undersong.shared.identity.verify import CertificateRevoked, SignatureInvalid
from undersong.shared.web.access import Actor, AnyParty, Principal, Role, TokenRefused, require
from undersong.shared.web.idempotency import IdempotentOnce
from undersong.shared.web.paging import After, Limit, Listing
from undersong.shared.web.problems import not_allowed, problems
from undersong.shared.wire.forms import OneLine

KeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="32 bytes of an Ed25519 public key in hex")]
ProofHex = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$", description="64 bytes of an Ed25519 signature in hex")]
Keyid = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the certificate's DER in hex")]
Operator = Annotated[Principal, Depends(require(Role.ADMIN))]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_EXAMPLE_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


class Body(BaseModel):
    """Requests name their fields exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AuthorityView(BaseModel):
    """The federation's certificate authority."""

    certificate_pem: str
    fingerprint: str = Field(description="SHA-256 of its DER; compare it over another channel before you trust it")


class TokenRequest(Body):
    """For whom a single-use enrolment token is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"kind": "site", "name": "site_01k5", "federation_id": "fed_01k5"}],
            "oneOf": [
                {
                    "properties": {"kind": {"const": "site"}, "federation_id": {"type": "string"}},
                    "required": ["federation_id"],
                },
                {"properties": {"kind": {"const": "service"}, "federation_id": {"type": "null"}}},
            ],
        }
    )
    kind: Literal["site", "service"]
    name: str = Field(pattern=_NAME, description="The site's id, or the service's name")
    federation_id: str | None = Field(None, pattern=_NAME, description="For a site, and only for a site")
    expires_in_s: int = Field(86_400, ge=60, le=30 * 86_400, strict=True)

    @model_validator(mode="after")
    def _site_has_federation(self) -> "TokenRequest":
        if (self.kind == "site") != (self.federation_id is not None):
            raise ValueError("a site needs federation_id, a service has none")
        return self


class TokenView(BaseModel):
    """The token, shown this once."""

    token_id: str
    token: str
    expires_at: datetime


class ChallengeRequest(Body):
    """The key that wants a certificate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"public_key": _EXAMPLE_KEY}]})
    public_key: KeyHex


class ChallengeView(BaseModel):
    """What the key must sign; see `EnrolmentRequest.proof`."""

    challenge_id: str
    challenge: str
    expires_in_s: int


class EnrolmentRequest(Body):
    """Token and proof of possession."""

    token: SecretStr = Field(max_length=128)
    challenge_id: str = Field(max_length=64)
    public_key: KeyHex
    proof: ProofHex = Field(
        description='Signature of "undersong/enrol/1\\0" || challenge || SHA-256(token) || public key, by that key'
    )


class CertificatePair(BaseModel):
    """A certificate and the authority that issued it."""

    keyid: str
    certificate_pem: str
    ca_certificate_pem: str


class RotationRequest(Body):
    """The party's next key."""

    public_key: KeyHex
    proof: ProofHex = Field(
        description='Signature of "undersong/rotate/1\\0" || present key id (32 bytes) || public key, by the next key'
    )


class CertificateView(BaseModel):
    """One certificate of the directory."""

    keyid: str
    kind: Literal["site", "service"]
    name: str
    federation_id: str | None
    certificate_pem: str
    not_before: datetime
    not_after: datetime
    replaces: str | None
    revoked_at: datetime | None
    reason: str | None

    @classmethod
    def of(cls, issued: Issued) -> "CertificateView":
        """Return the directory's entry."""
        return cls(
            keyid=issued.keyid,
            kind=issued.subject.kind,
            name=issued.subject.name,
            federation_id=issued.subject.federation_id,
            certificate_pem=issued.certificate_pem,
            not_before=issued.not_before,
            not_after=issued.not_after,
            replaces=issued.replaces,
            revoked_at=issued.revoked_at,
            reason=issued.reason,
        )


class RevocationRequest(Body):
    """Why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "laptop stolen"}]})
    reason: OneLine = Field(min_length=1, max_length=200)


class RevocationView(BaseModel):
    """One entry of the feed."""

    sequence: int
    keyid: str
    revoked_at: datetime
    reason: str


async def _enrolments(request: Request) -> Enrolments:
    found: Enrolments = request.app.state.enrolments
    return found


async def _certificates(request: Request) -> Certificates:
    found: Certificates = request.app.state.certificates
    return found


async def _authority(request: Request) -> Authority:
    found: Authority = request.app.state.authority
    return found


EnrolmentUse = Annotated[Enrolments, Depends(_enrolments)]
CertificateUse = Annotated[Certificates, Depends(_certificates)]
AuthorityUse = Annotated[Authority, Depends(_authority)]
router = APIRouter(prefix="/v1")


@router.get("/authority", tags=["authority"])
async def get_authority(authority: AuthorityUse) -> AuthorityView:
    """Return the certificate that every party of the federation trusts."""
    return AuthorityView(certificate_pem=authority.certificate_pem, fingerprint=keyid_of(authority.ca.certificate))


@router.post(
    "/enrolment-tokens",
    status_code=201,
    tags=["enrolment"],
    responses=problems(Unauthenticated, TokenRefused, Forbidden, TokenRequestDiffers),
)
async def create_enrolment_token(
    body: TokenRequest, operator: Operator, once: IdempotentOnce, enrolments: EnrolmentUse
) -> TokenView:
    """Make a single-use token with which one site or service enrols."""
    subject = Subject(body.kind, body.name, body.federation_id)
    life = timedelta(seconds=body.expires_in_s)
    new = await enrolments.create_token(subject, life, principal=operator.user_id, key=once.key)
    return TokenView(token_id=new.token_id, token=new.token, expires_at=new.expires_at)


@router.post("/enrolment-challenges", status_code=201, tags=["enrolment"], responses=problems(PublicKeyInvalid))
async def create_enrolment_challenge(body: ChallengeRequest, enrolments: EnrolmentUse) -> ChallengeView:
    """Ask for the bytes that the new key must sign."""
    fresh = await enrolments.challenge(bytes.fromhex(body.public_key))
    return ChallengeView(challenge_id=fresh.id, challenge=fresh.challenge.hex(), expires_in_s=enrolments.challenge_s)


@router.post(
    "/enrolments",
    status_code=201,
    tags=["enrolment"],
    responses={
        200: {"model": CertificatePair, "description": "The same certificate as before."},
        **problems(
            TokenUnknown,
            ChallengeUnknown,
            TokenUsed,
            KeyInUse,
            TokenExpired,
            ProofInvalid,
            PublicKeyInvalid,
            ApprovalPending,
        ),
    },
)
async def enrol(
    body: EnrolmentRequest, response: Response, enrolments: EnrolmentUse, authority: AuthorityUse
) -> CertificatePair:
    """Exchange token and proof for a certificate; the same token and key always get the same one."""
    token, public_key = body.token.get_secret_value(), bytes.fromhex(body.public_key)
    issued, new = await enrolments.enrol(token, body.challenge_id, public_key, bytes.fromhex(body.proof))
    response.status_code = 201 if new else 200
    return _pair(issued, authority)


@router.post(
    "/certificates/rotations",
    status_code=201,
    tags=["certificates"],
    responses={
        200: {"model": CertificatePair, "description": "The same certificate as before."},
        **problems(SignatureInvalid, CertificateRevoked, ProofInvalid, KeyInUse, CertificateUnknown, PublicKeyInvalid),
    },
)
async def rotate_certificate(
    body: RotationRequest,
    party: AnyParty,
    response: Response,
    certificates: CertificateUse,
    authority: AuthorityUse,
) -> CertificatePair:
    """Get a certificate for the signer's next key; the present one stays valid until its end."""
    issued, new = await certificates.rotate(party, bytes.fromhex(body.public_key), bytes.fromhex(body.proof))
    response.status_code = 201 if new else 200
    return _pair(issued, authority)


@router.get("/certificates", tags=["certificates"], responses=problems(Unauthenticated, Forbidden))
async def list_certificates(
    _actor: Actor,
    certificates: CertificateUse,
    name: Annotated[str | None, Query(pattern=_NAME)] = None,
    limit: Limit = 100,
    after: After = None,
) -> Listing[CertificateView]:
    """Return the directory, by key id, for operators and for parties of the federation."""
    page = await certificates.list(name, limit, after)
    return Listing(items=[CertificateView.of(issued) for issued in page.items], next=page.next)


router.add_api_route("/certificates/rotations", not_allowed, methods=["GET"], include_in_schema=False)


@router.get("/certificates/{keyid}", tags=["certificates"], responses=problems(CertificateUnknown))
async def get_certificate(keyid: Keyid, certificates: CertificateUse) -> CertificateView:
    """Return one certificate. Public: signatures are checked with it."""
    return CertificateView.of(await certificates.get(keyid))


@router.post(
    "/certificates/{keyid}/revocations",
    status_code=201,
    tags=["certificates"],
    responses=problems(Unauthenticated, TokenRefused, Forbidden, CertificateUnknown),
)
async def revoke_certificate(
    keyid: Keyid, body: RevocationRequest, _operator: Operator, certificates: CertificateUse
) -> CertificateView:
    """Revoke a certificate and every one that was rotated from it; asking again changes nothing."""
    return CertificateView.of(await certificates.revoke(keyid, body.reason))


@router.get("/revocations", tags=["certificates"])
async def list_revocations(
    certificates: CertificateUse,
    limit: Limit = 500,
    after: Annotated[int, Query(ge=0, lt=2**63, description="The last sequence number already known.")] = 0,
) -> Listing[RevocationView]:
    """Return the revocation feed: public, in order, for every party to follow."""
    page = await certificates.revocations(after, limit)
    items = [
        RevocationView(sequence=item.sequence, keyid=item.keyid, revoked_at=item.revoked_at, reason=item.reason)
        for item in page.items
    ]
    return Listing(items=items, next=page.next)


def _pair(issued: Issued, authority: Authority) -> CertificatePair:
    return CertificatePair(
        keyid=issued.keyid, certificate_pem=issued.certificate_pem, ca_certificate_pem=authority.certificate_pem
    )
