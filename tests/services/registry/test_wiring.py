import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.pace import Deadline
from undersong.local.forks import Forked, Forks

pytestmark = pytest.mark.process


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Platform:
    """Real processes; all are ended with the block. The registry's own are started as an operator does."""

    def __init__(self, folder: Path, stack: ExitStack, forks: Forks) -> None:
        self.folder, self.stack, self.forks = folder, stack, forks
        self.keys_port, self.port = free_port(), free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "KEYS_DATA_DIR": str(folder / "keys"),
            "KEYS_PORT": str(self.keys_port),
            "KEYS_MIGRATE_ON_START": "true",
            "REGISTRY_DATA_DIR": str(folder / "registry"),
            "REGISTRY_PORT": str(self.port),
            "REGISTRY_KEYS_URL": f"http://127.0.0.1:{self.keys_port}",
            "REGISTRY_ENROL_TOKEN_FILE": str(folder / "secrets" / "registry-enrol-token"),
        }

    def fork(self, module: str, *arguments: str) -> Forked:
        """Start what is not tested here."""
        log = self.folder / f"{module}.log"
        process = self.forks.spawn(module, arguments, env=self.environment, cwd=self.folder, log=log)
        assert process is not None
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        return process

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", *command], env=self.environment)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def ready(self, port: int, within_s: float = 60) -> dict[str, object]:
        give_up_at = Deadline(within_s)
        with httpx.Client(trust_env=False) as http:
            while not give_up_at.over():
                with suppress(httpx.TransportError):
                    answer = http.get(f"http://127.0.0.1:{port}/health/ready")
                    if answer.status_code == 200:
                        found: dict[str, object] = answer.json()
                        return found
                time.sleep(0.1)
        raise TimeoutError


@pytest.fixture
def platform(tmp_path: Path, forks: Forks) -> Iterator[Platform]:
    with ExitStack() as stack:
        yield Platform(tmp_path, stack, forks)


def stop(process: subprocess.Popen[bytes] | Forked) -> int:
    process.terminate()
    return process.wait(20)


def test_api_and_worker_enrol_serve_and_stop(platform: Platform) -> None:
    made = platform.fork("undersong.services.keys", "bootstrap", "--out", str(platform.folder / "secrets"))
    assert made.wait(60) == 0
    assert platform.fork("undersong.services.registry", "migrate").wait(60) == 0
    keys = platform.fork("undersong.services.keys", "api")
    api, worker = (
        platform.start("undersong.services.registry", "api"),
        platform.start("undersong.services.registry", "worker"),
    )
    assert platform.ready(platform.port)["status"] == "ready"
    assert httpx.get(f"http://127.0.0.1:{platform.port}/v1/models", trust_env=False).status_code == 401
    second = subprocess.run(
        [sys.executable, "-m", "undersong.services.registry", "api"],
        env=platform.environment,
        capture_output=True,
        timeout=60,
    )
    assert second.returncode == 2
    assert b"is already in use" in second.stderr
    assert [stop(process) for process in (api, worker, keys)] == [0, 0, 0]


def test_a_bad_setting_is_one_clear_line(platform: Platform) -> None:
    environment = platform.environment | {"REGISTRY_MAX_CONTENT_BYTES": "many"}
    run = subprocess.run(
        [sys.executable, "-m", "undersong.services.registry", "migrate"],
        env=environment,
        capture_output=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert run.stderr.startswith(b"setting REGISTRY_MAX_CONTENT_BYTES: ")
    assert run.stderr.count(b"\n") == 1
