"""Running an application under uvicorn."""

import asyncio
import errno
import gc
import socket
import ssl
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import structlog
import uvicorn
from fastapi import FastAPI

from undersong.shared.clock import utc_now
from undersong.shared.identity.transport import ServerTls
from undersong.shared.telemetry.metrics import TLS_CERTIFICATE_SECONDS
from undersong.shared.web.connection import CarefulProtocol
from undersong.shared.web.limits import Limiter, Limits

EXIT_BAD_USE: Final = 2
_BACKLOG: Final = 2048
_COLLECT_AFTER: Final = (5_000, 10, 40)
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Tells long polls at once that the process is about to end, and follows its certificate's file."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, tls: ServerTls | None) -> None:
        super().__init__(config)
        self._stopping, self._tls = stopping, tls

    async def main_loop(self) -> None:
        """Until the end of the process."""
        watching = asyncio.create_task(self._tls.watch()) if self._tls else None
        _look_seldom_for_garbage()
        try:
            await super().main_loop()
        finally:
            if watching is not None:
                watching.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM and SIGINT."""
        self._stopping.set()
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # else it raises the signal again at the end, and a clean stop is no exit 0


def serve(
    app: FastAPI,
    host: str,
    port: int,
    *,
    tls_file: Path | None = None,
    limits: Limits | None = None,
    proxies: str = "127.0.0.1",
    grace_s: int = 7,  # with what the lifespan's end takes, less than the 10 s that supervisors grant
) -> None:
    """Serve until SIGTERM or SIGINT; requests in progress get `grace_s` seconds to finish.

    `tls_file` holds a key with its certificate (PEM); without it the server speaks plain HTTP. `limits` are those of
    callers, none when they are not given. `proxies`: addresses, separated by commas, whose word about the caller's own
    address is trusted (X-Forwarded-For). A port that is in use, or not ours to take, and a file that cannot be used,
    end the process with one clear line and status 2.
    """
    if limits is not None:
        app.state.limiter = Limiter(limits)
    tls = _tls(tls_file) if tls_file else None
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=CarefulProtocol,
        forwarded_allow_ips=proxies,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace_s,
        timeout_keep_alive=75,
        backlog=_BACKLOG,
        ssl_context_factory=(lambda *_: tls.context) if tls else None,
    )
    log.info("server.listening", host=host, port=listener.getsockname()[1], tls=tls is not None)
    _Server(config, app.state.stopping, tls).run(sockets=[listener])


def _look_seldom_for_garbage() -> None:
    """Collect garbage seldom: a full collection takes a second with 2,000 long polls, and no request is served then.

    Requests leave no cycles behind, and what the start left over is set aside, so that seldom is often enough.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def _tls(file: Path) -> ServerTls:
    def report(ends: datetime) -> None:
        TLS_CERTIFICATE_SECONDS.set_function(lambda: (ends - utc_now()).total_seconds())

    try:
        return ServerTls(file, report)
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error
        sys.stderr.write(
            f"{file}: no private key with its certificate: {reason}; correct the service's TLS_FILE setting\n"
        )
        raise SystemExit(EXIT_BAD_USE) from None


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
