"""Each broken state gets its cause and its remedy: real services, really broken, one after the other, and fixed."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from tests.effort import also
from undersong.client import Client
from undersong.doctor import Finding, examine_agent, examine_home, examine_platform
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.local.layout import LOOPBACK, Layout, service_command
from undersong.local.sites import SiteFolder
from undersong.shared.clock import utc_now
from undersong.shared.identity.authority import CertificateAuthority, Identity, Subject, write_private
from undersong.shared.identity.transport import TransportAuthority

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

NOTHING = {"datasets": [{"name": "nothing", "kind": "none", "columns": []}]}
Break = Callable[[Platform], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Platform]:
    with Platform(tmp_path_factory.mktemp("home"), tls=True, forks=forks) as running:
        running.add_site("north", datasets=NOTHING)
        running.wait_sites_online(1, timeout_s=120)
        yield running


def broken(findings: Iterator[Finding]) -> dict[str, list[Finding]]:
    """What is not fine, by subject; each with a cause of one line and a remedy."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.state != "ok":
            assert finding.detail, finding
            assert "\n" not in finding.detail, finding
            assert finding.remedy, finding
            found.setdefault(finding.subject, []).append(finding)
    return found


def examined(platform: Platform) -> dict[str, list[Finding]]:
    with Client(platform.profile) as client:
        return broken(examine_platform(client))


# a platform of which one part is broken


@contextmanager
def halted(platform: Platform, name: str) -> Iterator[None]:
    platform.halt(name)
    try:
        yield
    finally:
        platform.resume(name)
        platform._wait_ready()


@contextmanager
def another_program(platform: Platform) -> Iterator[None]:
    with halted(platform, "registry.api"), answering(SimpleHTTPRequestHandler, port=port_of(platform, "registry")):
        yield


def port_of(platform: Platform, service: str) -> int:
    return int(platform.urls[service].rsplit(":", 1)[1])


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def schema(revision: str) -> Break:
    @contextmanager
    def stands(platform: Platform) -> Iterator[None]:
        file = platform.home / "coordinator" / "coordinator.sqlite"
        with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as db:
            before = db.execute("SELECT version_num FROM alembic_version").fetchone()
            db.execute("UPDATE alembic_version SET version_num = ?", (revision,))
            yield
            db.execute("UPDATE alembic_version SET version_num = ?", before)

    return stands


@contextmanager
def expired(platform: Platform) -> Iterator[None]:
    """The registry's certificate in keys' directory ran out while it was down."""
    yesterday = utc_now() - timedelta(days=1)
    made = CertificateAuthority.create(yesterday - timedelta(days=80)).issue(
        Ed25519PrivateKey.generate().public_key(), Subject("service", "registry"), yesterday,
        now=yesterday - timedelta(days=30),
    )  # fmt: skip
    ours = "kind = 'service' AND name = 'registry'"
    with closing(sqlite3.connect(platform.home / "keys" / "keys.sqlite", timeout=30, isolation_level=None)) as db:
        before = db.execute(f"SELECT certificate_pem, keyid FROM certificates WHERE {ours}").fetchall()
        text = made.public_bytes(Encoding.PEM).decode()
        db.execute(f"UPDATE certificates SET certificate_pem = ? WHERE {ours}", (text,))
        yield
        db.executemany("UPDATE certificates SET certificate_pem = ? WHERE keyid = ?", before)


@contextmanager
def another_password(platform: Platform) -> Iterator[None]:
    with redis.Redis.from_url(platform.redis_url) as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(skipme=True, _type="normal")
        yield
        client.config_set("requirepass", platform.redis_url.split(":")[2].split("@")[0])


