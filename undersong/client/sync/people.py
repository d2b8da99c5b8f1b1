"""What the client does with users, tokens, sign-on and actions that wait for a second person.

Generated from `aio/people.py` by `make client`: change that file.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from undersong.client import types as t
from undersong.client.calls import people as calls
from undersong.client.sync.connection import Connection


class PeopleMethods(Connection):
    """Methods about users, tokens, sign-on and actions that wait for a second person."""

    def me(self) -> t.Me:
        """Return the user to whom the token belongs, with the roles."""
        return self.send(calls.me())

    def create_user(self, name: str, roles: list[Mapping[str, Any]]) -> t.User:
        """Add a user with roles [{role, federation_id | null}] (administrator of all federations)."""
        return self.send(calls.create_user(name, roles))

    def sign_on(self) -> t.SignOn:
        """Return who signs people on at this platform; needs no token."""
        return self.send(calls.sign_on())

    def begin_sign_on(self) -> t.DeviceSignOn:
        """Begin a sign-on: show `verification_uri` and `user_code` to a person; needs no token."""
        return self.send(calls.begin_sign_on())

    def finish_sign_on(self, handle: str) -> t.DeviceAnswer:
        """Return how a sign-on stands, and the token once the person has confirmed it; needs no token."""
        return self.send(calls.finish_sign_on(handle))

    def end_sign_on(self) -> None:
        """End the sign-on whose token this client shows; a token made by hand stays as it is. Idempotent."""
        self.send(calls.end_sign_on())

    def create_token(self, body: Mapping[str, Any]) -> t.Token:
        """Create an API token {name, user_id, expires_in_s, scopes}; only this answer holds its secret."""
        return self.send(calls.create_token(body))

    def users(self) -> list[t.User]:
        """Return every user, oldest first (administrator of all federations)."""
        return self.all(calls.users)

    def tokens(self, user_id: str | None = None) -> list[t.Token]:
        """Return the caller's tokens, or as an administrator another user's, oldest first."""
        return self.all(lambda after: calls.tokens(user_id, after))

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token; every service refuses it within seconds. Idempotent."""
        self.send(calls.revoke_token(token_id))

    def set_roles(self, user_id: str, roles: Iterable[Mapping[str, Any]]) -> t.User:
        """Give another user exactly these roles (admin of all federations). Idempotent."""
        return self.send(calls.set_roles(user_id, roles))

    def revoke_user(self, user_id: str) -> None:
        """Revoke another user with all tokens and roles (admin of all federations). Idempotent."""
        self.send(calls.revoke_user(user_id))

    def request_action(
        self, action: str, subject: str, data: Mapping[str, Any] | None = None, reason: str = ""
    ) -> t.PendingAction:
        """Ask for a change that another person confirms, where the two-person rule is on.

        action: site.suspend, user.revoke, user.roles (`data` has the roles) or token.revoke; `subject` is the id.
        """
        return self.send(calls.request_action(action, subject, data or {}, reason))

    def pending_actions(self) -> list[t.PendingAction]:
        """Return the changes that waited or wait for a second person, newest first (admin, owner)."""
        return self.all(calls.pending_actions)

    def confirm_action(self, action_id: str) -> t.PendingAction:
        """Confirm what another person asked for: it is done at once. Idempotent."""
        return self.send(calls.confirm_action(action_id))

    def withdraw_action(self, action_id: str) -> t.PendingAction:
        """Withdraw a change that waits, or refuse it. Idempotent."""
        return self.send(calls.withdraw_action(action_id))

    def audit_entries(self, most: int = 100) -> list[t.AuditEntry]:
        """Return the newest changes to sites, people and their rights, at most `most` (admin, auditor)."""
        found: list[t.AuditEntry] = []
        after = None
        while len(found) < most:
            page = self.send(calls.audit_entries(after))
            found += page.items
            after = page.next
            if after is None:
                break
        return found[:most]
