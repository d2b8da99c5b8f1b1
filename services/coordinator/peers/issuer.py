"""The issuer that signs people on: OpenID Connect Core 1.0 with PKCE (RFC 7636), and the device flow (RFC 8628).

Its documents are kept for a while (`_Kept`), the keys are found by `kid`. An ID token counts only where signature,
issuer, audience, times and nonce are right; nothing of it, and no secret, is put into a message or a log.
"""

import asyncio
import base64
import hashlib
import json
import re
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote_plus, urlencode

import httpx
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError, SecurityWarning
from joserfc.jwk import JWKRegistry, Key, KeySet
from joserfc.jwt import JWTClaimsRegistry

from undersong.shared.clock import Clock, monotonic
from undersong.shared.errors import Forbidden, Unavailable
from undersong.shared.origins import is_protected

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
LEEWAY_S: Final = 60
DISCOVERY_LASTS_S: Final = 3600.0
KEYS_LAST_S: Final = 300.0  # a key that the issuer withdraws counts no longer than this
KEYS_FLOOR_S: Final = 30.0  # between two looks for a key that is not known
FAILURE_LASTS_S: Final = 3.0
_LARGEST: Final = 1 << 20
_DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_ERROR_CODE: Final = re.compile(r"[a-z_]{1,60}")
T = TypeVar("T")


class IssuerAway(Unavailable):
    """The issuer that signs people on cannot be asked."""


class SignOnRefused(Forbidden):
    """The sign-on was not accepted."""


class DevicePending(Exception):
    """The person has not answered yet; `slower` where the issuer wants to be asked less often."""

    def __init__(self, *, slower: bool) -> None:
        super().__init__()
        self.slower = slower


@dataclass(frozen=True, slots=True)
class Registration:
    """This platform as the issuer knows it; without a secret it is a public client."""

    issuer: str
    client_id: str
    secret: str
    scopes: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an issuer's discovery document says, checked."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    device_endpoint: str | None
    end_session_endpoint: str | None
    names_itself: bool  # in its answers to the browser (RFC 9207)
    secret_in_body: bool

    @classmethod
    def of(cls, document: Mapping[str, Any], issuer: str) -> "Metadata":
        """Read a discovery document; raises IssuerAway for one of another issuer or with unprotected addresses."""
        if document.get("issuer") != issuer:
            raise IssuerAway(
                f"The discovery document of {issuer} is another issuer's: correct COORDINATOR_OIDC_ISSUER."
            )
        methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        return cls(
            authorization_endpoint=_endpoint(document, "authorization_endpoint"),
            token_endpoint=_endpoint(document, "token_endpoint"),
            jwks_uri=_endpoint(document, "jwks_uri"),
            device_endpoint=_optional(document, "device_authorization_endpoint"),
            end_session_endpoint=_optional(document, "end_session_endpoint"),
            names_itself=document.get("authorization_response_iss_parameter_supported") is True,
            secret_in_body="client_secret_basic" not in methods and "client_secret_post" in methods,
        )


class _Kept(Generic[T]):
    """A document that is loaded once for all who wait, kept for a while, and not asked for again at once on failure."""

    def __init__(self, load: Callable[[], Awaitable[T]], lasts_s: float, clock: Callable[[], float]) -> None:
        self._load, self._lasts_s, self._clock = load, lasts_s, clock
        self._lock = asyncio.Lock()
        self._value: T | None = None
        self._failure: IssuerAway | None = None
        self._at = 0.0

    async def get(self, newer_than_s: float | None = None) -> T:
        """Return it, loaded anew where it is older than it may be (or than `newer_than_s`, if that is less)."""
        async with self._lock:
            age = self._clock() - self._at
            if self._failure is not None and age < FAILURE_LASTS_S:
                raise IssuerAway(self._failure.detail, retry_after_s=FAILURE_LASTS_S)
            if self._value is None or age >= min(self._lasts_s, newer_than_s or self._lasts_s):
                self._at = self._clock()
                self._value = self._failure = None
                try:
                    self._value = await self._load()
                except IssuerAway as failure:
                    self._failure = failure
                    raise
            return self._value


