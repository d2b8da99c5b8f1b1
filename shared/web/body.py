"""Request bodies: counted and hashed as they arrive, never other than announced, and never long without a byte.

One meter precedes every reader of a request's body, so that there is one place where the announced length
and digest are compared with what came, for every content type and every reader.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Final

from starlette.requests import Request
from starlette.types import Message, Receive

from undersong.shared.errors import BadRequest, LengthRequired, TooLarge, TooSlow
from undersong.shared.identity.digests import parse_content_digest
from undersong.shared.ids import Digest
from undersong.shared.web.limits import Limiter

_STATE: Final = "body_meter"
STALL_S: Final = 30.0
"""Between two parts of a body, and beyond what its size allows at `SLOWEST_BYTES_PER_S` for the whole."""
SLOWEST_BYTES_PER_S: Final = 1024
"""A body that comes slower than this over its whole length is ended: it would hold a connection for hours."""


class DigestMismatch(BadRequest):
    """The body does not have the announced Content-Digest."""


class BodyIncomplete(BadRequest):
    """The body ended before its announced length."""


class BodyStalled(TooSlow):
    """The body stopped coming before its end."""


class BodyMeter:
    """Sits between the server and the application, and counts.

    `limit` is that of JSON routes until a streaming route raises it with `receive`. `length` and `digest` are what the
    headers announce, None where they announce nothing.
    """

    def __init__(self, receive: Receive, limit: int, length: int | None, digest: bytes | None = None) -> None:
        self._receive, self.limit, self.length = receive, limit, length
        self._announced, self._sha256 = digest, hashlib.sha256()
        self.count = 0
        self._began: float | None = None  # by the event loop's clock
        self.ended = False
        self.hashing = True

    async def __call__(self) -> Message:
        """Return the next message. FastAPI makes a 400 of what this raises; `undersong.shared.web.problems` finds its
        cause.
        """
        return await self.next()

    async def next(self) -> Message:
        """Return the next message; raises TooLarge, BodyStalled, and at the end BodyIncomplete or DigestMismatch."""
        message = await self._receive() if self.ended or self.length == 0 else await self._in_time()
        if message["type"] == "http.request" and not self.ended:
            self._take(message.get("body", b""), more=message.get("more_body", False))
        return message

    def _take(self, chunk: bytes, *, more: bool) -> None:
        self.count += len(chunk)
        self.ended = not more
        if self.count > self.limit:
            raise TooLarge(f"the body is larger than {self.limit} bytes")
        if self.hashing:
            self._sha256.update(chunk)
        if not self.ended:
            return
        if self.length is not None and self.count != self.length:
            raise BodyIncomplete(f"announced {self.length} bytes, received {self.count}")
        if self.hashing and self._announced not in (None, self._sha256.digest()):
            raise DigestMismatch("the body's SHA-256 differs from Content-Digest")

    def check_empty(self) -> None:
        """Raise DigestMismatch when no body comes although the digest of one is announced."""
        if self._announced not in (None, self._sha256.digest()):
            raise DigestMismatch("Content-Digest announces a body, and none came")

    async def arrived(self) -> Digest | None:
        """Return the SHA-256 of the whole body as it came, reading what is unread; None when there is no body.

        Raises what `next` raises. For a body that its reader hashes itself (`hashing` is off) this is an error of ours.
        """
        if self.length == 0:
            return None
        if not self.hashing:
            raise RuntimeError("the digest of a body that is hashed elsewhere was asked for")
        async for _ in self.chunks():
            pass
        return Digest(self._sha256.hexdigest())

    async def _in_time(self) -> Message:
        now = asyncio.get_running_loop().time()
        self._began = now if self._began is None else self._began
        until = min(now + STALL_S, self._began + STALL_S + self.count / SLOWEST_BYTES_PER_S)
        try:
            async with asyncio.timeout_at(until):
                return await self._receive()
        except TimeoutError:
            after = f"{self.count} bytes in {asyncio.get_running_loop().time() - self._began:.0f} s"
            raise BodyStalled(
                f"after {after} no more came in time: each part within {STALL_S:.0f} s, "
                f"the whole at {SLOWEST_BYTES_PER_S} bytes a second or more"
            ) from None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what comes, to its announced end; raises TooLarge, BodyStalled or BodyIncomplete."""
        while not self.ended:
            message = await self.next()
            if message["type"] == "http.disconnect":
                raise BodyIncomplete(f"the sender went away after {self.count} bytes")
            if chunk := message.get("body", b""):
                yield chunk

    def let_go(self) -> None:
        """Note that nothing more will come, and break the reference cycle with the server's part of the request."""
        self._receive = _gone


async def _gone() -> Message:
    return {"type": "http.disconnect"}


def attach(scope_state: dict[str, object], meter: BodyMeter) -> None:
    """Make the meter known to `receive`."""
    scope_state[_STATE] = meter


def attached(scope_state: Mapping[str, object]) -> BodyMeter | None:
    """Return the request's meter."""
    meter = scope_state.get(_STATE)
    return meter if isinstance(meter, BodyMeter) else None


async def arrived_digest(request: Request) -> Digest | None:
    """Return the SHA-256 of the request's body as it came, never as it was announced; None when it has none."""
    meter = attached(request.scope.get("state", {}))
    return None if meter is None else await meter.arrived()


def announced_digest(request: Request) -> Digest | None:
    """Return the SHA-256 that the Content-Digest header announces."""
    raw = parse_content_digest(", ".join(request.headers.getlist("content-digest")))
    return None if raw is None else Digest(raw.hex())


async def receive(request: Request, limit: int, *, check_digest: bool = True) -> AsyncIterator[bytes]:
    """Stream a binary body of at most `limit` bytes; the announced length and digest must hold at the end.

    With ``check_digest=False`` the caller checks `announced_digest` itself, where it hashes the bytes anyway.
    Raises LengthRequired, TooLarge, DigestMismatch or BodyIncomplete; the last two instead of the last chunk.
    """
    meter = attached(request.scope.get("state", {}))
    if meter is None:
        raise LengthRequired("a body is needed")
    if meter.length is None:
        raise LengthRequired("the header Content-Length is needed")
    if meter.length > limit:
        raise TooLarge(f"{meter.length} bytes are announced, at most {limit} are allowed")
    meter.limit, meter.hashing = limit, check_digest
    async for chunk in meter.chunks():
        yield chunk


@asynccontextmanager
async def receive_whole(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Lend a binary body in one piece, which counts as in memory until the block ends: hold on to it no longer.

    Raises what `receive` raises, or Overloaded while too many of them are in memory.
    """
    with holding(request.app, length_of(request, limit)):
        yield b"".join([chunk async for chunk in receive(request, limit)])


def length_of(request: Request, limit: int) -> int:
    """Return what the body may take of memory."""
    meter = attached(request.scope.get("state", {}))
    return min(limit, meter.length) if meter is not None and meter.length is not None else limit


def holding(app: Any, size: int) -> AbstractContextManager[None]:
    """While so many bytes are in memory; raises Overloaded. Without limits, as in tests, always."""
    limiter: Limiter | None = getattr(app.state, "limiter", None)
    return nullcontext() if limiter is None else limiter.holding(size)
