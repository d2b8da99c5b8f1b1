"""A TCP proxy that can be told to do what networks do: wait, forget, cut, dribble, fall silent.

It is placed between any two parties on this machine (services, agents, Redis, a database behind a Unix socket) and runs
in a thread of its own. Changes apply to connections that are open as well as to new ones.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CHUNK = 1 << 16
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Weather:
    """What happens to the bytes. The counts are for each connection and direction; None is never.

    delay_s         every piece waits so long
    drop_replies    requests arrive, and the connection is closed instead of the reply: the sender cannot know
    reset           connections are reset, new ones at once
    blackhole       nothing arrives and neither end is told: a half-open connection
    partition       open connections fall silent, new ones are refused
    slice_bytes     pieces of at most so many bytes
    bytes_per_s     no faster than this
    close_after     the connection is closed after so many bytes
    """

    delay_s: float = 0.0
    drop_replies: bool = False
    reset: bool = False
    blackhole: bool = False
    partition: bool = False
    slice_bytes: int | None = None
    bytes_per_s: int | None = None
    close_after: int | None = None

    @property
    def silent(self) -> bool:
        """Whether nothing passes."""
        return self.blackhole or self.partition


FAIR = Weather()


@dataclass(eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    passed: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})

    def close(self, *, reset: bool = False) -> None:
        for writer in (self.client, self.server):
            sock = writer.get_extra_info("socket")
            if reset and sock is not None and sock.family != socket.AF_UNIX:  # linger 0: RST instead of FIN
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Listens on a free loopback port, or the given one, and passes on to `target`: a port, or a Unix socket's path."""

    def __init__(self, target: int | Path, *, port: int = 0) -> None:
        self.target, self.port = target, port
        self._weather = FAIR
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name=f"proxy to {target}", daemon=True)
        self._thread.start()
        if not started.wait(10):
            raise RuntimeError(f"the proxy to {target} does not start")

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """As a base url."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_links(self) -> int:
        """How many connections pass through it now."""
        return len(self._links)

    def set(self, weather: Weather) -> None:
        """Change what happens from now on."""

        async def change() -> None:
            self._weather = weather
            if weather.reset:
                for link in list(self._links):
                    link.close(reset=True)

        self._call(change)

    def close(self) -> None:
        """Cut all connections and stop."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _call(self, act: Callable[[], Awaitable[Any]]) -> None:
        async def run() -> None:
            await act()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        for link in list(self._links):
            link.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._weather.reset or self._weather.partition:
            _Link(writer, writer).close(reset=True)
            return
        try:
            if isinstance(self.target, Path):
                answers, onward = await asyncio.open_unix_connection(str(self.target))
            else:
                answers, onward = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _Link(writer, writer).close(reset=True)
            return
        link = _Link(writer, onward)
        self._links.add(link)
        try:
            await asyncio.gather(self._pass(reader, link, reply=False), self._pass(answers, link, reply=True))
        finally:
            self._links.discard(link)
            link.close()

    async def _pass(self, source: asyncio.StreamReader, link: _Link, *, reply: bool) -> None:
        target = link.client if reply else link.server
        try:
            while data := await source.read(_CHUNK):
                if reply and self._weather.drop_replies:
                    link.close()
                    return
                await self._forward(data, link, target, reply=reply)
            while self._weather.silent:  # noqa: ASYNC110  (not even the end of a connection gets through)
                await asyncio.sleep(_LOOK_EVERY_S)
            if target.can_write_eof():
                target.write_eof()
        except (OSError, RuntimeError):
            link.close()

    async def _forward(self, data: bytes, link: _Link, target: asyncio.StreamWriter, *, reply: bool) -> None:
        while data:
            while self._weather.silent:  # noqa: ASYNC110  (plain, and the weather changes seldom)
                await asyncio.sleep(_LOOK_EVERY_S)
            weather = self._weather
            if weather.delay_s:
                await asyncio.sleep(weather.delay_s)
            piece = data[: weather.slice_bytes or len(data)]
            if weather.close_after is not None:
                piece = piece[: max(0, weather.close_after - link.passed[reply])]
            data = data[len(piece) :]
            link.passed[reply] += len(piece)
            target.write(piece)
            await target.drain()
            if weather.close_after is not None and link.passed[reply] >= weather.close_after:
                raise ConnectionResetError
            if weather.bytes_per_s:
                await asyncio.sleep(len(piece) / weather.bytes_per_s)
