"""What an intruder finds in the running containers: no right to spare, no secret on view, no word in clear."""

import json
import re
import socket
import ssl
import subprocess
import tarfile
import warnings
from pathlib import Path

import httpx
import pytest

from tests.e2e.containers import BUILD_S, JOB_S, PROCESSES, SERVICES, START_S, Compose, has_engine

RUNNING = (*PROCESSES, "edge", "postgres", "redis")
KEY_NAMES = re.compile(
    r"(^|/)(id_[a-z0-9]+|.*\.(key|p12|pfx|kdbx)|\.netrc|\.pypirc|\.git-credentials|\.env|pip\.conf)$"
)
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}")

INSIDE = """
import httpx, ssl
def ask(*urls):
    trust = ssl.create_default_context(cafile="/run/secrets/ca.pem")
    return [httpx.get(url + "/health/live", verify=trust).status_code for url in urls]
"""
CONNECTIONS = (
    "select count(*), count(*) filter (where not ssl) from pg_stat_ssl join pg_stat_activity using (pid) "
    "where client_addr is not null"
)

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(BUILD_S + START_S + JOB_S),
    pytest.mark.skipif(not has_engine(), reason="no Docker engine with compose here"),
]


def _docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=120).stdout


def _status(compose: Compose, service: str) -> dict[str, str]:
    text = compose("exec", "-T", service, "cat", "/proc/1/status", "/proc/1/mounts")
    lines = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {line[0]: line[1].strip() for line in lines}


@pytest.mark.parametrize("service", RUNNING)
def test_the_kernel_gives_no_right_to_spare(compose: Compose, service: str) -> None:
    """What the kernel says, not what the file says."""
    status = _status(compose, service)
    assert "0" not in status["Uid"].split(), service
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0, service
    assert status["NoNewPrivs"] == "1", service
    assert status["Seccomp"] == "2", service
    script = (
        "touch /usr/x 2>/dev/null && echo wrote; cp /bin/true /tmp/x && /tmp/x 2>/dev/null && echo ran; rm -f /tmp/x"
    )
    script += "; echo end"
    assert compose("exec", "-T", service, "sh", "-c", script).strip() == "end", service


def test_no_door_to_the_host(compose: Compose) -> None:
    """No host network, process space or devices, no engine's socket, and the default system-call filter."""
    for found in compose.containers():
        name, host = found["Config"]["Labels"]["com.docker.compose.service"], found["HostConfig"]
        assert host["NetworkMode"] != "host", name
        assert not {host["PidMode"], host["IpcMode"], host["UTSMode"], host["UsernsMode"]} & {"host"}, name
        assert not host["Devices"], name
        assert not [option for option in host["SecurityOpt"] if "unconfined" in option], name
        assert not [mount for mount in found["Mounts"] if "docker.sock" in mount["Source"]], name
        writable = [mount for mount in found["Mounts"] if mount["Type"] == "bind" and mount["RW"]]
        assert not writable, (name, writable)


def _secrets(compose: Compose) -> set[str]:
    """Every secret of the running deployment, as the services read it."""
    found = {compose.token("coordinator", "admin-token"), compose.token("keys", "operator-token")}
    found.add(compose("exec", "-T", "postgres", "cat", "/run/secrets/password").strip())
    for service in SERVICES:
        read = compose("exec", "-T", f"{service}-api", "sh", "-c", "cat /run/secrets/*_url /run/secrets/seal-key")
        found |= set(re.findall(rf"{service}:([0-9a-f]{{48}})@", read)) | set(
            re.findall(r"^[0-9a-f]{64}$", read, re.MULTILINE)
        )
    assert len(found) >= 3 + 3 * len(SERVICES)
    return found


def test_no_secret_is_on_view(compose: Compose) -> None:
    """Not in what the engine tells of containers, not in arguments or environments of processes, not in logs."""
    secrets = _secrets(compose)
    views = {"inspect": json.dumps(compose.containers()), "logs": compose("logs", "--no-color")}
    views["processes"] = compose("top")
    for service in PROCESSES:
        views[f"environment of {service}"] = compose("exec", "-T", service, "cat", "/proc/1/environ")
    for name, text in views.items():
        assert not [secret[:6] for secret in secrets if secret in text], name


