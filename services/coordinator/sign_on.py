"""Sign-on of people by OpenID Connect: flows of the dashboard and of the command line, users and roles by groups.

A sign-on ends in an API token of the platform, which lasts as long as `oidc_session_s` says. The roles of a user whom
an issuer signs on are those that the groups give, read again at each sign-on; without any, no user is created, and what
earlier sign-ons made is revoked.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from undersong.services.coordinator.accounts import Accounts, insert_token
from undersong.services.coordinator.domain.sign_on import EVERYWHERE, GroupRoles, Profile, roles_of
from undersong.services.coordinator.peers.issuer import Issuer, SignOnRefused
from undersong.services.coordinator.repository.accounts import AccountRepository, StoredGrant, User
from undersong.services.coordinator.repository.audit_log import note
from undersong.services.coordinator.repository.signins import SignInRepository
from undersong.services.coordinator.repository.sites import NameTaken, SiteRepository
from undersong.services.coordinator.views.members import NewTokenView
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import Forbidden
from undersong.shared.identity.sealing import SealBrokenError, Sealer
from undersong.shared.ids import UserId, new_id
from undersong.shared.web.access import Principal
from undersong.shared.web.limits import Buckets

FLOW_LASTS: Final = timedelta(minutes=10)
DASHBOARD: Final = "sign-on at the dashboard"
COMMAND: Final = "sign-on of the command line"
_FLOW_PLACE: Final = ("sign-on", "flow", "browser")
_DEVICE_PLACE: Final = ("sign-on", "flow", "device")
_SHORTEST_POLL_S: Final = 1
_LONGEST_POLL_S: Final = 60
_LONGEST_DEVICE_S: Final = 1800
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class NoMappedGroup(Forbidden):
    """None of the account's groups gives a role on this platform."""


@dataclass(frozen=True, slots=True)
class BrowserFlow:
    """A sign-on that a browser began; it stays in that browser, sealed."""

    state: str
    nonce: str
    verifier: str
    target: str
    until: datetime

    @property
    def mark(self) -> str:
        """What tells flows of one browser apart, and what is stored of a used one."""
        return mark_of(self.state)


@dataclass(frozen=True, slots=True)
class Device:
    """A sign-on that a command began: what to show, and the sealed handle to ask with."""

    handle: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    interval_s: int
    expires_in_s: int


def mark_of(state: str) -> str:
    """Return the mark of a flow by its state."""
    return hashlib.sha256(state.encode()).hexdigest()[:32]


