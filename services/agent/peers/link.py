"""One service of the platform, as the agent reaches it: signed requests, asked again until heard."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import structlog

from undersong.services.agent.peers.backoff import CircuitBreaker, parse_retry_after
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.identity.transport import CaTrust, around_proxies, trust
from undersong.shared.telemetry.traces import current_trace

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRIED = frozenset({425, 429, 500, 502, 503, 504, 507})
TIMEOUT = httpx.Timeout(15.0, connect=5.0)
MAX_ANSWER = 4 * 2**20  # a JSON answer; models are streamed


class Away(Exception):
    """The service cannot be reached, or says that it cannot serve now."""


class RequestRefused(Exception):
    """The service refused; `slug` is the last part of the problem's type."""

    def __init__(self, status: int, slug: str, detail: str) -> None:
        super().__init__(f"{status} {slug}: {detail}")
        self.status, self.slug, self.detail = status, slug, detail


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `content` makes its body afresh for every try."""

    method: str
    path: str
    body: bytes | None = None
    content: Callable[[], AsyncIterator[bytes]] | None = None
    headers: Mapping[str, str] | None = None
    timeout: httpx.Timeout | None = None
    answer_bytes: int = MAX_ANSWER

    @classmethod
    def json(cls, method: str, path: str, document: Mapping[str, Any], **more: Any) -> Call:
        """Return a request with a JSON body."""
        body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        headers = {"content-type": "application/json", **(more.pop("headers", None) or {})}
        return cls(method, path, body=body, headers=headers, **more)


def make_client(ca_file: Path | None, urls: Iterable[str], ca_trust: CaTrust = "only") -> httpx.AsyncClient:
    """Return the agent's only HTTP client, through the proxy that the environment names (HTTPS_PROXY, NO_PROXY).

    A TLS context is made only where an address needs it: it costs 10 MiB.
    """
    limits = httpx.Limits(max_connections=16, max_keepalive_connections=8, keepalive_expiry=60.0)
    return httpx.AsyncClient(
        verify=trust(ca_file, urls, ca_trust),
        mounts=around_proxies(),
        timeout=TIMEOUT,
        limits=limits,
        headers={"accept-encoding": "identity"},
        follow_redirects=False,
    )


class Link:
    """The way to one service."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        base_url: str,
        audience: str,
        identity: Callable[[], Identity],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http, self._base, self.audience = http, base_url.rstrip("/"), audience
        self._auth = SigningAuth(identity, audience)
        self.circuit = CircuitBreaker(clock)
        self._clock = clock

    async def ask(self, call: Call, *, within_s: float | None = None) -> httpx.Response:
        """Send until the service answers; Away after `within_s`, Problem for a refusal."""
        until = None if within_s is None else self._clock() + within_s
        while True:
            await asyncio.sleep(self.circuit.remaining_s())
            try:
                return await self.once(call)
            except _Failed as failed:
                if until is not None and self._clock() + failed.pause_s >= until:
                    raise Away(str(failed)) from failed
                await asyncio.sleep(failed.pause_s)

    async def once(self, call: Call) -> httpx.Response:
        """Send one time; Away or Problem."""
        async with self.open(call) as response:
            body = await _limited(response, call.answer_bytes)
        return httpx.Response(response.status_code, headers=response.headers, content=body)

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[httpx.Response]:
        """Send one time and leave the answer's body to be streamed; Away or Problem."""
        request = self._request(call)
        try:
            response = await self._http.send(request, auth=self._auth, stream=True)
        except httpx.TransportError as error:
            raise self._failed(f"{type(error).__name__} {error}".strip()) from error
        try:
            await self._check(response)
            yield response
        except httpx.TransportError as error:
            raise self._failed(f"{type(error).__name__} {error}".strip()) from error
        finally:
            await response.aclose()

    def _request(self, call: Call) -> httpx.Request:
        headers = dict(call.headers or {})
        trace = current_trace()
        if trace is not None:
            headers["traceparent"] = trace
        body: Any = call.content() if call.content is not None else call.body
        return self._http.build_request(
            call.method, self._base + call.path, content=body, headers=headers, timeout=call.timeout or TIMEOUT
        )

    async def _check(self, response: httpx.Response) -> None:
        if response.status_code in RETRIED:
            retry_after = parse_retry_after(response.headers.get("retry-after"))
            raise self._failed(f"status {response.status_code}", retry_after)
        self.circuit.succeeded()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise RequestRefused(
                response.status_code, "content-encoded", "the answer is compressed, which is never asked for"
            )
        if not response.is_success:
            raise _problem(response.status_code, await _limited(response))

    def _failed(self, reason: str, retry_after_s: float | None = None) -> _Failed:
        pause_s = self.circuit.failed(retry_after_s)
        log.info(
            "service.away", to=self.audience, reason=reason, failures=self.circuit.failures, pause_s=round(pause_s, 2)
        )
        return _Failed(f"{self.audience}: {reason}", pause_s)


class _Failed(Away):
    def __init__(self, reason: str, pause_s: float) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


def pause_of(away: Away) -> float:
    """Seconds to wait before the next try after a failed `once` or `open`."""
    return away.pause_s if isinstance(away, _Failed) else 1.0


async def _limited(response: httpx.Response, limit: int = MAX_ANSWER) -> bytes:
    """Return the body of an answer, at most `limit` bytes."""
    parts, size = [], 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > limit:
            raise RequestRefused(response.status_code, "answer-too-large", f"more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def _problem(status: int, body: bytes) -> RequestRefused:
    try:
        document = json.loads(body)
        slug = str(document["type"]).rstrip("/").replace(":", "/").rsplit("/", 1)[-1]
        return RequestRefused(status, slug, str(document.get("detail") or document.get("title") or ""))
    except (ValueError, KeyError, TypeError):
        return RequestRefused(status, "unknown", "")
