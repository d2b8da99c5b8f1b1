"""Sign-on of commands by the device flow (RFC 8628): a code that a person confirms in a browser becomes a token."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from undersong.services.coordinator.api.access import Use
from undersong.services.coordinator.peers.issuer import DevicePending, IssuerAway, SignOnRefused
from undersong.services.coordinator.sign_on import NoMappedGroup, SignOn
from undersong.services.coordinator.use_cases import UseCases
from undersong.services.coordinator.views import View
from undersong.services.coordinator.views.members import NewTokenView
from undersong.shared.clock import utc_now
from undersong.shared.errors import Conflict, Unauthenticated
from undersong.shared.web.access import Caller, Presented
from undersong.shared.web.limits import RateLimited
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1", tags=["sign-on"])


class NoSignOn(Conflict):
    """No issuer signs people on at this platform."""


class SignOnView(View):
    """Who signs people on; null: API tokens alone."""

    issuer: str | None = Field(examples=["https://id.example.org/realms/fl"])


class DeviceView(View):
    """A sign-on that a person confirms in a browser; `handle` is for the program that asked, alone."""

    handle: str
    user_code: str = Field(examples=["WDJB-MJHT"])
    verification_uri: str = Field(examples=["https://id.example.org/realms/fl/device"])
    verification_uri_complete: str | None
    interval_s: int = Field(description="Least seconds between two questions.")
    expires_in_s: int


class DeviceQuestion(BaseModel):
    """A sign-on that was begun."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"handle": "01ab…"}]})

    handle: str = Field(min_length=1, max_length=8192)


class DeviceAnswer(View):
    """The state of a sign-on; `slower`: ask five seconds less often from now on. The token is shown here alone."""

    state: Literal["pending", "slower", "done"]
    token: NewTokenView | None = None


@router.get("/sign-on")
async def sign_on(use: Use) -> SignOnView:
    """Return who signs people on."""
    return SignOnView(issuer=None if use.sign_on is None else use.sign_on.issuer.registration.issuer)


@router.post("/sign-on/devices", status_code=201, responses=problems(NoSignOn, SignOnRefused, IssuerAway, RateLimited))
async def begin_device(request: Request, use: Use) -> DeviceView:
    """Begin a sign-on: show the person the address and the code, then ask for the token until it is there."""
    found = await _sign_on(use).begin_device(request.client.host if request.client else "", utc_now())
    return DeviceView(
        handle=found.handle,
        user_code=found.user_code,
        verification_uri=found.verification_uri,
        verification_uri_complete=found.verification_uri_complete,
        interval_s=found.interval_s,
        expires_in_s=found.expires_in_s,
    )


@router.post("/sign-on/tokens", responses=problems(NoSignOn, SignOnRefused, NoMappedGroup, IssuerAway, RateLimited))
async def finish_device(body: DeviceQuestion, use: Use) -> DeviceAnswer:
    """Return the token once the person has confirmed the code; it ends with the sign-on."""
    try:
        return DeviceAnswer(state="done", token=await _sign_on(use).finish_device(body.handle, utc_now()))
    except DevicePending as pending:
        return DeviceAnswer(state="slower" if pending.slower else "pending")


@router.delete("/sign-on", status_code=204, responses=problems(Unauthenticated))
async def sign_out(_person: Caller, credentials: Presented, use: Use) -> Response:
    """End the sign-on whose token is presented; a token that no sign-on made stays as it is. Idempotent."""
    if credentials is not None:
        await use.accounts.end_sign_on(credentials.credentials)
    return Response(status_code=204)


def _sign_on(use: UseCases) -> SignOn:
    if use.sign_on is None:
        raise NoSignOn("Use an API token: undersong login --token-file FILE.")
    return use.sign_on
