"""Conditional requests (RFC 9110 §13): what is asked for again and has not changed is answered without its content.

Every JSON answer of a GET gets an ``ETag`` of its content; ``If-None-Match`` with it is answered 304. The work of the
answer is done all the same: this saves bytes, and tells a program that polls whether anything changed.
"""

import hashlib
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DIGITS: Final = 32
_ABOUT_CONTENT: Final = (b"content-length", b"content-type")


class Conditional:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with the tag of what would be said."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        known = dict(scope["headers"]).get(b"if-none-match", b"")
        await self._app(scope, receive, _Tagged(send, known))


class _Tagged:
    """Holds an answer's head until its body has come; an answer in several parts passes as it is."""

    def __init__(self, send: Send, known: bytes) -> None:
        self._send, self._known = send, known
        self._head: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_tagged(message):
            self._head = message
            return
        head, self._head = self._head, None
        if head is not None:
            if not message.get("more_body"):
                message = self._conditional(head, message)
            await self._send(head)
        await self._send(message)

    def _conditional(self, head: Message, body: Message) -> Message:
        """Tag the head, and return the body, which is empty where the caller has it."""
        tag = b'"' + hashlib.sha256(body.get("body", b"")).hexdigest()[:_DIGITS].encode() + b'"'
        head["headers"] = [*head["headers"], (b"etag", tag)]
        if not _names(self._known, tag):
            return body
        head["status"] = 304
        head["headers"] = [each for each in head["headers"] if each[0] not in _ABOUT_CONTENT]
        return {**body, "body": b""}


def _is_tagged(head: Message) -> bool:
    headers = dict(head["headers"])
    is_json = headers.get(b"content-type", b"").split(b";")[0] == b"application/json"
    return head["status"] == 200 and is_json and b"etag" not in headers


def _names(known: bytes, tag: bytes) -> bool:
    """Return whether If-None-Match names the tag, by the weak comparison, or is ``*``."""
    tags = [each.strip().removeprefix(b"W/") for each in known.split(b",")]
    return tag in tags or tags == [b"*"]
