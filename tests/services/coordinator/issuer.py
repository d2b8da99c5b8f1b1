"""A small OpenID provider for tests, with keys of its own: code flow with PKCE, device flow, faults on request."""

import base64
import hashlib
import hmac
import json
import secrets
import time
import warnings
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey

CLIENT, SECRET = "undersong", "s3cret:/+"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
KEYS: dict[str, Key] = {
    "RS256": RSAKey.generate_key(2048, {"kid": "rsa"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "ec"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
}


def _text(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


@dataclass
class Faults:
    """What the issuer does otherwise than it should; the default is right."""

    claims: dict[str, Any] = field(default_factory=dict)  # over the right ones; None leaves a claim out
    algorithm: str = "RS256"
    key: Key | None = None  # signs instead of the right key
    header: dict[str, Any] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=dict)
    named: str | None = "own"  # the `iss` of its answers to the browser
    away: bool = False


@dataclass
class Issuer:
    """The provider; `url` is set by who serves it."""

    url: str = "http://127.0.0.1:1"
    groups: list[str] = field(default_factory=lambda: ["fl-admins"])
    subject: str = "sub-ada"
    name: str = "ada"
    faults: Faults = field(default_factory=Faults)
    keys: dict[str, Key] = field(default_factory=lambda: dict(KEYS))
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)  # device code → state
    device_state: str = "authorization_pending"  # of those that are begun
    asked: list[str] = field(default_factory=list)

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        self.keys["RS256"] = RSAKey.generate_key(2048, {"kid": f"rsa-{len(self.asked)}"})

    def id_token(self, nonce: str | None) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.url, "aud": CLIENT, "sub": self.subject, "iat": now, "exp": now + 300, "nonce": nonce,
            "preferred_username": self.name, "groups": self.groups,
        }  # fmt: skip
        claims = {name: value for name, value in {**claims, **self.faults.claims}.items() if value is not None}
        algorithm = self.faults.algorithm
        if algorithm in ("none", "HS256"):
            begin = b".".join(_text(json.dumps(part).encode()) for part in ({"alg": algorithm, "kid": "rsa"}, claims))
            secret = self.keys["RS256"].as_pem(private=False)  # the public key as a secret: algorithm confusion
            mac = hmac.digest(secret, begin, "sha256") if algorithm == "HS256" else b""
            return (begin + b"." + _text(mac)).decode()
        key = self.faults.key or self.keys[algorithm]
        header = {"alg": algorithm, "kid": key.kid, **self.faults.header}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)
            return jwt.encode(header, claims, key, algorithms=[algorithm])

    def application(self) -> FastAPI:
        app = FastAPI()
        app.add_api_route("/.well-known/openid-configuration", self.discovery)
        app.add_api_route("/jwks", self.jwks)
        app.add_api_route("/authorize", self.authorize)
        app.add_api_route("/token", self.token, methods=["POST"])
        app.add_api_route("/device", self.device, methods=["POST"])
        app.add_api_route("/end", lambda post_logout_redirect_uri: RedirectResponse(post_logout_redirect_uri))
        return app

    async def discovery(self) -> Response:
        self.asked.append("discovery")
        if self.faults.away:
            return Response("down", 502)
        names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks",
                 "device_authorization_endpoint": "device", "end_session_endpoint": "end"}  # fmt: skip
        document = {name: f"{self.url}/{path}" for name, path in names.items()}
        document |= {"issuer": self.url, "authorization_response_iss_parameter_supported": True}
        return JSONResponse({k: v for k, v in {**document, **self.faults.discovery}.items() if v is not None})

    async def jwks(self) -> Response:
        self.asked.append("jwks")
        return JSONResponse(KeySet(list(self.keys.values())).as_dict(private=False))

    async def authorize(self, request: Request, redirect_uri: str, state: str) -> Response:
        """Sign the person on without a question."""
        code, query = secrets.token_urlsafe(8), dict(request.query_params)
        assert query["code_challenge_method"] == "S256"
        assert query["client_id"] == CLIENT
        self.codes[code] = query
        named = self.url if self.faults.named == "own" else self.faults.named
        answer = {
            "code": code,
            "state": state,
            "session_state": "kept by Keycloak",
            **({"iss": named} if named else {}),
        }
        return RedirectResponse(f"{redirect_uri}?{urlencode(answer)}", 303)

    async def token(self, request: Request) -> Response:
        self.asked.append("token")
        form = dict(parse_qsl((await request.body()).decode()))
        known = httpx.BasicAuth(CLIENT, "s3cret%3A%2F%2B")._auth_header  # form-encoded, then base64
        if request.headers.get("authorization") != known:
            return JSONResponse({"error": "invalid_client"}, 401)
        if form["grant_type"] == DEVICE:
            return self._of_device(form["device_code"], form["code_verifier"])
        query, verifier = self.codes.pop(form["code"], {}), form["code_verifier"].encode()
        challenge = _text(hashlib.sha256(verifier).digest()).decode()
        if query.get("code_challenge") != challenge or query.get("redirect_uri") != form["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse({"token_type": "Bearer", "access_token": "x", "id_token": self.id_token(query["nonce"])})

    async def device(self, request: Request) -> Response:
        """Begin as Keycloak does for a client that has to use PKCE."""
        form, code = dict(parse_qsl((await request.body()).decode())), secrets.token_urlsafe(8)
        if form.get("code_challenge_method") != "S256":
            return JSONResponse({"error": "invalid_request"}, 400)
        self.codes[code] = form
        self.devices[code] = self.device_state
        answer = {"device_code": code, "user_code": "WDJB-MJHT", "verification_uri": f"{self.url}/confirm",
                  "expires_in": 600, "interval": 1}  # fmt: skip
        return JSONResponse(answer)

    def _of_device(self, code: str, verifier: str) -> Response:
        state = self.devices.get(code, "expired_token")
        if self.codes[code]["code_challenge"] != _text(hashlib.sha256(verifier.encode()).digest()).decode():
            state = "invalid_grant"
        if state != "confirmed":
            return JSONResponse({"error": state}, 400)
        del self.devices[code]
        return JSONResponse({"token_type": "Bearer", "access_token": "x", "id_token": self.id_token(None)})
