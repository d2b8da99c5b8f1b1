"""Connections that no client can hold idle: uvicorn's protocol with a deadline and a size for a request's head.

Deadlines of bodies are in `undersong.shared.web.body`, of answers in `undersong.shared.web.observe`. nginx keeps the
same ones at the edge; these hold where there is no edge.
"""

import asyncio
import json
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_S: Final = 10.0
"""From a request's first byte to the end of its headers."""
SILENT_S: Final = 30.0
"""A new connection says something within this time."""
LINGER_S: Final = 5.0
"""For the unread rest of a body: long enough for the sender to see why."""
HEAD_BYTES: Final = 64 << 10  # a signed request carries its certificate: 2 KiB
_TOO_LARGE, _TOO_SLOW = 431, 408
_SAID: Final = {
    400: ("bad-request", "The request is not well formed."),
    _TOO_LARGE: ("head-too-large", f"The request's head is larger than {HEAD_BYTES} bytes."),
    _TOO_SLOW: ("head-too-slow", f"The request's head did not come within {HEAD_S:.0f} seconds."),
}


class CarefulProtocol(HttpToolsProtocol):
    """One connection."""

    _reading = False  # a head has begun and not ended
    _head = 0
    _status = 400
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Nothing has been said yet."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(SILENT_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it is over."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More bytes; those of a head are counted before it is whole, too."""
        self._head += len(data)
        super().data_received(data)
        if self._reading and self._head > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        super().on_message_begin()
        self._reading, self._head = True, 0
        self._disarm()
        self._deadline = self.loop.call_later(HEAD_S, self._refuse, _TOO_SLOW)

    def on_headers_complete(self) -> None:
        """Check a head that is whole; raises to have it refused."""
        self._reading = False
        self._disarm()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._status = _TOO_LARGE
            raise ValueError("the head is too large")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that a request is whole."""
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that an answer is complete; the rest of an unread body may not go on without a limit."""
        more = self.cycle.more_body
        super().on_response_complete()
        if more and self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(LINGER_S, self.transport.close)

    def shutdown(self) -> None:
        """End with the process: an idle connection goes at once; in TLS, `close` would wait for the peer's farewell."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.transport.get_write_buffer_size() == 0:
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not take with a problem document."""
        self._refuse(self._status, msg)

    def _refuse(self, status: int, detail: str = "") -> None:
        if self.transport.is_closing():
            return
        slug, title = _SAID[status]
        document: dict[str, Any] = {
            "type": f"urn:undersong:problem:{slug}", "title": title, "status": status, "detail": detail or title,
            "request_id": None, "errors": [],
        }  # fmt: skip
        body = json.dumps(document).encode()
        head = b"content-type: application/problem+json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
