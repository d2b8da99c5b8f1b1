"""The containers for real: built, started, driven by the CLI from outside through the edge, looked into, removed.

`make e2e` runs it; it needs a Docker engine with compose. Wheels that pip finds locally are lent to the build.
"""

import hashlib
import json
import socket
import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.e2e.containers import BUILD_S, JOB_S, PROCESSES, ROOT, SERVICES, START_S, Compose, has_engine, online, wait

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(BUILD_S + START_S + JOB_S),
    pytest.mark.skipif(not has_engine(), reason="no Docker engine with compose here"),
]


def test_four_hospitals_train_a_model_through_the_edge(compose: Compose) -> None:
    """From nothing to a model that was downloaded and is better than chance."""
    wait("the hospitals", lambda: online(compose), 180)
    submitted = json.loads(compose.cli("job", "submit", "examples/hospital/job.yaml", "--json"))
    ended = json.loads(compose.cli("job", "watch", submitted["id"], "--json", timeout_s=JOB_S))
    assert ended["state"] == "succeeded"
    assert ended["progress"]["scores"][-1]["auc"] > 0.75
    version = ended["version_id"]
    headers = {"Authorization": f"Bearer {compose.token('coordinator', 'admin-token')}"}
    content = httpx.get(
        f"{compose.url('registry')}/v1/versions/{version}/content", headers=headers, verify=compose.trust
    )
    told = httpx.get(f"{compose.url('registry')}/v1/versions/{version}", headers=headers, verify=compose.trust).json()
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
    holders = {
        name for name, found in volumes.items() if f"{compose.env['COMPOSE_PROJECT_NAME']}_transport-ca" in found
    }
    assert holders == {"secrets"}, "the transport authority's key is shown to no other container"


def _enrol_volume(compose: Compose) -> str:
    return f"{compose.env['COMPOSE_PROJECT_NAME']}_aggregator-enrol"  # through which keys hands over one token


def test_the_edge_keeps_its_limits(compose: Compose) -> None:
    """No metrics for the outside, no large body at keys, no endless header."""
    trust = compose.trust
    for service in SERVICES:
        assert httpx.get(f"{compose.url(service)}/metrics", verify=trust).status_code == 404
        assert httpx.get(f"{compose.url(service)}/health/ready", verify=trust).json()["degraded"] == []
    refused = httpx.post(f"{compose.url('keys')}/v1/enrolments", content=b"x" * 100_000, verify=trust)
    assert refused.status_code == 413
    assert "default-src 'none'" in refused.headers["content-security-policy"]  # the edge's own answers too
    long = "a" * 40_000
    for status, url, headers in (
        (414, f"{compose.url('keys')}/{long}", {}),
        (431, compose.url("keys"), {"x-long": long}),
    ):
        answer = httpx.get(url, headers=headers, verify=trust)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    with (
        socket.create_connection(("127.0.0.1", compose.ports["coordinator"]), timeout=30) as raw,
        trust.wrap_socket(raw, server_hostname="localhost") as slow,
    ):
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert slow.recv(1024) == b""  # closed within the header's deadline, not held open


def test_the_dashboard_opens_with_the_first_token(compose: Compose) -> None:
    with httpx.Client(base_url=compose.url("coordinator"), follow_redirects=True, verify=compose.trust) as browser:
        answer = browser.post("/dashboard/login", data={"token": compose.token("coordinator", "admin-token")})
        assert answer.status_code == 200
        assert "Nothing is stuck" in answer.text
        assert "heart-disease" in browser.get("/dashboard/models").text


def test_redis_is_wiped_workers_are_killed_and_keys_are_changed(compose: Compose) -> None:
    """A job runs to its end although Redis is wiped, every worker is killed, and keys are exchanged."""
    compose("restart", "redis")
    submitted = json.loads(compose.cli("job", "submit", "examples/hospital/job.yaml", "--json"))
    compose("kill", "--signal", "KILL", *(f"{name}-worker" for name in SERVICES))
    before = compose.certificate("coordinator")
    compose("run", "--rm", "secrets", "python3", "/make_secrets.py", "--renew-certificates", "--new-seal-keys")
    compose("exec", "-T", "keys-api", "python", "-m", "undersong.services.keys", "reseal")
    compose("start", *(f"{name}-worker" for name in SERVICES))
    assert compose.certificate("coordinator") != before
    compose.cli("job", "watch", submitted["id"], timeout_s=JOB_S)


def test_any_one_container_may_freeze_or_die_while_a_job_runs(compose: Compose, tmp_path: Path) -> None:
    """One after another is paused for a second, then killed and started again: rounds are still published."""
    job = yaml.safe_load((ROOT / "examples" / "hospital" / "job.yaml").read_text())
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job | {"name": "one-at-a-time", "rounds": 1000}))
    wait("the hospitals", lambda: online(compose), 180)
    job_id = json.loads(compose.cli("job", "submit", str(path), "--json"))["id"]

    def trained() -> int:
        found = json.loads(compose.cli("job", "show", job_id, "--json"))["job"]
        assert found["state"] in {"queued", "running"}, found
        return int(found["progress"]["trained"])

    for name in ("postgres", "redis", *PROCESSES, "edge"):
        compose.pause(name)
        time.sleep(1)  # how long it is frozen
        compose("unpause", name)
        compose("kill", "--signal", "KILL", name)
        compose("up", "--detach", "--no-deps", "--wait", name)
    before = trained()
    wait("two more rounds", lambda: trained() >= before + 2, JOB_S)
    compose.cli("job", "cancel", job_id)
