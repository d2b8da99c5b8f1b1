"""Request bodies: counted, digested, never longer than announced, and never long without a byte."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from shared.errors import BadRequest, LengthRequired, TooLarge, TooSlow
from shared.identity.digests import parse_content_digest
from shared.ids import Digest
from shared.web.limits import Limiter

_STATE: Final = "body_meter"
STALL_S: Final = 30.0
"""Between two parts of a body; the whole may take as long as it comes on."""


class DigestMismatch(BadRequest):
    """The body does not have the announced Content-Digest."""


class BodyIncomplete(BadRequest):
    """The body ended before its announced length."""


class BodyStalled(TooSlow):
    """The body stopped coming before its end."""


class BodyMeter:
    """Stands between the server and the application, and counts.

    `limit` is that of JSON routes until a streaming route raises it with `receive`.
    """

    def __init__(self, receive: Receive, limit: int, length: int | None) -> None:
        self._receive, self.limit, self.length = receive, limit, length
        self.count = 0
        self.ended = False

    async def __call__(self) -> Message:
        """The next message; FastAPI, which calls this, turns any exception but HTTPException into a 400."""
        try:
            return await self.next()
        except (TooLarge, BodyStalled) as refusal:
            raise HTTPException(refusal.status, refusal.detail) from refusal

    async def next(self) -> Message:
        """The next message; raises TooLarge or BodyStalled."""
        message = await self._receive() if self.ended or self.length == 0 else await self._in_time()
        if message["type"] == "http.request":
            self.count += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
            if self.count > self.limit:
                raise TooLarge(f"the body is larger than {self.limit} bytes")
        return message

    async def _in_time(self) -> Message:
        try:
            async with asyncio.timeout(STALL_S):
                return await self._receive()
        except TimeoutError:
            raise BodyStalled(f"no byte for {STALL_S:.0f} s, after {self.count} bytes") from None

    async def chunks(self) -> AsyncIterator[bytes]:
        """What comes, to its announced end; raises TooLarge, BodyStalled or BodyIncomplete."""
        while not self.ended:
            message = await self.next()
            if message["type"] == "http.disconnect":
                raise BodyIncomplete(f"the sender went away after {self.count} bytes")
            if chunk := message.get("body", b""):
                yield chunk
        self.check_length()

    def let_go(self) -> None:
        """Nothing comes any more. The server's part of the request holds us, and we must not hold it for ever."""
        self._receive = _gone

    def check_length(self) -> None:
        """Raises BodyIncomplete when fewer or more bytes came than were announced."""
        if self.length is not None and self.count != self.length:
            raise BodyIncomplete(f"announced {self.length} bytes, received {self.count}")


async def _gone() -> Message:
    return {"type": "http.disconnect"}


def attach(scope_state: dict[str, object], meter: BodyMeter) -> None:
    """Make the meter known to `receive`."""
    scope_state[_STATE] = meter


def attached(scope_state: Mapping[str, object]) -> BodyMeter | None:
    """The request's meter."""
    meter = scope_state.get(_STATE)
    return meter if isinstance(meter, BodyMeter) else None


def announced_digest(request: Request) -> Digest | None:
    """The SHA-256 that the Content-Digest header announces."""
    raw = parse_content_digest(", ".join(request.headers.getlist("content-digest")))
    return None if raw is None else Digest(raw.hex())


async def receive(request: Request, limit: int, *, check_digest: bool = True) -> AsyncIterator[bytes]:
    """Stream a binary body of at most `limit` bytes; the announced length and digest must hold at the end.

    With ``check_digest=False`` the caller checks `announced_digest` itself, where it hashes the bytes anyway.
    Raises LengthRequired, TooLarge, DigestMismatch or BodyIncomplete; the last two only after the last chunk.
    """
    meter = attached(request.scope.get("state", {}))
    if meter is None:
        raise LengthRequired("a body is needed")
    if meter.length is None:
        raise LengthRequired("the header Content-Length is needed")
    if meter.length > limit:
        raise TooLarge(f"{meter.length} bytes are announced, at most {limit} are allowed")
    meter.limit = limit
    expected = announced_digest(request) if check_digest else None
    digest = hashlib.sha256()
    async for chunk in meter.chunks():
        if expected is not None:
            digest.update(chunk)
        yield chunk
    if expected is not None and digest.hexdigest() != expected:
        raise DigestMismatch("the body's SHA-256 differs from Content-Digest")


@asynccontextmanager
async def receive_whole(request: Request, limit: int) -> AsyncIterator[bytes]:
    """A binary body in one piece, which counts as in memory until the block ends: hold on to it no longer.

    Raises what `receive` raises, or Overloaded while too many of them are in memory.
    """
    with holding(request.app, length_of(request, limit)):
        yield b"".join([chunk async for chunk in receive(request, limit)])


def length_of(request: Request, limit: int) -> int:
    """What the body may take of memory."""
    meter = attached(request.scope.get("state", {}))
    return min(limit, meter.length) if meter is not None and meter.length is not None else limit


def holding(app: Any, size: int) -> AbstractContextManager[None]:
    """While so many bytes are in memory; raises Overloaded. Without limits, as in tests, always."""
    limiter: Limiter | None = getattr(app.state, "limiter", None)
    return nullcontext() if limiter is None else limiter.holding(size)
