"""Invitations over HTTP: made by the coordinator, approved by operators."""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from undersong.services.keys.api.certificates import Body, Operator
from undersong.services.keys.domain import Invitation, InvitationsOff, InvitationUnknown, KeyNotWaiting, fingerprint_of
from undersong.services.keys.enrolments import TokenRequestDiffers
from undersong.services.keys.invitations import Invitations
from undersong.shared.errors import Forbidden, Unauthenticated
from undersong.shared.identity.authority import Subject
from undersong.shared.identity.verify import Party
from undersong.shared.web.access import TokenRefused, service_party
from undersong.shared.web.idempotency import IdempotentOnce
from undersong.shared.web.paging import After, Limit, Listing
from undersong.shared.web.problems import problems

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_EXAMPLE: Final[dict[str, JsonValue]] = {"site_id": "site_01k5", "federation_id": "fed_01k5", "invited_by": "ada"}
InvitationId = Annotated[str, Path(max_length=64, description="An invitation.")]
Coordinator = Annotated[Party, Depends(service_party("coordinator"))]
router = APIRouter(prefix="/v1/invitations", tags=["enrolment"])


class InvitationRequest(Body):
    """A site that a person invites."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    site_id: str = Field(pattern=_NAME)
    federation_id: str = Field(pattern=_NAME)
    invited_by: str = Field(min_length=1, max_length=200, description="The person's name, for those who approve")
    expires_in_s: int = Field(86_400, ge=60, le=30 * 86_400, strict=True)


class NewInvitationView(BaseModel):
    """The token, shown this once."""

    id: str
    token: str
    expires_at: datetime
    needs_approval: bool = Field(description="Whether an operator approves the key that uses it")


class InvitationView(BaseModel):
    """An invitation without its token."""

    id: str
    site_id: str
    federation_id: str | None
    invited_by: str
    state: Literal["invited", "waiting", "approved", "expired"] = Field(
        description="waiting: a key asked with the token, and an operator must approve it"
    )
    fingerprint: str | None = Field(description="SHA-256 of the public key that asked; compare it with the site's own")
    created_at: datetime
    expires_at: datetime
    asked_at: datetime | None
    approved_at: datetime | None

    @classmethod
    def of(cls, found: tuple[Invitation, str]) -> "InvitationView":
        """Return what is told of an invitation."""
        invitation, state = found
        token = invitation.token
        return cls.model_validate(
            {
                "id": token.id,
                "site_id": token.subject.name,
                "federation_id": token.subject.federation_id,
                "invited_by": token.invited_by,
                "state": state,
                "fingerprint": None if token.used_by is None else fingerprint_of(token.used_by),
                "created_at": invitation.created_at,
                "expires_at": token.expires_at,
                "asked_at": invitation.asked_at,
                "approved_at": token.approved_at,
            }
        )


class ApprovalRequest(Body):
    """The key that was compared with the site's own, over another channel."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"fingerprint": "ab" * 32}]})
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of its public key")


async def _invitations(request: Request) -> Invitations:
    found: Invitations = request.app.state.invitations
    return found


Use = Annotated[Invitations, Depends(_invitations)]


@router.post("", status_code=201, responses=problems(Unauthenticated, Forbidden, InvitationsOff, TokenRequestDiffers))
async def create_invitation(
    body: InvitationRequest, _coordinator: Coordinator, once: IdempotentOnce, use: Use
) -> NewInvitationView:
    """Make a token for a site that a person invites (signed by the coordinator)."""
    site, life = Subject("site", body.site_id, body.federation_id), timedelta(seconds=body.expires_in_s)
    new = await use.invite(site, body.invited_by, life, once.key)
    return NewInvitationView(
        id=new.token_id, token=new.token, expires_at=new.expires_at, needs_approval=use.approved_by_hand
    )


@router.get("", responses=problems(Unauthenticated, Forbidden))
async def list_invitations(
    _operator: Operator,
    use: Use,
    site_id: Annotated[str | None, Query(pattern=_NAME)] = None,
    limit: Limit = 100,
    after: After = None,
) -> Listing[InvitationView]:
    """Return the invitations of one site or of all, with the keys that wait for approval (operator)."""
    page = await use.list(site_id, limit, after)
    return Listing(items=[InvitationView.of(each) for each in page.items], next=page.next)


@router.post(
    "/{invitation_id}/approvals",
    status_code=201,
    responses=problems(Unauthenticated, TokenRefused, Forbidden, InvitationUnknown, KeyNotWaiting),
)
async def approve_invitation(
    invitation_id: InvitationId, body: ApprovalRequest, _operator: Operator, use: Use
) -> InvitationView:
    """Approve the key that asked under an invitation (operator). Idempotent."""
    return InvitationView.of(await use.approve(invitation_id, body.fingerprint))
