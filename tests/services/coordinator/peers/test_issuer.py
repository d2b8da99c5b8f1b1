"""What an issuer may answer: everything but an ID token for this platform is refused, in words."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import Response
from fastapi.responses import JSONResponse

from tests.effort import also
from tests.services.coordinator.issuer import CLIENT, SECRET
from tests.services.coordinator.issuer import Issuer as Provider
from undersong.services.coordinator.peers.issuer import Issuer, IssuerAway, Registration, SignOnRefused

BACK = "http://127.0.0.1:7001/dashboard/sign-on/callback"


class Line:
    """An issuer as the coordinator asks it; single paths answer otherwise."""

    def __init__(self) -> None:
        self.provider = Provider()
        self.app = self.provider.application()
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app))
        registration = Registration(self.provider.url, CLIENT, SECRET, "openid")
        self.issuer = Issuer(self.http, registration, lambda: datetime.now(UTC))

    def answers(self, path: str, response: Response) -> None:
        routes = self.app.router.routes
        routes[:] = [route for route in routes if getattr(route, "path", "") != path]
        self.app.add_api_route(path, lambda: response, methods=["GET", "POST"])

    async def redeem(self) -> dict[str, Any]:
        url = await self.issuer.authorisation_url(BACK, "state", "nonce", "verifier")
        code = httpx.URL((await self.http.get(url)).headers["location"]).params["code"]
        return await self.issuer.redeem(code, "verifier", BACK, "nonce")


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    made = Line()
    async with made.http:
        yield made


async def test_a_code_becomes_the_claims_of_its_id_token(line: Line) -> None:
    claims = await line.redeem()
    assert (claims["sub"], claims["groups"]) == ("sub-ada", ["fl-admins"])


NO_TOKENS = (
    b'{"id_token": "a.b.c"}', b'{"id_token": "eyJhbGciOiJSUzI1NiIsImtpZCI6NX0.e30.x"}', b"[" * 100_000,
    *also(b'{"error": {}}', b"[]", b"null", b"\xff", b"{}", b'{"id_token": 5}',
          b'{"id_token": ""}', b'{"id_token": "eyJhbGciOjV9.e30.x"}',
          b'{"id_token": "W10.e30.x"}', b'{"id_token": "' + b"x" * 200_000 + b'"}', b'"' + b"x" * (1 << 21) + b'"'),
)  # fmt: skip


@pytest.mark.parametrize("status", [200, *also(400, 500, 302)])
@pytest.mark.parametrize("body", NO_TOKENS, ids=range(len(NO_TOKENS)))
async def test_what_is_no_token_is_refused(line: Line, body: bytes, status: int) -> None:
    line.answers("/token", Response(body, status, headers={"location": "http://127.0.0.1:1/jwks"}))
    with pytest.raises((SignOnRefused, IssuerAway)) as refused:
        await line.redeem()
    assert "xxxx" not in refused.value.detail


NO_KEYS: tuple[Any, ...] = (
    {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "rsa"}]},
    {"keys": [5, None, {}, {"kty": "RSA"}]},
    *also({}, {"keys": {}}, {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rsa"}]},
          {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "rsa"}]},
          {"keys": [{"kty": "OKP", "crv": "X25519", "x": "AA", "kid": "rsa"}]},
          {"keys": [{"kty": "RSA", "n": 5, "e": "AQAB", "kid": ["rsa"]}]}),
)  # fmt: skip


@pytest.mark.parametrize("keys", NO_KEYS, ids=range(len(NO_KEYS)))
async def test_what_is_no_key_of_the_issuer_proves_nothing(line: Line, keys: object) -> None:
    line.answers("/jwks", JSONResponse(keys))
    with pytest.raises(SignOnRefused):
        await line.redeem()


@pytest.mark.parametrize(
    "told",
    [{"token_endpoint": "https://host:99999/"}, {"jwks_uri": "http://elsewhere.example/"},
     *also({"authorization_endpoint": "https://["}, {"jwks_uri": 5}, {"end_session_endpoint": "javascript:1"},
           {"device_authorization_endpoint": "http://elsewhere.example/"}, {"issuer": "http://127.0.0.1:1/"})],
)  # fmt: skip
async def test_an_address_that_is_none_is_not_asked(line: Line, told: dict[str, Any]) -> None:
    line.provider.faults.discovery = told
    with pytest.raises(IssuerAway):
        await line.redeem()


async def test_an_issuer_that_takes_secrets_in_the_form_gets_it_there(line: Line) -> None:
    line.provider.faults.discovery = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    seen: list[bytes] = []
    line.http.event_hooks["request"].append(lambda request: _keep(request, seen))
    with pytest.raises(SignOnRefused, match="invalid_client"):  # of the test's issuer, which takes the header alone
        await line.redeem()
    assert b"client_secret=s3cret%3A%2F%2B" in seen[-1]


async def _keep(request: httpx.Request, seen: list[bytes]) -> None:
    seen.append(request.content)
