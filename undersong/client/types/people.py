"""Users, tokens, sign-on, and what people changed."""

from datetime import datetime
from typing import Any

from pydantic import Field

from undersong.client.types.base import Answer


class Token(Answer):
    """An API token; `token` is in the answer that made it alone."""

    id: str
    name: str = ""
    user_id: str = ""
    token: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    scopes: list[str] | None = None
    sign_on: bool = False


class SignOn(Answer):
    """Who signs people on; None: API tokens alone."""

    issuer: str | None = None


class DeviceSignOn(Answer):
    """A sign-on that a person confirms in a browser."""

    handle: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None = None
    interval_s: int = 5
    expires_in_s: int = 600


class DeviceAnswer(Answer):
    """How a sign-on stands: "pending", "slower" (ask five seconds less often) or "done", with the token."""

    state: str
    token: Token | None = None


class User(Answer):
    """A person or program that uses the API."""

    id: str
    name: str
    roles: list[dict[str, Any]] = Field(default_factory=list)
    created_at: datetime | None = None
    revoked_at: datetime | None = None


class Me(Answer):
    """Who the present token belongs to."""

    id: str = ""
    name: str = ""
    roles: list[dict[str, Any]] = Field(default_factory=list)


class AuditEntry(Answer):
    """Who changed what about sites, people and their rights."""

    id: str
    at: datetime
    actor: str
    action: str
    subject: str
    federation_id: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class PendingAction(Answer):
    """A change that one person asked for and another confirms; `mine`: the caller asked for it."""

    id: str
    action: str
    subject: str
    name: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    reason: str = ""
    state: str
    requester: str = ""
    requested_at: datetime | None = None
    expires_at: datetime | None = None
    decider: str | None = None
    mine: bool = False
