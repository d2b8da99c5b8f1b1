"""A compose deployment that lost everything but its sites comes back from `deploy/backup.sh`; runs last."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.containers import BUILD_S, JOB_S, ROOT, SITES, START_S, Compose, has_engine, online, wait

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(BUILD_S + START_S + 2 * JOB_S),
    pytest.mark.skipif(not has_engine(), reason="no Docker engine with compose here"),
]
SITE_VOLUMES = {f"site-{name}" for name in SITES}


def _run(compose: Compose, *words: str) -> str:
    done = subprocess.run(
        words, cwd=ROOT, env=compose.env, capture_output=True, text=True, timeout=START_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def _lose_everything(compose: Compose) -> None:
    """All containers and volumes, but those of the sites, which are not the platform's."""
    compose("down", "--timeout", "5", timeout_s=180)
    project = compose.env["COMPOSE_PROJECT_NAME"]
    listed = _run(compose, "docker", "volume", "ls", "--quiet", "--filter", f"name={project}_").split()
    lost = [volume for volume in listed if volume.removeprefix(f"{project}_") not in SITE_VOLUMES]
    assert len(lost) == len(listed) - len(SITES)
    _run(compose, "docker", "volume", "rm", *lost)


def test_a_deployment_is_rebuilt_and_goes_on_training(compose: Compose, tmp_path: Path) -> None:
    wait("the hospitals", lambda: online(compose), 180)
    submitted = json.loads(compose.cli("job", "submit", "examples/hospital/job.yaml", "--json"))
    before = json.loads(compose.cli("job", "watch", submitted["id"], "--json", timeout_s=JOB_S))
    data, keys = tmp_path / "data", tmp_path / "keys"
    _run(compose, "sh", "deploy/backup.sh", "back-up", str(data), str(keys))
    _lose_everything(compose)
    _run(compose, "sh", "deploy/backup.sh", "restore", str(data), str(keys))
    compose("up", "--detach", "--no-build", timeout_s=START_S)
    wait("the hospitals, after the restore", lambda: online(compose), 180)
    assert "verified" in compose.cli("verify", before["version_id"]).lower()
    again = json.loads(compose.cli("job", "submit", "examples/hospital/job.yaml", "--json"))
    ended = json.loads(compose.cli("job", "watch", again["id"], "--json", timeout_s=JOB_S))
    assert ended["state"] == "succeeded"
    assert ended["progress"]["scores"][-1]["auc"] > 0.75