class SignOn:
    """The use cases over one issuer."""

    def __init__(
        self,
        database: Database,
        issuer: Issuer,
        sealer: Sealer,
        groups_claim: str,
        roles: Mapping[str, GroupRoles],
        session_s: float,
    ) -> None:
        self._database, self.issuer, self._sealer = database, issuer, sealer
        self.accounts = Accounts(database, sealer)
        self._groups_claim, self._roles, self._lasts = groups_claim, roles, timedelta(seconds=session_s)
        # each of them is a question to the issuer: answers to browsers and devices by address, devices by handle
        self._answered, self._begun, self._asked = Buckets(1.0, 60), Buckets(0.5, 20), Buckets(1.0, 5)

    async def begin(self, redirect_uri: str, target: str, now: datetime) -> tuple[str, BrowserFlow, bytes]:
        """Return where the browser goes, the flow, and the flow sealed for the browser to keep."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        flow = BrowserFlow(state, nonce, verifier, target, now + FLOW_LASTS)
        url = await self.issuer.authorisation_url(redirect_uri, flow.state, flow.nonce, flow.verifier)
        plain = json.dumps([flow.state, flow.nonce, flow.verifier, flow.target, flow.until.isoformat()])
        return url, flow, self._sealer.seal(plain.encode(), *_FLOW_PLACE)

    def opened(self, sealed: bytes, state: str, now: datetime) -> BrowserFlow:
        """Return the browser's flow of this state; raises SignOnRefused where it is none, or too old."""
        try:
            own, nonce, verifier, target, until = json.loads(self._sealer.open(sealed, *_FLOW_PLACE))
        except (SealBrokenError, ValueError):
            raise _not_begun() from None
        flow = BrowserFlow(own, nonce, verifier, target, datetime.fromisoformat(until))
        if not hmac.compare_digest(flow.state.encode(), state.encode()) or now >= flow.until:
            raise _not_begun()
        return flow

    async def finish(
        self, flow: BrowserFlow, code: str, issuer: str | None, redirect_uri: str, address: str
    ) -> NewTokenView:
        """Return the token of a new session; raises SignOnRefused, NoMappedGroup, IssuerAway and RateLimited.

        A flow is single-use: a second answer with its state is refused before the issuer is asked.
        """
        self._answered.take(address)
        await self.issuer.check_answer(issuer)
        if not await self._database.run("sign_on.claim", lambda tx: SignInRepository(tx).claim(flow.mark, flow.until)):
            raise SignOnRefused("This answer was used before. Begin again.")
        claims = await self.issuer.redeem(code, flow.verifier, redirect_uri, flow.nonce)
        return await self._admit(claims, DASHBOARD)

    async def begin_device(self, address: str, now: datetime) -> Device:
        """Begin a sign-on for a command at this address; raises RateLimited, SignOnRefused and IssuerAway."""
        self._begun.take(address)
        verifier = secrets.token_urlsafe(32)
        answer = await self.issuer.begin_device(verifier)
        lasts, interval = _whole(answer, "expires_in", 600), _whole(answer, "interval", 5)
        lasts = min(lasts, _LONGEST_DEVICE_S)
        until = (now + timedelta(seconds=lasts)).isoformat()
        sealed = self._sealer.seal(json.dumps([answer["device_code"], verifier, until]).encode(), *_DEVICE_PLACE)
        complete = answer.get("verification_uri_complete")
        shown = complete if isinstance(complete, str) and complete.startswith(answer["verification_uri"]) else None
        interval = min(max(interval, _SHORTEST_POLL_S), _LONGEST_POLL_S)
        return Device(sealed.hex(), answer["user_code"], answer["verification_uri"], shown, interval, lasts)

    async def finish_device(self, handle: str, now: datetime) -> NewTokenView:
        """Return the token; raises DevicePending until the person has answered, then what `finish` raises."""
        self._asked.take(mark_of(handle))
        try:
            code, verifier, until = json.loads(self._sealer.open(bytes.fromhex(handle), *_DEVICE_PLACE))
        except (SealBrokenError, ValueError):
            raise SignOnRefused("This handle is not of this platform. Begin again: undersong login --oidc.") from None
        if now >= datetime.fromisoformat(until):
            raise SignOnRefused("The code was not confirmed in time. Begin again: undersong login --oidc.")
        return await self._admit(await self.issuer.poll_device(code, verifier), COMMAND)

    async def _admit(self, claims: Mapping[str, Any], name: str) -> NewTokenView:
        try:
            profile = Profile.of(claims, self._groups_claim)
        except ValueError as error:
            raise SignOnRefused(f"The issuer's answer does not count: {error}.") from None

        async def work(tx: Transaction) -> NewTokenView | None:
            grants, accounts, now = await self._grants(tx, profile), AccountRepository(tx), await tx.now()
            user = await accounts.signed_on(profile.issuer, profile.subject)
            if user is not None and user.revoked_at is not None:
                raise SignOnRefused("Your account was revoked here. Ask an administrator.")
            if user is None and grants:
                user = await _new_user(tx, profile, now)
            if user is None:
                return None
            await accounts.replace_grants(user.id, grants)
            await _note_roles(tx, user, grants)
            if not grants:
                await accounts.revoke_sign_ons(user.id, now)
                return None
            log.info("sign_on.admitted", user_id=user.id, roles=[f"{g.role}:{g.federation_id or '*'}" for g in grants])
            return await insert_token(tx, user.id, name, now + self._lasts, sign_on=True)

        made = await self._database.run("sign_on.admit", work)
        if made is None:
            log.warning("sign_on.no_mapped_group", claim=self._groups_claim, groups=len(profile.groups))
            raise NoMappedGroup(
                "The issuer knows you, but none of your groups gives a role here. Ask an administrator for a group, "
                "then sign on again."
            )
        return made

    async def _grants(self, tx: Transaction, profile: Profile) -> tuple[StoredGrant, ...]:
        """Return the roles of the groups; a federation that does not exist (yet) gives none."""
        found, sites = set(), SiteRepository(tx)
        for role, where in roles_of(profile.groups, self._roles):
            if where == EVERYWHERE:
                found.add(StoredGrant(role, None))
                continue
            federation = await sites.federation_named(where)
            if federation is None:
                log.warning("sign_on.unknown_federation", federation=where)
            else:
                found.add(StoredGrant(role, federation.id))
        return tuple(sorted(found, key=repr))


async def _note_roles(tx: Transaction, user: User, grants: tuple[StoredGrant, ...]) -> None:
    """Append an audit entry for each federation in which the roles are others than before."""
    person = Principal(user.id, user.name, ())
    for at in sorted({each.federation_id for each in (*user.roles, *grants)}, key=str):
        had, has = (sorted(each.role for each in given if each.federation_id == at) for given in (user.roles, grants))
        if had != has:
            await note(tx, person, "user.sign-on", user.id, at, had=had, roles=has, issuer=user.issuer)


async def _new_user(tx: Transaction, profile: Profile, now: datetime) -> User:
    """Create the user, without roles; behind a name that another account has comes the issuer's own for the person."""
    accounts = AccountRepository(tx)
    for name in profile.names:
        user = User(UserId(new_id("usr")), name, (), now, profile.issuer, profile.subject)
        try:
            await accounts.add_user(user)
        except NameTaken:
            other = await accounts.signed_on(profile.issuer, profile.subject)  # of two first sign-ons at once
            if other is not None:
                return other
        else:
            return user
    raise SignOnRefused(f"The names {' and '.join(profile.names)} are taken here. Ask an administrator.")


def _whole(answer: Mapping[str, Any], name: str, default: int) -> int:
    value = answer.get(name, default)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def _not_begun() -> SignOnRefused:
    return SignOnRefused("This sign-on was not begun in this browser, or took longer than ten minutes. Begin again.")
