"""Running an application under uvicorn."""

import asyncio
import errno
import socket
import sys
from types import FrameType
from typing import Final, NoReturn

import structlog
import uvicorn
from fastapi import FastAPI

EXIT_BAD_USE: Final = 2
_BACKLOG: Final = 2048
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Tells long polls at once that the process is about to end."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM and SIGINT."""
        self._stopping.set()
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # else it raises the signal again at the end, and a clean stop is no exit 0


def serve(app: FastAPI, host: str, port: int, *, grace_s: int = 10) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress get `grace_s` seconds to finish.

    A port that is in use, or not ours to take, ends the process with one clear line and status 2.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace_s,
        timeout_keep_alive=75,
        backlog=_BACKLOG,
    )
    log.info("server.listening", host=host, port=listener.getsockname()[1])
    _Server(config, app.state.stopping).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        _give_up(host, port, error)
    listener.set_inheritable(True)
    return listener


def _give_up(host: str, port: int, error: OSError) -> NoReturn:
    reason = "is already in use" if error.errno == errno.EADDRINUSE else f"cannot be opened: {error.strerror}"
    sys.stderr.write(f"port {port} on {host} {reason}; set another with the service's PORT setting\n")
    raise SystemExit(EXIT_BAD_USE)
