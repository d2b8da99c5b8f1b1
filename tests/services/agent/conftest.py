"""Real agent processes, and the platform that they speak to."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.services.agent.fake_platform import SITE, Answer, FakePlatform, problem
from undersong.local.forks import Forks
from undersong.local.process import Running
from undersong.recipes.protocol import source_digest
from undersong.services.agent.__main__ import dated, opened
from undersong.services.agent.settings import load
from undersong.services.agent.transparency.receipts import ReceiptBook

RECIPE = (Path(__file__).parent / "odd_recipe.py").read_text()


class AgentProcess:
    """A site's folder and the real agent that runs on it: forked, or as a site starts it (`alone`)."""

    def __init__(self, folder: Path, url: str, forks: Forks, *, site: str = "", **settings: Any) -> None:
        self.folder, self._forks = folder, forks
        self.process: Running | None = None
        folder.mkdir()
        recipe = folder / "odd.py"
        recipe.write_text(RECIPE)
        self.recipe = ("odd", source_digest(recipe))
        self.site = site or SITE
        (folder / "token").write_text(f"good-token{':' if site else ''}{site}\n")
        self.write("datasets.yaml", {"datasets": [{"name": "bench", "kind": "none"}]})
        self.policy: dict[str, Any] = {
            "federations": ["own"],
            "recipes": [{"name": "odd", "digest": self.recipe[1]}, "null", "tabular"],
            "datasets": {"bench": {"columns": "*"}},
            "engines": ["pairwise", "sealed", "twoserver"],
        }
        self.write("policy.yaml", self.policy)
        urls = {f"{name}_url": url for name in ("coordinator", "aggregator", "keys", "registry")}
        self.write("agent.yaml", {**urls, "enrol_token_file": "token", "recipes": ["odd.py"], **settings})

    def write(self, name: str, document: Any) -> None:
        (self.folder / name).write_text(yaml.safe_dump(document))

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "undersong.services.agent",
            "--config",
            str(self.folder / "agent.yaml"),
            *arguments,
        ]

    def start(self, *, alone: bool = False) -> "AgentProcess":
        (module, *arguments), log = self.command()[2:], self.folder / "agent.log"
        with log.open("ab") as output:
            if not alone:
                self.process = self._forks.spawn(module, arguments, env=os.environ, cwd=Path.cwd(), log=log)
            if alone or self.process is None:
                self.process = subprocess.Popen(self.command(), stdout=output, stderr=output)
        return self

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(60)

    def rows(self) -> list[tuple[Any, ...]]:
        """(round, state, body digest) of every contribution."""
        with sqlite3.connect(self.folder / "state" / "agent.sqlite") as db:
            found = db.execute("SELECT round_id, state, body_digest FROM contributions ORDER BY created_at").fetchall()
        db.close()
        return found

    def receipts(self) -> list[dict[str, Any]]:
        """What `receipts --json` lists; nothing before there is a state."""
        with opened(load(self.folder / "agent.yaml")) as state:
            return [dated(entry) for entry in ReceiptBook(state).listed()] if state is not None else []

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    def outbox(self) -> dict[str, str]:
        """File name to digest of its bytes."""
        return {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (self.folder / "state" / "outbox").iterdir()
        }


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    made = FakePlatform()
    yield made
    made.stop()


@pytest.fixture
def make_agent(platform: FakePlatform, tmp_path: Path, forks: Forks) -> Iterator[Callable[..., AgentProcess]]:
    made: list[AgentProcess] = []

    def make(**settings: Any) -> AgentProcess:
        made.append(AgentProcess(tmp_path / f"site{len(made)}", platform.url, forks, **settings))
        return made[-1]

    yield make
    for agent in made:
        if agent.process is not None:
            with suppress(subprocess.TimeoutExpired):
                agent.kill(signal.SIGTERM)
            if agent.process.poll() is None:
                agent.kill()
            print(agent.log())  # shown where the test failed


@pytest.fixture
def agent(make_agent: Callable[..., AgentProcess]) -> AgentProcess:
    return make_agent()


@pytest.fixture
def refuse() -> Callable[..., Answer]:
    return problem


@pytest.fixture
def recipe_text() -> str:
    return RECIPE
