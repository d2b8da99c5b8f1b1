"""The compose project that the tests of the containers share: built, started, and spoken to from outside."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.pace import Deadline

ROOT = Path(__file__).resolve().parents[2]
SITES = ("cleveland", "hungarian", "switzerland", "va")
SERVICES = ("coordinator", "aggregator", "keys", "registry")
PROCESSES = (*(f"{name}-{role}" for name in SERVICES for role in ("api", "worker")), "keys-helper")
BUILD_S, START_S, JOB_S = 1800, 600, 600


def has_engine() -> bool:
    """Whether a Docker engine with compose can be used."""
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return (
        asked.returncode == 0 and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    )


class Compose:
    """One compose project with free ports, and the CLI as a user outside would run it."""

    def __init__(self) -> None:
        self.ports = {service: free_port() for service in (*SERVICES, "helper")}
        ports = {f"UNDERSONG_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        self.env = {**os.environ, **ports, "COMPOSE_PROJECT_NAME": f"undersong-{uuid.uuid4().hex[:8]}"}
        self._ca_file = Path(tempfile.mkdtemp(prefix="undersong-e2e-")) / "ca.pem"
        self.env |= {"DOCKER_BUILDKIT": "1", "COMPOSE_PROFILES": "demo"}

    def __call__(self, *words: str, timeout_s: float = 120) -> str:
        done = subprocess.run(
            ["docker", "compose", *words], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"compose {' '.join(words)}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def pause(self, name: str) -> None:
        """Freeze a container, which the engine refuses ("unable to freeze") where one of its threads does not stop."""

        def paused() -> bool:
            done = subprocess.run(
                ["docker", "compose", "pause", name],
                cwd=ROOT,
                env=self.env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0 or "unable to freeze" in done.stderr, done.stderr[-3000:]
            return done.returncode == 0

        wait(f"pause {name}", paused, 60)

    def url(self, service: str) -> str:
        return f"https://127.0.0.1:{self.ports[service]}"

    @property
    def ca_file(self) -> Path:
        """Return what the operator gives to those who are to trust the platform."""
        self._ca_file.write_text(self("exec", "-T", "edge", "cat", "/etc/undersong/ca.pem"))
        return self._ca_file

    @property
    def trust(self) -> ssl.SSLContext:
        """What a client believes that was given the file."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def certificate(self, service: str) -> bytes:
        """The certificate (DER) that the edge shows on a service's port, once it was believed."""
        with (
            socket.create_connection(("127.0.0.1", self.ports[service]), timeout=30) as raw,
            self.trust.wrap_socket(raw, server_hostname="localhost") as held,
        ):
            return held.getpeercert(binary_form=True) or b""

    def cli(self, *words: str, timeout_s: float = 120) -> str:
        addresses = {f"UNDERSONG_{name.upper()}_URL": self.url(name) for name in SERVICES}
        addresses["UNDERSONG_CA_FILE"] = str(self.ca_file)
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(what: str, ready: Callable[[], bool], timeout_s: float) -> None:
    """Ask every half second until it is so."""
    deadline = Deadline(timeout_s)
    while not ready():
        assert not deadline.over(), f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.5)


def online(compose: Compose) -> bool:
    """Whether all hospitals are there."""
    sites = json.loads(compose.cli("site", "list", "--json"))
    return sum(bool(site["online"]) and site["profile"] is not None for site in sites) == len(SITES)


def lend_wheels() -> list[Path]:
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
