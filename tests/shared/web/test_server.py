"""The server process: a clear line when its port is in use, a clean end on SIGTERM with a long poll waiting."""

import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from undersong.shared.clock import utc_now
from undersong.shared.identity.transport import TransportAuthority

SCRIPT = """
import asyncio, sys
from pathlib import Path
from fastapi import APIRouter, Request
from undersong.shared.web.app import create_app
from undersong.shared.web.server import serve

router = APIRouter()

@router.get("/wait")
async def wait(request: Request) -> str:
    await asyncio.wait_for(request.app.state.stopping.wait(), 30)
    return "stopped"

tls_file = Path(sys.argv[2]) if len(sys.argv) > 2 else None
app = create_app(title="T", service="t", routers=[router])
serve(app, "127.0.0.1", int(sys.argv[1]), tls_file=tls_file, grace_s=60)
"""


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_port_in_use_ends_with_one_line_and_status_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(port)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == f"port {port} on 127.0.0.1 is already in use; set another with the service's PORT setting"
    )


@pytest.mark.process
def test_sigterm_wakes_long_polls_and_ends_with_status_0(free_port: int, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(free_port)])
    url = f"http://127.0.0.1:{free_port}"
    answers: list[str] = []
    try:
        _wait_until_live(url)
        poll = threading.Thread(target=lambda: answers.append(httpx.get(f"{url}/wait", timeout=30).text))
        poll.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        poll.join(timeout=5)
    finally:
        process.kill()
        process.wait()
    assert answers == ['"stopped"']


@pytest.mark.process
def test_a_silent_tls_peer_does_not_hold_up_the_end(free_port: int, tmp_path: Path) -> None:
    """A pool's idle connection answers no farewell until its owner looks at it."""
    authority = TransportAuthority.ensure(tmp_path, utc_now())
    (tmp_path / "server.pem").write_bytes(authority.issue(("127.0.0.1",), utc_now()))
    command = [sys.executable, "-c", SCRIPT, str(free_port), str(tmp_path / "server.pem")]
    with subprocess.Popen(command) as process:
        try:
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            with context.wrap_socket(_connected(free_port), server_hostname="127.0.0.1") as peer:
                peer.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert peer.recv(12) == b"HTTP/1.1 200"
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=20) == 0  # it would wait for half a minute
        finally:
            process.kill()


def _connected(port: int) -> socket.socket:
    for _ in range(300):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError("the server did not come up")


def _wait_until_live(url: str) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"{url}/health/live").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the server did not come up")
