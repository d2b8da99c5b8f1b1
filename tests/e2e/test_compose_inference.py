"""The inference service's container for real: built, started beside nothing, asked, looked into, removed."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.containers import BUILD_S, ROOT, START_S, Compose, free_port, has_engine, lend_wheels
from tests.services.inference.versions import Trained

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(BUILD_S + START_S),
    pytest.mark.skipif(not has_engine(), reason="no Docker engine with compose here"),
]
TOKEN = "a" * 40


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Compose]:
    """The profile `inference` alone, with a version of a folder."""
    version, project = Trained(), Compose()
    (tmp_path / "model.safetensors").write_bytes(version.content)
    (tmp_path / "evidence.json").write_bytes(version.evidence.pack())
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    for path in (tmp_path, *tmp_path.iterdir(), *tmp_path.parents[:2]):
        path.chmod(0o755 if path.is_dir() else 0o644)
    project.ports["inference"] = free_port()
    project.env |= {
        "COMPOSE_PROJECT_NAME": f"undersong-{uuid.uuid4().hex[:8]}",
        "COMPOSE_PROFILES": "inference",
        "UNDERSONG_SERVED": str(tmp_path),
        "UNDERSONG_INFERENCE_PORT": str(project.ports["inference"]),
        "INFERENCE_CA_FINGERPRINT": version.fingerprint,
    }
    lent = lend_wheels()
    if list((ROOT / "deploy" / "wheels").glob("torch-*+cpu-*.whl")):
        project.env["UNDERSONG_TORCH"] = "cpu"
    try:
        project("build", "inference", timeout_s=BUILD_S)
        yield project
    finally:
        for wheel in lent:
            wheel.unlink(missing_ok=True)
        project("down", "--volumes", "--timeout", "5", timeout_s=180)


def test_a_version_is_served_from_a_container_that_can_do_nothing_else(served: Compose) -> None:
    served("up", "--detach", "--wait", "--no-build", "inference", timeout_s=START_S)
    url = f"http://127.0.0.1:{served.ports['inference']}/v1/predictions"
    rows = {"rows": [{"a": 60, "b": None, "c": "x"}]}
    assert httpx.post(url, json=rows, timeout=60).status_code == 401
    answer = httpx.post(url, json=rows, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)
    assert set(answer.json()["predictions"][0]["probabilities"]) == {"no", "yes"}
    (found,) = served.containers()
    host = found["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], found["Config"]["User"]) == (True, ["ALL"], "10001:10001")
    assert [mount["RW"] for mount in found["Mounts"]] == [False]
    out = "import socket; socket.create_connection(('1.1.1.1', 443), 3)"
    asked = ["docker", "exec", found["Id"], "python", "-c", out]
    assert subprocess.run(asked, capture_output=True, check=False).returncode == 1
    served("stop", "inference")
    assert served.containers()[0]["State"]["ExitCode"] == 0
