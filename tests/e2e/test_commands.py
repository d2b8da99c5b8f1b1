"""The command line as people use it: real commands, a real `undersong up`, real agents."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from undersong.local.layout import Layout

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

UNDERSONG = str(Path(sys.executable).with_name("undersong"))
SITES = ("north", "south", "east side")
NOTHING = {"datasets": [{"name": "nothing", "kind": "none", "columns": []}]}
REMOTE = '# ours\n[default]\ncoordinator_url = "https://real.example.org"\ntoken = "precious"\n'


@dataclass
class Shell:
    """One user's shell; what it starts ends with it."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("UNDERSONG_")}
        return {**clean, "UNDERSONG_HOME": str(self.folder / "config")}

    def run(self, *words: str, code: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [UNDERSONG, *words], cwd=self.folder, env=self.env, capture_output=True, text=True, input=stdin, timeout=300
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def start(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            made = subprocess.Popen(
                [UNDERSONG, *words],
                cwd=self.folder,
                env=self.env,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self.started.append(made)
        return made

    def agent(self, name: str) -> subprocess.Popen[bytes]:
        return self.start(f"{name}.log", "agent", "run", "--config", str(self.folder / name / "agent.yaml"))

    def close(self) -> None:
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            process.wait(60)


def until(holds: Callable[[], object], what: str, within_s: float = 180.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A user who is logged in elsewhere starts a platform with three sites."""
    made = Shell(tmp_path_factory.mktemp("user's folder"))
    (made.folder / "config").mkdir()
    (made.folder / "config" / "profiles.toml").write_text(REMOTE)
    (made.folder / "nothing.yaml").write_text(yaml.safe_dump(NOTHING))
    try:
        up = made.start("up.log", "up", "--home", ".home")
        log = made.folder / "up.log"
        until(lambda: "Ctrl-C" in log.read_text() or up.poll() is not None, "the platform starts")
        assert up.poll() is None, log.read_text()
        for name in SITES:
            made.run("site", "enroll", name, "--datasets", "nothing.yaml")
            made.agent(name)
        until(lambda: made.run("site", "list").stdout.count("online") == len(SITES), "the agents come online")
        yield made
    finally:
        made.close()


def profiles(shell: Shell) -> str:
    return (shell.folder / "config" / "profiles.toml").read_text()


def test_a_local_platform_leaves_the_stored_profile_alone(shell: Shell) -> None:
    """Commands speak to the platform that runs here, and say so; its file is the only one that it writes."""
    assert profiles(shell) == REMOTE
    found = shell.run("site", "list")
    assert "local platform 'local'" in found.stderr
    assert "--profile default" in found.stderr
    stored = tomllib.loads((shell.folder / "config" / "local" / "local.toml").read_text())
    assert stored["home"] == str(shell.folder / ".home")
    assert shell.json("federation", "list", "--profile", "local") == shell.json("federation", "list")


def test_the_start_tells_what_has_started(shell: Shell) -> None:
    said = (shell.folder / "up.log").read_text()
    assert said.index("starting in") < said.index("coordinator is ready") < said.index("up in")


def test_the_bare_address_leads_to_the_dashboard(shell: Shell) -> None:
    url = str(tomllib.loads((shell.folder / "config" / "local" / "local.toml").read_text())["coordinator_url"])
    answer = httpx.get(url)
    assert (answer.status_code, answer.headers["location"]) == (307, "/dashboard")
    shown = httpx.get(url, follow_redirects=True)
    assert (shown.status_code, "text/html" in shown.headers["content-type"]) == (200, True)


def test_a_taken_port_at_a_restart_is_an_error(shell: Shell) -> None:
    """The remedy is named and works; nothing has moved by itself."""
    again = ("up", "--home", "second home", "--no-stay")
    ports = dict(Layout.prepare(shell.folder / "second home").ports)  # as an earlier run chose them
    file = shell.folder / "second home" / "ports.json"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["keys"]))
        taken.listen()
        refused = shell.run(*again, code=3)
        assert f"{ports['keys']} (keys)" in refused.stderr
        assert "--move" in refused.stderr
        assert json.loads(file.read_text()) == ports
        shell.run(*again, "--move")
    moved = json.loads(file.read_text())
    assert {name for name in ports if ports[name] != moved[name]} == {"keys"}
    assert profiles(shell) == REMOTE