@contextmanager
def no_blobs(platform: Platform) -> Iterator[None]:
    folder = platform.home / "registry" / "blobs" / "incoming"
    folder.rename(folder.with_name("elsewhere"))
    yield
    folder.with_name("elsewhere").rename(folder)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 32 MiB there, of which what is to stay free is more."""
    command = ["mount", "-t", "tmpfs", "-o", "size=32m,mode=700", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def no_database(platform: Platform) -> Iterator[None]:
    """Its settings name a PostgreSQL that does not run."""
    with socket.socket() as silent, halted(platform, "registry.api"):
        silent.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/registry"
        env = {**platform._environment("registry"), "REGISTRY_DATABASE_URL": url, "REGISTRY_MIGRATE_ON_START": "false"}
        with subprocess.Popen(service_command("registry", "api"), env=env, cwd=platform.home) as process:
            try:
                listening(port_of(platform, "registry"))
                yield
            finally:
                process.terminate()


@pytest.mark.parametrize(
    ("subject", "cause", "remedy", "break_it"),
    [
        ("registry", "nothing listens", "start it", lambda p: halted(p, "registry.api")),
        ("registry", "TLS", "http://", another_program),
        ("coordinator", "newer schema", "newer release", schema("9999")),
        ("registry", "blob store", "REGISTRY_BLOB_URL", no_blobs),
        ("certificate of service registry", "expired", "fresh token", expired),
        *also(
            ("coordinator", "refuses the password", "COORDINATOR_REDIS_URL", another_password),
            ("registry", "database does not answer", "REGISTRY_DATABASE_URL", no_database),
            ("helper", "nothing listens", "start it", lambda p: halted(p, "keys.helper")),
            ("coordinator", "Redis does not answer", "COORDINATOR_REDIS_URL", lambda p: halted(p, "valkey")),
            ("coordinator", "older schema", "undersong.services.coordinator migrate", schema("0001")),
            ("registry", "no space", "larger volume", lambda p: small_disk(p.home / "registry" / "blobs" / "incoming")),
        ),
    ],
    ids=[
        "away", "port-in-use", "schema-newer", "blobs", "expired", "redis-password", "database-away",
        "helper", "redis-away", "schema-older", "blobs-full",
    ],
)  # fmt: skip
def test_a_broken_part_is_named(platform: Platform, subject: str, cause: str, remedy: str, break_it: Break) -> None:
    with break_it(platform):
        for _ in range(200):  # a service notices at its next request, and keeps the reason it noted for some seconds
            found = examined(platform).get(subject, [])
            if any(cause in finding.detail for finding in found):
                break
            time.sleep(0.1)
    assert [f.remedy for f in found if cause in f.detail and remedy in f.remedy], found


def test_a_wiped_redis_is_no_fault(platform: Platform) -> None:
    """Everything in it comes back by itself."""
    with redis.Redis.from_url(platform.redis_url) as client:
        client.flushall()
    for _ in range(100):  # a service that lost it in an earlier test may still be on its way back
        found = {"coordinator", "aggregator", "keys", "registry"} & set(examined(platform))
        if not found:
            break
        time.sleep(0.1)
    assert not found


def test_a_bad_token_is_named(platform: Platform) -> None:
    with Client(replace(platform.profile, token="ust_nobody")) as client:
        found = broken(examine_platform(client))
    assert "undersong login" in found["token"][0].remedy


def test_tls_of_a_stranger_is_named(platform: Platform, tmp_path: Path) -> None:
    """Another authority than the one that is trusted; and a certificate that has expired, served for real."""
    stranger = TransportAuthority.ensure(tmp_path, utc_now())
    with Client(replace(platform.profile, ca_file=str(tmp_path / "ca.pem"))) as client:
        found = broken(examine_platform(client))
    assert "authority" in found["keys"][0].detail
    assert "ca.pem" in found["keys"][0].remedy
    for life, subject, words in (
        (timedelta(days=-1), "registry", "expired"),
        (timedelta(days=3), "registry TLS certificate", "expires in"),
    ):
        authority = TransportAuthority.load(platform.home / "tls")
        write_private(
            platform.home / "tls" / "registry.pem",
            authority.issue(LOOPBACK, utc_now() - timedelta(days=2), life=timedelta(days=2) + life),
        )
        platform.halt("registry.api")
        platform.processes["registry.api"].start()
        listening(port_of(platform, "registry"))
        (told, *_) = examined(platform)[subject]
        assert words in told.detail
        assert "renew" in told.remedy
    assert stranger.certificate_pem != authority.certificate_pem
    platform.renew_certificates()
    platform.halt("registry.api")
    platform.resume("registry.api")
    platform._wait_ready()


def listening(port: int) -> None:
    for _ in range(1200):
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
            threading.Event().wait(0.1)
    raise AssertionError("nothing listens")


def test_a_clock_that_is_off_is_named(platform: Platform) -> None:
    class Ahead(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("date", "Mon, 01 Jan 2035 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(json.dumps({"status": "ready"}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with answering(Ahead) as url, Client(replace(platform.profile, registry_url=url)) as client:
        found = broken(examine_platform(client))
    assert "away from ours" in found["registry clock"][0].detail
    assert "NTP" in found["registry clock"][0].remedy


# one agent


def test_an_agent_is_looked_at_beside_its_files(platform: Platform) -> None:
    """A good one has no fault; then what can be wrong with it."""
    folder = platform.home / "sites" / "north"
    config = folder / "agent.yaml"
    assert not {s: f for s, f in broken(examine_agent(config)).items() if f[0].state == "fault"}
    (folder / "state" / "identity" / "identity.pem").chmod(0o644)
    assert "chmod 600" in broken(examine_agent(config))["key files"][0].remedy
    (folder / "state" / "identity" / "identity.pem").chmod(0o600)
    good = (folder / "datasets.yaml").read_text()
    (folder / "datasets.yaml").write_text(good.replace("kind: none", "kind: nonsense"))
    assert "/datasets/0/kind 'nonsense' is not a choice" in broken(examine_agent(config))["data set nothing"][0].detail
    (folder / "datasets.yaml").write_text(good)
    allowed = (folder / "policy.yaml").read_text()
    (folder / "policy.yaml").write_text(allowed.replace("  nothing:", "  something:"))
    (found,) = broken(examine_agent(config))["data set nothing"]
    assert "does not name it" in found.detail
    assert "policy.yaml" in found.remedy
    (folder / "policy.yaml").write_text(allowed)
    identity = Identity.load(folder / "state" / "identity")
    url, headers = platform.urls["keys"], {"authorization": f"Bearer {platform.profile.operator_token}"}
    with Client(platform.profile) as client:
        answer = client._http.post(
            f"{url}/v1/certificates/{identity.keyid}/revocations", json={"reason": "laptop stolen"}, headers=headers
        )
    assert answer.status_code == 201, answer.text
    assert "laptop stolen" in broken(examine_agent(config))["certificate"][0].detail
    (subject,) = (name for name in examined(platform) if name.startswith("certificate of site"))
    assert f"undersong site re-enroll {subject.split()[-1]}" in examined(platform)[subject][0].remedy


@pytest.mark.parametrize(
    ("life", "own", "subject", "words"),
    [
        (timedelta(days=-1), True, "certificate", "expired"),
        (timedelta(days=2), True, "certificate", "expires in"),
        (timedelta(days=80), False, "authority", "another authority"),
    ],
)
def test_an_agents_certificate(
    platform: Platform, tmp_path: Path, life: timedelta, own: bool, subject: str, words: str
) -> None:
    """Issued by an authority as the keys service issues them; `own` is what the keys service answers with."""
    authority, key, now = CertificateAuthority.create(utc_now()), Ed25519PrivateKey.generate(), utc_now()
    begun = now - timedelta(days=10)
    made = authority.issue(key.public_key(), Subject("site", "site_x", "fed_x"), now + life, now=begun)
    folder = SiteFolder(tmp_path / "site")
    folder.write(platform.urls, token="", datasets=NOTHING, ca_file=platform.profile.ca_file)
    (folder.path / "state" / "identity").mkdir(parents=True)
    Identity(key, made, authority.certificate).save(folder.path / "state" / "identity")
    found = broken(examine_agent(folder.config))
    assert words in found[subject][0].detail
    assert "token" in found[subject][0].remedy


def test_an_agent_without_room(platform: Platform, tmp_path: Path) -> None:
    folder = SiteFolder(tmp_path / "site")
    folder.write(platform.urls, token="", datasets=NOTHING, ca_file=platform.profile.ca_file)
    (folder.path / "state").mkdir()
    with small_disk(folder.path / "state"):
        (found,) = broken(examine_agent(folder.config))["disk"]
    assert (found.state, "no space left" in found.detail) == ("fault", True)
    assert "tasks fail" in found.remedy


@pytest.mark.parametrize("text", [None, "a: [", "coordinator_url: 7\n", "- no mapping\n"])
def test_an_agent_without_usable_settings(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "agent.yaml").write_text(text)
    (found,) = list(examine_agent(tmp_path / "agent.yaml"))
    assert found.state == "fault"
    assert "undersong site enroll" in found.remedy


# a machine that lacks something


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    """In an environment with all that this one has, but for torch."""
    made = tmp_path / "environment"
    venv.create(made, symlinks=True)
    theirs = Path(sysconfig.get_path("purelib", vars={"base": str(made)}))
    for part in Path(sysconfig.get_path("purelib")).iterdir():
        if not part.name.startswith("torch"):
            (theirs / part.name).symlink_to(part)
    code = "import sys; from undersong.cli import main; sys.exit(main())"
    command = [str(made / "bin" / "python"), "-c", code, "doctor", "--home", str(tmp_path / "home")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    told = " ".join(found.stdout.split())
    assert "not installed: torch" in told, found
    assert "pip install" in told


# a folder whose platform does not run


def test_a_folder_is_looked_at_without_its_platform(tmp_path: Path) -> None:
    home = tmp_path / "home"
    layout = Layout.prepare(home)
    assert not {s: f for s, f in broken(examine_home(home)).items() if f[0].state == "fault"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", layout.ports["keys"]))
        taken.listen()
        (found,) = broken(examine_home(home))["ports"]
        assert "in use" in found.detail
    (home / "secrets" / "keys-seal-key").chmod(0o644)
    (home / "keys" / "keys.sqlite").write_text("this is no database at all, by any means" * 30)
    with closing(sqlite3.connect(home / "registry" / "registry.sqlite")) as db:
        db.executescript("CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('9')")
    (home / "registry" / "blobs").mkdir()
    (home / "registry" / "blobs" / "incoming").write_text("a file, and no folder")
    found_now = broken(examine_home(home))
    assert "chmod 600" in found_now["key files"][0].remedy
    assert "restore" in found_now["keys database"][0].remedy
    assert "newer release" in found_now["registry database"][0].remedy
    assert "cannot be written" in found_now["registry blobs"][0].detail
    assert "--home" in broken(examine_home(tmp_path / "nowhere"))["home"][0].remedy
