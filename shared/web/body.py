"""Request bodies: counted, digested, and never longer than announced."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from shared.errors import BadRequest, LengthRequired, TooLarge
from shared.identity.digests import parse_content_digest
from shared.ids import Digest

_STATE: Final = "body_meter"


class DigestMismatch(BadRequest):
    """The body does not have the announced Content-Digest."""


class BodyIncomplete(BadRequest):
    """The body ended before its announced length."""


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
        except TooLarge as refusal:
            raise HTTPException(refusal.status, refusal.detail) from refusal

    async def next(self) -> Message:
        """The next message; raises TooLarge."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.count += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
            if self.count > self.limit:
                raise TooLarge(f"the body is larger than {self.limit} bytes")
        return message

    async def chunks(self) -> AsyncIterator[bytes]:
        """What comes, to its announced end; raises TooLarge or BodyIncomplete."""
        while not self.ended:
            message = await self.next()
            if message["type"] == "http.disconnect":
                raise BodyIncomplete(f"the sender went away after {self.count} bytes")
            if chunk := message.get("body", b""):
                yield chunk
        self.check_length()

    def check_length(self) -> None:
        """Raises BodyIncomplete when fewer or more bytes came than were announced."""
        if self.length is not None and self.count != self.length:
            raise BodyIncomplete(f"announced {self.length} bytes, received {self.count}")


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