@pytest.mark.parametrize("service", [*SERVICES, "agent"])
def test_images_hold_no_secret_and_no_more_than_they_need(compose: Compose, tmp_path: Path, service: str) -> None:
    """No key file in any layer, no build credentials in the history, and PyTorch in the agent alone."""
    image = f"undersong-{service}:local"
    told = json.loads(_docker("image", "inspect", image))[0]["Config"]
    assert told["User"] == "10001:10001"
    named = [entry for entry in told["Env"] if re.search("TOKEN|SECRET|PASSWORD|INDEX_URL", entry.split("=")[0])]
    assert not named
    assert "://" not in re.sub(r"https?://[\w.]+/?(?=\s|$)", "", _docker("history", "--no-trunc", image))
    archive = tmp_path / "image.tar"
    container = _docker("create", image).strip()
    try:
        _docker("export", "--output", str(archive), container)
    finally:
        _docker("rm", container)
    torch = False
    with tarfile.open(archive) as files:
        for member in files:
            torch |= member.name.endswith("site-packages/torch/__init__.py")
            if not member.isfile() or not member.name.startswith(
                ("app/", "opt/", "home/", "root/", "tmp/", "var/lib/u")
            ):
                continue
            assert not KEY_NAMES.search(member.name), member.name
            if member.size < 65536 and not member.name.endswith((".py", ".pyc", ".so", ".h")):
                reader = files.extractfile(member)
                assert reader is None or not PRIVATE_KEY.search(reader.read()), member.name
    archive.unlink()
    assert torch == (service == "agent")


def test_nothing_is_said_in_clear(compose: Compose) -> None:
    """The edge, the services behind it, PostgreSQL and Redis speak TLS, and each shows a certificate that is right."""
    for service in SERVICES:
        with pytest.raises(httpx.HTTPError):
            httpx.get(compose.url(service) + "/health/live")  # the system's authorities did not issue it
        plain = httpx.get(compose.url(service).replace("https", "http") + "/health/live")
        assert plain.status_code == 400
        urls = f"'https://{service}-api:{7000 + _number(service)}', 'https://edge:{8000 + _number(service)}'"
        ask = f"{INSIDE}print(ask({urls}))"
        assert compose("exec", "-T", f"{service}-worker", "python", "-c", ask).strip() == "[200, 200]"
    command = f'PGPASSWORD=$(cat /run/secrets/password) psql -At -h localhost -U postgres -c "{CONNECTIONS}"'
    total, clear = compose("exec", "-T", "postgres", "sh", "-c", command).strip().split("|")
    assert (int(total) > len(SERVICES), clear) == (True, "0")
    tried = compose(
        "exec", "-T", "redis", "sh", "-c", "redis-cli -h redis --user health --pass - --no-auth-warning ping 2>&1; true"
    )
    assert "PONG" not in tried


def _number(service: str) -> int:
    return 1 + SERVICES.index(service)


def test_the_edge_takes_no_old_protocol(compose: Compose) -> None:
    old = compose.trust
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that they are deprecated is the point
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", compose.ports["keys"]), timeout=30) as raw, pytest.raises(ssl.SSLError):
        old.wrap_socket(raw, server_hostname="localhost")


def test_what_the_edge_refuses_is_a_problem_document(compose: Compose) -> None:
    with httpx.Client(verify=compose.trust) as http:
        large = http.post(compose.url("coordinator") + "/v1/jobs", content=bytes(2 << 20))
        inside = http.get(compose.url("keys") + "/metrics")
    for answer, status, reason in ((large, 413, "too-large"), (inside, 404, "not-found")):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        told = answer.json()
        assert told["type"] == f"urn:undersong:problem:{reason}"
        assert told["request_id"] == answer.headers["x-request-id"]