class Issuer:
    """One issuer, asked as one client of it."""

    def __init__(
        self, http: httpx.AsyncClient, registration: Registration, clock: Clock, ticks: Callable[[], float] = monotonic
    ) -> None:
        self._http, self._clock, self.registration = http, clock, registration
        self._metadata = _Kept(self._discover, DISCOVERY_LASTS_S, ticks)
        self._keys = _Kept(self._load_keys, KEYS_LAST_S, ticks)

    async def metadata(self) -> Metadata:
        """Return the issuer's addresses; raises IssuerAway."""
        return await self._metadata.get()

    async def authorisation_url(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Return where a browser goes to sign on; of `verifier` only its SHA-256 is told."""
        query = {
            "response_type": "code",
            "client_id": self.registration.client_id,
            "redirect_uri": redirect_uri,
            "scope": self.registration.scopes,
            "state": state,
            "nonce": nonce,
            **_challenge(verifier),
        }
        return _with_query((await self.metadata()).authorization_endpoint, query)

    async def end_session_url(self, back: str) -> str | None:
        """Return where a browser ends its session at the issuer, and comes back; None where that is not offered."""
        endpoint = (await self.metadata()).end_session_endpoint
        if endpoint is None:
            return None
        return _with_query(endpoint, {"client_id": self.registration.client_id, "post_logout_redirect_uri": back})

    async def check_answer(self, named: str | None) -> None:
        """Raise SignOnRefused where an answer to the browser names another issuer, or none though this one does."""
        if named != self.registration.issuer if named is not None else (await self.metadata()).names_itself:
            raise SignOnRefused("The answer is not from the issuer that was asked (mixed-up issuers). Begin again.")

    async def redeem(self, code: str, verifier: str, redirect_uri: str, nonce: str) -> dict[str, Any]:
        """Return the claims of the ID token for a code; raises SignOnRefused and IssuerAway."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        answer = await self._post((await self.metadata()).token_endpoint, {**form, "code_verifier": verifier})
        return await self.check_token(answer, nonce)

    async def begin_device(self, verifier: str) -> dict[str, Any]:
        """Return a device authorisation response (RFC 8628, section 3.2); raises SignOnRefused and IssuerAway.

        PKCE goes with it, as Keycloak asks for it here too where a client has to use it; others ignore it.
        """
        endpoint = (await self.metadata()).device_endpoint
        if endpoint is None:
            raise SignOnRefused("The issuer offers no sign-on for devices (RFC 8628). Use an API token.")
        answer = await self._post(endpoint, {"scope": self.registration.scopes, **_challenge(verifier)})
        _check_device(answer)
        return answer

    async def poll_device(self, device_code: str, verifier: str) -> dict[str, Any]:
        """Return the claims of the ID token; raises DevicePending until the person has answered."""
        form = {"grant_type": _DEVICE_GRANT, "device_code": device_code, "code_verifier": verifier}
        return await self.check_token(await self._post((await self.metadata()).token_endpoint, form), None)

    async def check_token(self, answer: Mapping[str, Any], nonce: str | None) -> dict[str, Any]:
        """Return the claims of an answer's ID token that is good for us; raises SignOnRefused."""
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise SignOnRefused("The issuer gave no ID token: ask for the scope openid (COORDINATOR_OIDC_SCOPES).")
        try:
            try:
                claims = _decoded(token, await self._keys.get())
            except InvalidKeyIdError:  # a new key: look again, but not at every token
                claims = _decoded(token, await self._keys.get(KEYS_FLOOR_S))
            self._check_claims(claims, nonce)
        except (JoseError, ValueError, TypeError) as error:
            reason = getattr(error, "error", None) or type(error).__name__
            raise SignOnRefused(f"The issuer's ID token does not count: {reason}. Begin again.") from None
        return claims

    def _check_claims(self, claims: dict[str, Any], nonce: str | None) -> None:
        """Check them by OpenID Connect Core 1.0, section 3.1.3.7; raises JoseError or ValueError."""
        own = self.registration.client_id
        wanted = JWTClaimsRegistry(
            now=int(self._clock().timestamp()),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self.registration.issuer},
            aud={"essential": True, "value": own},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )
        wanted.validate(claims)
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if claims.get("azp", None if len(audiences) > 1 else own) != own:
            raise ValueError("azp")
        if nonce is not None and claims.get("nonce") != nonce:
            raise ValueError("nonce")

    async def _discover(self) -> Metadata:
        issuer = self.registration.issuer
        _status, document = await self._ask("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        return Metadata.of(document, issuer)

    async def _load_keys(self) -> KeySet:
        _status, document = await self._ask("GET", (await self.metadata()).jwks_uri)
        listed = document.get("keys")
        return KeySet([key for each in (listed if isinstance(listed, list) else []) if (key := _public_key(each))])

    async def _post(self, url: str, form: dict[str, str]) -> dict[str, Any]:
        """Send a form as this client; raises DevicePending, SignOnRefused and IssuerAway."""
        own, auth = self.registration, None
        if own.secret and not (await self.metadata()).secret_in_body:
            auth = httpx.BasicAuth(quote_plus(own.client_id), quote_plus(own.secret))  # RFC 6749, section 2.3.1
        else:
            form = {**form, "client_id": own.client_id, **({"client_secret": own.secret} if own.secret else {})}
        status, answer = await self._ask("POST", url, data=form, auth=auth)
        if status == httpx.codes.OK:
            return answer
        code = answer.get("error")
        if code in ("authorization_pending", "slow_down"):
            raise DevicePending(slower=code == "slow_down")
        if status >= httpx.codes.INTERNAL_SERVER_ERROR or not isinstance(code, str):
            raise IssuerAway(f"The issuer answered {status}.", retry_after_s=2)
        raise SignOnRefused(f"The issuer refused it: {code if _ERROR_CODE.fullmatch(code) else 'no reason given'}.")

    async def _ask(self, method: Literal["GET", "POST"], url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Return status and JSON object of an answer of moderate size; raises IssuerAway."""
        body = bytearray()
        try:
            headers = {"accept": "application/json"}
            async with self._http.stream(method, url, headers=headers, **more) as answer:
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > _LARGEST:
                        raise IssuerAway("The issuer's answer is larger than 1 MiB.")
            document = json.loads(body)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            raise IssuerAway(f"The issuer gave no usable answer ({type(error).__name__}).", retry_after_s=2) from None
        if not isinstance(document, dict) or (method == "GET" and answer.status_code != httpx.codes.OK):
            raise IssuerAway(f"The issuer gave no usable answer ({answer.status_code}).", retry_after_s=2)
        return answer.status_code, document


def _challenge(verifier: str) -> dict[str, str]:
    """Return what a request tells of a verifier (RFC 7636, section 4.2)."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return {"code_challenge": digest, "code_challenge_method": "S256"}


def _decoded(token: str, keys: KeySet) -> dict[str, Any]:
    """Return the claims of a signed token; raises JoseError. `none` and the HMAC algorithms are not in the list."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # EdDSA is to be called Ed25519 (RFC 9864)
        return dict(jwt.decode(token, keys, algorithms=ALGORITHMS).claims)


def _public_key(document: object) -> Key | None:
    """Return a public key of a set; None for one of another kind, a weak or a broken one."""
    if not isinstance(document, dict) or document.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", SecurityWarning)  # RSA below 2048 bits
        try:
            return JWKRegistry.import_key(document)
        except (JoseError, SecurityWarning, ValueError, TypeError, KeyError):
            return None


def _check_device(answer: Mapping[str, Any]) -> None:
    """Raise IssuerAway unless a device authorisation response has what a person needs."""
    texts = [answer.get(name) for name in ("device_code", "user_code", "verification_uri")]
    if not all(isinstance(each, str) and each.isprintable() for each in texts) or not is_protected(str(texts[2])):
        raise IssuerAway("The issuer's answer about a device is incomplete.")


def _endpoint(document: Mapping[str, Any], name: str) -> str:
    found = _optional(document, name)
    if found is None:
        raise IssuerAway(f"The issuer's discovery document has no {name}.")
    return found


def _optional(document: Mapping[str, Any], name: str) -> str | None:
    found = document.get(name)
    if found is None:
        return None
    if not isinstance(found, str) or not is_protected(found):
        raise IssuerAway(f"The issuer's {name} is no https address.")
    return found


def _with_query(url: str, query: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
