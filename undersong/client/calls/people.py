"""Requests about users, tokens, sign-on and actions that wait for a second person."""

from collections.abc import Iterable, Mapping
from typing import Any

from undersong.client import types as t
from undersong.client.calls.call import Call, get, post, quoted


def set_roles(user_id: str, roles: Iterable[Mapping[str, Any]]) -> Call[t.User]:
    """Give a user exactly these roles."""
    body = {"roles": [dict(role) for role in roles]}
    return Call("coordinator", "PUT", f"/users/{quoted(user_id)}/roles", t.User, body=body)


def revoke_user(user_id: str) -> Call[dict[str, Any]]:
    """Revoke a user with all tokens and roles."""
    return Call("coordinator", "DELETE", f"/users/{quoted(user_id)}", dict[str, Any])


def request_action(action: str, subject: str, data: Mapping[str, Any], reason: str) -> Call[t.PendingAction]:
    """Ask for a change that another person confirms."""
    body = {"action": action, "subject": subject, "data": dict(data), "reason": reason}
    return post("coordinator", "/pending-actions", t.PendingAction, body)


def pending_actions(after: str | None = None) -> Call[t.Page[t.PendingAction]]:
    """Return the changes that waited or wait for a second person."""
    return get("coordinator", "/pending-actions", t.Page[t.PendingAction], after=after)


def confirm_action(action_id: str) -> Call[t.PendingAction]:
    """Confirm what another person asked for."""
    return post("coordinator", f"/pending-actions/{quoted(action_id)}/confirmation", t.PendingAction)


def withdraw_action(action_id: str) -> Call[t.PendingAction]:
    """Withdraw a change that waits, or refuse it."""
    return Call("coordinator", "DELETE", f"/pending-actions/{quoted(action_id)}", t.PendingAction)


def audit_entries(after: str | None = None) -> Call[t.Page[t.AuditEntry]]:
    """Return what people changed, newest first."""
    return get("coordinator", "/audit-entries", t.Page[t.AuditEntry], after=after)


def create_user(name: str, roles: list[Mapping[str, Any]]) -> Call[t.User]:
    """Add a user with roles [{role, federation_id | null}]."""
    return post("coordinator", "/users", t.User, {"name": name, "roles": roles})


def users(after: str | None = None) -> Call[t.Page[t.User]]:
    """Return every user (administrator of all federations)."""
    return get("coordinator", "/users", t.Page[t.User], after=after)


def tokens(user_id: str | None = None, after: str | None = None) -> Call[t.Page[t.Token]]:
    """Return the caller's tokens, or as an administrator another user's."""
    return get("coordinator", "/tokens", t.Page[t.Token], user_id=user_id, after=after)


def revoke_token(token_id: str) -> Call[dict[str, Any]]:
    """Revoke a token."""
    return Call("coordinator", "DELETE", f"/tokens/{quoted(token_id)}", dict[str, Any])


def create_token(body: Mapping[str, Any]) -> Call[t.Token]:
    """Make an API token; its secret is in this answer only."""
    return post("coordinator", "/tokens", t.Token, body)


def sign_on() -> Call[t.SignOn]:
    """Return who signs people on."""
    return get("coordinator", "/sign-on", t.SignOn)


def begin_sign_on() -> Call[t.DeviceSignOn]:
    """Begin a sign-on that a person confirms in a browser."""
    return post("coordinator", "/sign-on/devices", t.DeviceSignOn)


def finish_sign_on(handle: str) -> Call[t.DeviceAnswer]:
    """Return the token of a sign-on once it is confirmed."""
    return post("coordinator", "/sign-on/tokens", t.DeviceAnswer, {"handle": handle})


def end_sign_on() -> Call[dict[str, Any]]:
    """End the sign-on of the token that is shown."""
    return Call("coordinator", "DELETE", "/sign-on", dict[str, Any])


def me() -> Call[t.Me]:
    """Return who the token belongs to."""
    return get("coordinator", "/me", t.Me)
