"""The door: what every request must satisfy before the framework looks at it. Pure ASGI, because it is on the hot path.

In this order: no field repeated that is not a list, the caller's limits, target without NUL, no content coding,
announced length within the limit, signature (before any byte of the body is read), then, for JSON, the whole body: safe
JSON. Every body, of whatever type, is counted and hashed as it is read, and refused at its end where it is not what was
announced (`undersong.shared.web.body`).
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from undersong.shared.errors import (
    BadRequest,
    LengthRequired,
    Refusal,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from undersong.shared.identity.digests import parse_content_digest
from undersong.shared.identity.verify import Party, PartyVerifier
from undersong.shared.telemetry.metrics import SIGNATURE_FAILURES
from undersong.shared.web.asking import Asking
from undersong.shared.web.body import BodyMeter, attach, holding
from undersong.shared.web.jsons import check_json
from undersong.shared.web.problems import problem_response

JSON_LIMIT: Final = 1 << 20
LISTS: Final = frozenset(
    {"accept", "accept-charset", "accept-encoding", "accept-language", "baggage", "cache-control", "connection"}
    | {"forwarded", "keep-alive", "pragma", "prefer", "te", "tracestate", "via", "x-forwarded-for"}
)
"""Header fields that may come in several lines (RFC 9110 §5.3): none of them says what a request means or whose it is.

Every other field comes once. Readers disagree about which of two lines counts, so a request with two is two requests.
"""
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class ContentEncodingRefused(Unsupported):
    """Compressed bodies are not accepted."""


class DigestUnreadable(BadRequest):
    """The Content-Digest header announces a SHA-256 in a form that cannot be compared."""


class HeaderRepeated(BadRequest):
    """A header field that may come only once came several times."""


@dataclass(frozen=True, slots=True)
class _Announced:
    """What the headers say about the body."""

    length: int | None
    present: bool
    is_json: bool
    digest: bytes | None


class Guard:
    """ASGI middleware; finds the service's verifier in ``app.state.verifier`` at the time of the request."""

    def __init__(self, app: ASGIApp, json_limit: int = JSON_LIMIT) -> None:
        self._app, self._limit = app, json_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer with a problem document."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        with ExitStack() as held:
            try:
                headers = single_headers(scope)
                asking = Asking.of(scope, headers)
                asking.begin(held)
                receive = await self._admit(scope, state, headers, asking, receive, held)
            except Refusal as refusal:
                log.info("request.refused", reason=refusal.slug(), status=refusal.status, detail=refusal.detail)
                await problem_response(refusal, state.get("request_id"))(scope, receive, send)
                return
            await self._app(scope, receive, asking.watched(send))

    async def _admit(
        self,
        scope: Scope,
        state: dict[str, Any],
        headers: Mapping[str, str],
        asking: Asking,
        receive: Receive,
        held: ExitStack,
    ) -> Receive:
        _check_target(scope)
        announced = _announced(headers)
        if announced.is_json and announced.length is not None and announced.length > self._limit:
            raise TooLarge(f"{announced.length} bytes are announced, at most {self._limit} are allowed")
        if "signature-input" in headers:
            state["party"] = await _verified(scope, headers, asking, has_body=announced.present)
        meter = BodyMeter(receive, self._limit, announced.length if announced.present else 0, announced.digest)
        attach(state, meter)
        held.callback(meter.let_go)
        if not announced.present:
            meter.check_empty()
        if not announced.present or not announced.is_json:
            return meter
        held.enter_context(holding(scope["app"], self._limit if announced.length is None else announced.length))
        body = b"".join([chunk async for chunk in meter.chunks()])
        if body:
            check_json(body)
        return _replayed(body, receive)


def single_headers(scope: Scope) -> dict[str, str]:
    """Return each header field's value under its lower-case name, the lines of lists joined by ", ".

    Raises HeaderRepeated where a field that is no list has several lines.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip(" \t")
        if name in headers and name not in LISTS:
            raise HeaderRepeated(f"the header {name[:100]} came more than once: send it once")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _check_target(scope: Scope) -> None:
    if "\0" in scope["path"] or b"%00" in scope["query_string"] or b"\0" in scope["query_string"]:
        raise BadRequest("the address must not contain NUL")


def _announced(headers: Mapping[str, str]) -> _Announced:
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ContentEncodingRefused("send the body without Content-Encoding")
    chunked = "transfer-encoding" in headers
    length = _length(headers.get("content-length"))
    if chunked and length is not None:
        raise BadRequest("Content-Length and Transfer-Encoding exclude each other")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return _Announced(
        length=length,
        present=chunked or bool(length),
        is_json=media_type.startswith("application/")
        and (media_type == "application/json" or media_type.endswith("+json")),
        digest=_digest(headers.get("content-digest", "")),
    )


def _digest(value: str) -> bytes | None:
    """Return the announced SHA-256; raises DigestUnreadable where one is announced that would not be compared."""
    digest = parse_content_digest(value)
    if digest is None and "sha-256" in value.lower():
        raise DigestUnreadable("Content-Digest must announce one SHA-256, as sha-256=:BASE64:")
    return digest


def _length(value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise LengthRequired("Content-Length is not a number of bytes")
    return int(value)


async def _verified(scope: Scope, headers: Mapping[str, str], asking: Asking, *, has_body: bool) -> Party:
    verifier: PartyVerifier | None = getattr(scope["app"].state, "verifier", None)
    if verifier is None:
        raise Unavailable("this service has no certificate yet", retry_after_s=1)
    path = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0].decode("latin-1")
    try:
        found = await verifier.verify(
            scope["method"], path, scope["query_string"].decode("latin-1"), headers, has_body=has_body
        )
    except Unauthenticated as refusal:
        asking.judged(good=False)
        SIGNATURE_FAILURES.labels(refusal.slug()).inc()
        raise
    asking.judged(good=True)
    asking.signed_by(found)
    return found


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a receive channel that gives the body again, and then what really comes next."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
