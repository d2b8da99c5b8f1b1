"""The service as a process: what it needs before it listens, and how it ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services.inference.versions import Trained
from undersong.local.layout import free_port

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]
ROW = {"a": 61.5, "b": -3, "c": "y"}
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(command: str = "api", **settings: Any) -> subprocess.Popen[str]:
        env = {**os.environ, **{f"INFERENCE_{name.upper()}": str(value) for name, value in settings.items()}}
        words = [sys.executable, "-m", "undersong.services.inference", command]
        running.append(subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def ready(process: "subprocess.Popen[str]", port: int) -> str:
    """Wait for the line that says that it listens; then it answers."""
    assert process.stdout is not None
    for line in process.stdout:
        if "server.listening" in line:
            url = f"http://127.0.0.1:{port}"
            assert httpx.get(f"{url}/health/ready", timeout=60).json()["status"] == "ready"
            return url
    raise AssertionError(process.communicate()[1])


def test_it_serves_and_a_signal_ends_it_after_what_it_has(trained: Trained, tmp_path: Path, start: Start) -> None:
    port = free_port()
    process = start(**trained.files(tmp_path), port=port, batch_rows=1)
    url = ready(process, port)
    rows, answers = [ROW] * 1000, []

    def ask() -> None:
        answers.append(httpx.post(f"{url}/v1/predictions", json={"rows": rows}, timeout=60).status_code)

    assert httpx.post(f"{url}/v1/predictions", json={"rows": [ROW]}, timeout=60).status_code == 200
    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    while "http_server_active_requests 5.0" not in httpx.get(f"{url}/metrics", timeout=60).text and not answers:
        pass
    process.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join(60)
    assert answers == [200] * 4
    assert process.wait(60) == 0
    assert "Traceback" not in process.communicate()[1]


def test_nothing_listens_without_a_verified_version(trained: Trained, tmp_path: Path, start: Start) -> None:
    files = trained.files(tmp_path)
    process = start("check", **files)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.startswith(f"version ver_2, sha256 {trained.evidence.versions[0].content_digest}: ")
    files["model_file"].write_bytes(b"x")
    process = start(**files, port=free_port())
    out, err = process.communicate(timeout=120)
    assert (process.returncode, len(err.splitlines())) == (2, 1)
    assert "nothing is served" in err
    assert "listening" not in out
    process = start(**files, host="0.0.0.0")
    _, err = process.communicate(timeout=120)
    assert (process.returncode, len(err.splitlines())) == (2, 1)
    assert err.startswith("setting INFERENCE_TOKEN_FILE: ")
