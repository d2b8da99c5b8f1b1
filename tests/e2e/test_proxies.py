"""Behind a company's proxy: agent, command line and doctor through CONNECT, with the proxy's authority or beside it."""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.commands import Commands
from tests.pace import Deadline
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.local.layout import HELPER, SERVICES
from undersong.shared.clock import utc_now
from undersong.shared.identity.authority import write_private
from undersong.shared.identity.transport import TransportAuthority

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

UNDERSONG = str(Path(sys.executable).with_name("undersong"))
HOST = "fl.example.test"  # no name server knows it: only the proxy leads there
WAIT_S = 120.0


@dataclass
class ConnectProxy:
    """A small HTTP proxy that speaks CONNECT (RFC 9110, 9.3.6) alone and leads every host to this machine."""

    password: str = "user:secret"
    asked: list[str] = field(default_factory=list)
    refused: int = 0

    def __enter__(self) -> "ConnectProxy":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                more = client.recv(4096)
                if not more:
                    return
                head += more
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            if method != "CONNECT" or b64encode(self.password.encode()) not in head:
                self.refused += 1
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
                return
            self.asked.append(target)
            with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2]))) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _join(client, server)


def _join(one: socket.socket, other: socket.socket) -> None:
    to = {one: other, other: one}
    while True:
        for ready in select.select([one, other], [], [])[0]:
            try:
                data = ready.recv(65_536)
                to[ready].sendall(data)
            except OSError:
                return
            if not data:
                return


@dataclass
class Site:
    """The command line's and the agent's side of the proxy."""

    folder: Path
    urls: dict[str, str]
    proxy: ConnectProxy
    ca_file: Path
    environment: dict[str, str]
    commands: Commands

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self.commands.run(*words, cwd=self.folder, env={**self.environment, **more})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, forks: Forks, commands: Commands) -> Iterator[Site]:
    """A platform whose certificates are for a name that only the proxy can reach."""
    folder = tmp_path_factory.mktemp("company")
    with ConnectProxy() as proxy, Platform(folder / "home", tls=True, forks=forks) as platform:
        authority = TransportAuthority.load(folder / "home" / "tls")
        for service in (*SERVICES, HELPER):
            names = (HOST, "127.0.0.1", "localhost")
            write_private(folder / "home" / "tls" / f"{service}.pem", authority.issue(names, utc_now()))
        ports = {service: url.rpartition(":")[2] for service, url in platform.urls.items()}
        urls = {service: f"https://{HOST}:{port}" for service, port in ports.items()}
        dropped = ("UNDERSONG_", "HTTP_", "HTTPS_", "ALL_", "NO_")
        environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(dropped)}
        environment |= {
            **{f"UNDERSONG_{service.upper()}_URL": url for service, url in urls.items()},
            "UNDERSONG_HOME": str(folder / "config"),
            "UNDERSONG_TOKEN": platform.profile.token,
            "UNDERSONG_OPERATOR_TOKEN": platform.profile.operator_token,
            "UNDERSONG_CA_FILE": platform.profile.ca_file,
            "HTTPS_PROXY": f"http://{proxy.password}@{proxy.address}",
        }
        platform.federation()
        made = Site(folder, urls, proxy, Path(platform.profile.ca_file), environment, commands)
        deadline = Deadline(WAIT_S)
        ready = f"ready at https://{HOST}"  # services take the certificates up by themselves, each in its own time
        while " ".join((found := made.run("doctor")).stdout.split()).count(ready) < len(SERVICES):
            assert not deadline.over(), found.stdout
            time.sleep(1)
        yield made


def test_an_agent_works_through_a_proxy(site: Site) -> None:
    """It enrols and tells its profile; every connection is a CONNECT; doctor says by which way it got there."""
    (site.folder / "nothing.yaml").write_text(
        yaml.safe_dump({"datasets": [{"name": "n", "kind": "none", "columns": []}]})
    )
    assert site.run("site", "enroll", "north", "--datasets", "nothing.yaml").returncode == 0
    config = str(site.folder / "north" / "agent.yaml")
    with (site.folder / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [UNDERSONG, "agent", "run", "--config", config], env=site.environment, stdout=log, stderr=log
        )
    try:
        deadline = Deadline(WAIT_S)
        while "online" not in site.run("site", "list").stdout:
            assert agent.poll() is None, (site.folder / "agent.log").read_text()
            assert not deadline.over(), (site.folder / "agent.log").read_text()
            time.sleep(0.5)
        said = site.run("doctor", "--agent", config)
    finally:
        agent.terminate()
        agent.wait(60)
    assert said.stdout.count(f"through the proxy http://{site.proxy.address}") == len(SERVICES), said.stdout
    assert "secret" not in said.stdout + (site.folder / "agent.log").read_text()
    assert {target.partition(":")[0] for target in site.proxy.asked} == {HOST}
    assert site.proxy.refused == 0


def test_a_proxy_that_refuses_is_named(site: Site) -> None:
    refused = site.run("doctor", HTTPS_PROXY=f"http://user:wrong@{site.proxy.address}")
    assert f"the proxy http://{site.proxy.address} does not lead to" in " ".join(refused.stdout.split())
    assert "wrong" not in refused.stdout


def test_a_companys_authority_counts_beside_the_platforms(site: Site) -> None:
    """`only` is the file and no other authority; `added` is the file and the system's store."""
    other = TransportAuthority.ensure(site.folder / "company", utc_now())
    system = site.folder / "system.pem"
    system.write_bytes(site.ca_file.read_bytes())
    (site.folder / "company.pem").write_bytes(other.certificate_pem)
    beside = {"UNDERSONG_CA_FILE": str(site.folder / "company.pem"), "SSL_CERT_FILE": str(system)}
    assert site.run("federation", "list", **beside, UNDERSONG_CA_TRUST="added").returncode == 0
    refused = site.run("federation", "list", **beside, UNDERSONG_CA_TRUST="only")
    assert refused.returncode == 4
    assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
    assert site.run("federation", "list", **{**beside, "UNDERSONG_CA_FILE": ""}).returncode == 0, "the system's alone"
    assert site.run("federation", "list", UNDERSONG_CA_TRUST="perhaps").returncode == 2


def test_a_platform_on_this_machine_needs_no_proxy(site: Site) -> None:
    """Whatever HTTPS_PROXY says, loopback is reached directly."""
    direct = {f"UNDERSONG_{s.upper()}_URL": url.replace(HOST, "127.0.0.1") for s, url in site.urls.items()}
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    found = site.run("doctor", **direct, **nowhere)
    assert found.stdout.count("ready at https://127.0.0.1") == len(SERVICES), found.stdout
    assert site.run("federation", "list", **direct, **nowhere).returncode == 0
