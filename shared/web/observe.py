"""The outermost layer: request id, trace, metrics by route template, security headers, and a bare 500 for our bugs."""

import asyncio
import re
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from undersong.shared.clock import monotonic
from undersong.shared.ids import new_id
from undersong.shared.telemetry.metrics import HTTP_ACTIVE, HTTP_BODY_BYTES, HTTP_DURATION
from undersong.shared.telemetry.traces import continue_trace
from undersong.shared.web.body import STALL_S, BodyMeter, attached
from undersong.shared.web.problems import bare_error_response

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
_CLIENT_CLOSED: Final = 499
_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_API_ONLY: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Observe:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        parent = headers.get(b"traceparent", b"").decode("latin-1") or None
        started = monotonic()
        HTTP_ACTIVE.inc()
        try:
            with (
                continue_trace(parent, f"{scope['method']} request", {"http.request.method": scope["method"]}),
                structlog.contextvars.bound_contextvars(request_id=request_id),
            ):
                await self._run(scope, receive, answer)
        finally:
            HTTP_ACTIVE.dec()
            _measure(scope, answer.status, monotonic() - started)

    async def _run(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer)
        except Exception:
            log.exception("request.failed", method=scope["method"], route=route_template(scope))
            if not answer.started:
                await bare_error_response(answer.request_id)(scope, receive, answer)
            else:
                raise  # the server closes the connection, so that half an answer is not taken for a whole one


class _Answer:
    """Adds our headers to the response and remembers its status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self.request_id = send, request_id
        self.status = _CLIENT_CLOSED
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers: list[tuple[bytes, bytes]] = list(message.get("headers", []))
            names = {name for name, _ in headers}
            headers += [(b"x-request-id", self.request_id.encode())]
            own = _SECURITY if _is_page(headers) else _SECURITY + _API_ONLY
            headers += [(name, value) for name, value in own if name not in names]
            message["headers"] = headers
        if not message.get("more_body"):
            await self._send(message)
            return
        async with asyncio.timeout(STALL_S):  # a part of an answer that is not taken ends the connection
            await self._send(message)


def _is_page(headers: list[tuple[bytes, bytes]]) -> bool:
    """Pages and their static files set their own policies."""
    kind = next((value for name, value in headers if name == b"content-type"), b"")
    return not kind.startswith((b"application/json", b"application/problem+json", b"application/octet-stream"))


def _request_id(given: str) -> str:
    return given if _REQUEST_ID.fullmatch(given) else new_id("req")


def route_template(scope: Scope) -> str:
    """Return the path with its parameters' names, for example ``/v1/rounds/{round_id}``; never the path itself."""
    context = scope.get("fastapi", {}).get("effective_route_context")
    path: Any = getattr(context, "path", None) or getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) and path else "unmatched"


def _measure(scope: Scope, status: int, duration_s: float) -> None:
    route = route_template(scope)
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    HTTP_DURATION.labels(method, route, str(status)).observe(duration_s)
    meter: BodyMeter | None = attached(scope.get("state", {}))
    if meter is not None and meter.count:
        HTTP_BODY_BYTES.labels(method, route).observe(meter.count)


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
