"""The containers for real: built, started, driven by the CLI from outside through the edge, looked into, removed.

`make e2e` runs it; it needs a Docker engine with compose. Wheels that pip finds locally are lent to the build.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("coordinator", "aggregator", "keys", "registry")
SITES = ("cleveland", "hungarian", "switzerland", "va")
BUILD_S, START_S, JOB_S = 1800, 600, 600


def _engine() -> bool:
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return (
        asked.returncode == 0 and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    )


pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(BUILD_S + START_S + JOB_S),
    pytest.mark.skipif(not _engine(), reason="no Docker engine with compose here"),
]


class Compose:
    """One compose project with free ports, and the CLI as somebody outside would use it."""

    def __init__(self) -> None:
        self.ports = {service: _free_port() for service in (*SERVICES, "helper")}
        ports = {f"UNDERSONG_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        self.env = {**os.environ, **ports, "COMPOSE_PROJECT_NAME": f"undersong-{uuid.uuid4().hex[:8]}"}
        self.env |= {"DOCKER_BUILDKIT": "1", "COMPOSE_PROFILES": "demo"}

    def __call__(self, *words: str, timeout_s: float = 120) -> str:
        done = subprocess.run(
            ["docker", "compose", *words], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"compose {' '.join(words)}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def cli(self, *words: str, timeout_s: float = 120) -> str:
        addresses = {f"UNDERSONG_{name.upper()}_URL": self.url(name) for name in SERVICES}
        tokens = {"UNDERSONG_TOKEN": self.token("coordinator", "admin-token"),
                  "UNDERSONG_OPERATOR_TOKEN": self.token("keys", "operator-token")}  # fmt: skip
        command = [str(Path(sys.executable).with_name("undersong")), *words]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.env, **addresses, **tokens},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"undersong {' '.join(words)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def token(self, service: str, name: str) -> str:
        return self("exec", "-T", f"{service}-api", "cat", f"/var/lib/undersong/bootstrap/{name}").strip()

    def containers(self) -> list[dict[str, Any]]:
        ids = self("ps", "--all", "--quiet").split()
        found = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True)
        return list(json.loads(found.stdout))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lend_wheels() -> list[Path]:
    """Link the PyTorch wheels of pip's local folders into the build context; give back what is to be removed."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    folders = {
        value.strip("'\"") for line in asked.splitlines() if "find-links" in line for value in line.split("=")[1:]
    }
    lent = []
    for wheel in (wheel for folder in folders for wheel in Path(folder).glob("torch-*.whl")):
        target = ROOT / "deploy" / "wheels" / wheel.name
        if not target.exists():
            shutil.copyfile(wheel, target)
            lent.append(target)
    return lent


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """The whole platform with four hospitals; removed with everything it made."""
    project = Compose()
    lent = _lend_wheels()
    try:
        project("build", timeout_s=BUILD_S)
        project("up", "--detach", "--no-build", timeout_s=START_S)
        yield project
    finally:
        for wheel in lent:
            wheel.unlink(missing_ok=True)
        print(project("logs", "--no-color", "--tail", "40")[-20_000:])  # shown only when something failed
        project("down", "--volumes", "--timeout", "5", timeout_s=180)


