"""The server process: a clear line when its port is taken, a clean end on SIGTERM with a long poll waiting."""

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

SCRIPT = """
import asyncio, sys
from fastapi import APIRouter, Request
from shared.web.app import create_app
from shared.web.server import serve

router = APIRouter()

@router.get("/wait")
async def wait(request: Request) -> str:
    await asyncio.wait_for(request.app.state.stopping.wait(), 30)
    return "stopped"

serve(create_app(title="T", service="t", routers=[router]), "127.0.0.1", int(sys.argv[1]))
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
        assert process.wait(timeout=8) == 0
        poll.join(timeout=5)
    finally:
        process.kill()
        process.wait()
    assert answers == ['"stopped"']


def _wait_until_live(url: str) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"{url}/health/live").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the server did not come up")
