"""What the client does with users, tokens, sign-on and actions that wait for a second person."""

from collections.abc import Iterable, Mapping
from typing import Any

from undersong.client import types as t
from undersong.client.aio.connection import AsyncConnection
from undersong.client.calls import people as calls


class AsyncPeopleMethods(AsyncConnection):
    """Methods about users, tokens, sign-on and actions that wait for a second person."""

    async def me(self) -> t.Me:
        """Return the user to whom the token belongs, with the roles."""
        return await self.send(calls.me())

    async def create_user(self, name: str, roles: list[Mapping[str, Any]]) -> t.User:
        """Add a user with roles [{role, federation_id | null}] (administrator of all federations)."""
        return await self.send(calls.create_user(name, roles))

    async def sign_on(self) -> t.SignOn:
        """Return who signs people on at this platform; needs no token."""
        return await self.send(calls.sign_on())

    async def begin_sign_on(self) -> t.DeviceSignOn:
        """Begin a sign-on: show `verification_uri` and `user_code` to a person; needs no token."""
        return await self.send(calls.begin_sign_on())

    async def finish_sign_on(self, handle: str) -> t.DeviceAnswer:
        """Return how a sign-on stands, and the token once the person has confirmed it; needs no token."""
        return await self.send(calls.finish_sign_on(handle))

    async def end_sign_on(self) -> None:
        """End the sign-on whose token this client shows; a token made by hand stays as it is. Idempotent."""
        await self.send(calls.end_sign_on())

    async def create_token(self, body: Mapping[str, Any]) -> t.Token:
        """Create an API token {name, user_id, expires_in_s, scopes}; only this answer holds its secret."""
        return await self.send(calls.create_token(body))

    async def users(self) -> list[t.User]:
        """Return every user, oldest first (administrator of all federations)."""
        return await self.all(calls.users)

    async def tokens(self, user_id: str | None = None) -> list[t.Token]:
        """Return the caller's tokens, or as an administrator another user's, oldest first."""
        return await self.all(lambda after: calls.tokens(user_id, after))

    async def revoke_token(self, token_id: str) -> None:
        """Revoke a token; every service refuses it within seconds. Idempotent."""
        await self.send(calls.revoke_token(token_id))

    async def set_roles(self, user_id: str, roles: Iterable[Mapping[str, Any]]) -> t.User:
        """Give another user exactly these roles (admin of all federations). Idempotent."""
        return await self.send(calls.set_roles(user_id, roles))

    async def revoke_user(self, user_id: str) -> None:
        """Revoke another user with all tokens and roles (admin of all federations). Idempotent."""
        await self.send(calls.revoke_user(user_id))

    async def request_action(
        self, action: str, subject: str, data: Mapping[str, Any] | None = None, reason: str = ""
    ) -> t.PendingAction:
        """Ask for a change that another person confirms, where the two-person rule is on.

        action: site.suspend, user.revoke, user.roles (`data` has the roles) or token.revoke; `subject` is the id.
        """
        return await self.send(calls.request_action(action, subject, data or {}, reason))

    async def pending_actions(self) -> list[t.PendingAction]:
        """Return the changes that waited or wait for a second person, newest first (admin, owner)."""
        return await self.all(calls.pending_actions)

    async def confirm_action(self, action_id: str) -> t.PendingAction:
        """Confirm what another person asked for: it is done at once. Idempotent."""
        return await self.send(calls.confirm_action(action_id))

    async def withdraw_action(self, action_id: str) -> t.PendingAction:
        """Withdraw a change that waits, or refuse it. Idempotent."""
        return await self.send(calls.withdraw_action(action_id))

    async def audit_entries(self, most: int = 100) -> list[t.AuditEntry]:
        """Return the newest changes to sites, people and their rights, at most `most` (admin, auditor)."""
        found: list[t.AuditEntry] = []
        after = None
        while len(found) < most:
            page = await self.send(calls.audit_entries(after))
            found += page.items
            after = page.next
            if after is None:
                break
        return found[:most]
