"""Signed requests, the sending side (RFC 9421 with Ed25519).

Covered: ``@method``, ``@path``, ``@query`` where there is one, ``content-type`` where it is given, ``content-digest``
(RFC 9530, SHA-256) where there is a body, ``idempotency-key`` and ``update-signature`` where they are given.
Parameters: ``created``, ``nonce`` (128 random bits), ``keyid`` (certificate fingerprint) and
``tag="undersong/<service>"``, which names the one service that the request is meant for. The certificate travels in
``Undersong-Certificate`` as a structured-field byte sequence (the form of RFC 9440); ``keyid`` binds it.
"""

import base64
import secrets
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from functools import lru_cache
from typing import Final

import httpx
from cryptography.hazmat.primitives import serialization
from http_message_signatures import HTTPMessageSigner, algorithms
from http_sf.compat import Item

from undersong.shared.clock import utc_now
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.digests import content_digest

CERTIFICATE_HEADER: Final = "undersong-certificate"
LABEL: Final = "undersong"
COVERED_FIELDS: Final = ("content-type", "content-digest", "idempotency-key", "update-signature")
"""Header fields that decide what a request means: each is under the signature wherever it is sent."""
IdentitySource = Identity | Callable[[], Identity]


def tag_of(audience: str) -> str:
    """Return the signature's tag for requests to one service."""
    return f"undersong/{audience}"


class SigningAuth(httpx.Auth):
    """Signs every request of an httpx client for one service, afresh at every attempt.

    Give a callable that returns the present identity where the identity may be rotated while the client lives.
    A body that is a stream needs its Content-Digest header set by the caller.
    """

    def __init__(self, identity: IdentitySource, audience: str) -> None:
        self._source = identity if callable(identity) else lambda: identity
        self._tag = tag_of(audience)
        self._certificate: tuple[Identity, str, str] | None = None
        self._signer = _Signer(signature_algorithm=algorithms.ED25519)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign and send."""
        self._sign(request)
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Sign and send."""
        self._sign(request)
        yield request

    def _certificate_of(self, identity: Identity) -> tuple[str, str]:
        """(header value, key id), kept until the identity changes."""
        if self._certificate is None or self._certificate[0] is not identity:
            der = identity.certificate.public_bytes(serialization.Encoding.DER)
            self._certificate = (identity, f":{base64.b64encode(der).decode()}:", identity.keyid)
        return self._certificate[1:]

    def _sign(self, request: httpx.Request) -> None:
        identity = self._source()
        certificate, keyid = self._certificate_of(identity)
        covered = ["@method", "@path"]
        if request.url.query:
            covered.append("@query")
        if _has_body(request):
            request.headers.setdefault("content-type", "application/octet-stream")
            if "content-digest" not in request.headers:
                request.headers["content-digest"] = content_digest(_content_of(request))
        covered += [name for name in COVERED_FIELDS if name in request.headers]
        prepared = self._signer.prepare(
            request,
            key_id=keyid,
            created=utc_now(),
            nonce=secrets.token_urlsafe(16),
            tag=self._tag,
            label=LABEL,
            include_alg=False,
            covered_component_ids=covered,
            use_existing_digest="content-digest" in request.headers,
        )
        signature = base64.b64encode(identity.private_key.sign(prepared.signature_base)).decode()
        request.headers["signature-input"] = f"{LABEL}={prepared.signature_params}"
        request.headers["signature"] = f"{LABEL}=:{signature}:"
        request.headers[CERTIFICATE_HEADER] = certificate


class _Signer(HTTPMessageSigner):
    """Reads each list of components once: there are a few, and every request has one of them."""

    def _parse_covered_component_ids(self, covered_component_ids: Sequence[str]) -> list[Item]:
        return list(_components(tuple(covered_component_ids)))


@lru_cache(maxsize=64)
def _components(names: tuple[str, ...]) -> tuple[Item, ...]:
    return tuple(Item(name) for name in names)


def _has_body(request: httpx.Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _content_of(request: httpx.Request) -> bytes:
    try:
        return request.content
    except httpx.RequestNotRead:
        raise ValueError("a streamed body needs a Content-Digest header before it can be signed") from None