def _wait(what: str, ready: Callable[[], bool], timeout_s: float) -> None:
    """Ask every half second until it is so."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.5)


def _online(compose: Compose) -> bool:
    sites = json.loads(compose.cli("site", "list", "--json"))
    return sum(bool(site["online"]) and site["profile"] is not None for site in sites) == len(SITES)


def test_four_hospitals_train_a_model_through_the_edge(compose: Compose) -> None:
    """From nothing to a model that was downloaded and is better than chance."""
    _wait("the hospitals", lambda: _online(compose), 180)
    submitted = json.loads(compose.cli("job", "submit", "examples/hospital/job.yaml", "--json"))
    ended = json.loads(compose.cli("job", "watch", submitted["id"], "--json", timeout_s=JOB_S))
    assert ended["state"] == "succeeded"
    assert ended["progress"]["scores"][-1]["auc"] > 0.75
    version = ended["version_id"]
    headers = {"Authorization": f"Bearer {compose.token('coordinator', 'admin-token')}"}
    content = httpx.get(f"{compose.url('registry')}/v1/versions/{version}/content", headers=headers)
    told = httpx.get(f"{compose.url('registry')}/v1/versions/{version}", headers=headers).json()
    assert hashlib.sha256(content.content).hexdigest() == told["content_digest"]


def test_no_container_is_more_than_it_must_be(compose: Compose) -> None:
    """Not root, nothing writable but volumes and memory, no capabilities, limits, one port a service at the edge."""
    for found in compose.containers():
        name, host = found["Config"]["Labels"]["com.docker.compose.service"], found["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert any("no-new-privileges" in option for option in host["SecurityOpt"]), name
        assert host["Memory"] > 0, name
        assert host["NanoCpus"] > 0, name
        assert host["PidsLimit"] > 0, name
        assert not host["Privileged"], name
        if name != "secrets":  # the one that gives files to their readers, without network, and ends
            assert not host["CapAdd"], name
            assert found["Config"]["User"] not in {"", "root", "0", "0:0"}, name
        else:
            assert host["NetworkMode"] == "none"
        assert bool(host["PortBindings"]) == (name == "edge"), name
        assert not [entry for entry in found["Config"]["Env"] if "PASSWORD" in entry or "TOKEN=" in entry], name


def test_aggregator_and_keys_share_nothing(compose: Compose) -> None:
    """Two trust domains: no network and no volume in common."""
    networks: dict[str, set[str]] = {}
    volumes: dict[str, set[str]] = {}
    for found in compose.containers():
        name = found["Config"]["Labels"]["com.docker.compose.service"].rsplit("-", 1)[0]
        networks.setdefault(name, set()).update(found["NetworkSettings"]["Networks"])
        volumes.setdefault(name, set()).update(mount.get("Name", "") for mount in found["Mounts"])
    assert not networks["aggregator"] & networks["keys"]
    assert volumes["aggregator"] & volumes["keys"] <= {"", _enrol_volume(compose)}


def _enrol_volume(compose: Compose) -> str:
    return f"{compose.env['COMPOSE_PROJECT_NAME']}_aggregator-enrol"  # through which keys hands over one token


def test_processes_run_without_root_and_cannot_write(compose: Compose) -> None:
    """What the kernel says, not what the file says."""
    for service in (
        *(f"{name}-{role}" for name in SERVICES for role in ("api", "worker")),
        "keys-helper",
        "edge",
        "postgres",
        "redis",
    ):
        assert compose("exec", "-T", service, "id", "-u").strip() != "0", service
        tried = compose("exec", "-T", service, "sh", "-c", "touch /usr/x 2>/dev/null && echo wrote || echo refused")
        assert tried.strip() == "refused", service


def test_the_edge_keeps_its_limits(compose: Compose) -> None:
    """No metrics for the outside, no large body at keys, no endless header."""
    for service in SERVICES:
        assert httpx.get(f"{compose.url(service)}/metrics").status_code == 404
        assert httpx.get(f"{compose.url(service)}/health/ready").json()["degraded"] == []
    assert httpx.post(f"{compose.url('keys')}/v1/enrolments", content=b"x" * 100_000).status_code == 413
    with socket.create_connection(("127.0.0.1", compose.ports["coordinator"]), timeout=30) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert slow.recv(1024) == b""  # closed within the header's deadline, not held for ever


def test_the_dashboard_opens_with_the_first_token(compose: Compose) -> None:
    with httpx.Client(base_url=compose.url("coordinator"), follow_redirects=True) as browser:
        answer = browser.post("/dashboard/login", data={"token": compose.token("coordinator", "admin-token")})
        assert answer.status_code == 200
        assert "Nothing is stuck" in answer.text
        assert "heart-disease" in browser.get("/dashboard/models").text


def test_redis_may_be_wiped_and_workers_killed(compose: Compose) -> None:
    """A job runs to its end although the doorbell is thrown away and every worker is killed on the way."""
    compose("restart", "redis")
    submitted = json.loads(compose.cli("job", "submit", "examples/hospital/job.yaml", "--json"))
    compose("kill", "--signal", "KILL", *(f"{name}-worker" for name in SERVICES))
    compose("start", *(f"{name}-worker" for name in SERVICES))
    compose.cli("job", "watch", submitted["id"], timeout_s=JOB_S)
