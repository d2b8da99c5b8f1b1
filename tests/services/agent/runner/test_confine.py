"""One agent, a recipe of its own that attacks it in every way, and an honest recipe that works after each attack."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from tests.pace import Deadline
from undersong.recipes.protocol import source_digest
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.runner import landlock
from undersong.services.agent.runner.process import ProcessLauncher
from undersong.services.agent.runner.protocol import RunOrder, Setup
from undersong.services.agent.runner.warm import WarmRunner
from undersong.shared.learning.tensors import Model, Schema, save
from undersong.shared.wire.manifest import DataRef

MIB = 2**20
pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        landlock.version() < 6, reason="this kernel has no Landlock 6: recipes are only partly contained"
    ),
]
HOSTILE = Path(__file__).parents[1] / "hostile_recipe.py"
LIMITS = {"memory_bytes": 768 * MIB, "file_bytes": 32 * MIB, "disk_bytes": 64 * MIB, "pids": 64}


class Site:
    """The agent under attack."""

    def __init__(self, platform, agent, tmp_path: Path) -> None:
        self.platform, self.agent = platform, agent
        (agent.folder / "hostile.py").write_text(HOSTILE.read_text())
        self.hostile = ("hostile", source_digest(agent.folder / "hostile.py"))
        self.odd = agent.recipe
        settings = yaml.safe_load((agent.folder / "agent.yaml").read_text())
        agent.write("agent.yaml", {**settings, "recipes": ["odd.py", "hostile.py"], "containment": "required"})
        agent.policy["recipes"].append({"name": "hostile", "digest": self.hostile[1]})
        agent.write("policy.yaml", {**agent.policy, "resources": LIMITS})
        (agent.folder / "other.csv").write_text("age\n61\n")
        agent.write("datasets.yaml", {"datasets": [
            {"name": "bench", "kind": "none"},
            {"name": "other", "kind": "csv", "path": "other.csv", "columns": [{"name": "age", "type": "number"}]},
        ]})  # fmt: skip
        (agent.folder / "notes.txt").write_text("a secret of the site")
        elsewhere = tmp_path / "etc"
        elsewhere.mkdir()
        (elsewhere / "shadow").write_text("root:secret")
        self.state, self.elsewhere = agent.folder / "state", elsewhere
        self.model = platform.add_model([1.0, 2.0, 3.0, 4.0])

    def give(self, recipe, **changes):
        """One task; what the agent reported."""
        before = len(self.platform.ended)
        self.platform.offer(self.platform.manifest(recipe, model_ref=self.model, **changes))
        self.platform.wait(lambda: len(self.platform.ended) > before, timeout_s=120)
        (end, told) = self.platform.ended[-1]
        return end.split(":")[0], told

    def attack(self, name: str, *, deadline_s: float = 60.0, **params):
        """The failure that the attack ended in; an honest task works after it, in the same agent."""
        end, told = self.give(self.hostile, params={"attack": name, **params}, deadline_s=deadline_s)
        honest, _ = self.give(self.odd, params={"add": 0.5})
        assert (honest, self.agent.process.poll()) == ("completions", None), name
        assert len(self.platform.leases) == 0
        return (told["code"], told["message"]) if end == "failures" else end

    def work(self) -> str:
        return str(self.state / "work" / "task")


@pytest.fixture
def site(platform, agent, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "of the agent's environment")
    made = Site(platform, agent, tmp_path)
    agent.start()
    platform.wait(lambda: platform.profiles, timeout_s=120)
    assert {recipe["name"] for recipe in platform.profiles[0]["recipes"]} >= {"odd", "hostile"}
    return made


def test_a_recipe_reaches_nothing_that_is_not_its_own(site) -> None:
    secrets = [
        *(site.state / "identity").iterdir(), site.state / "agent.sqlite", site.state / "recipes.log",
        site.agent.folder / "token", site.agent.folder / "notes.txt", site.agent.folder / "policy.yaml",
        site.agent.folder / "other.csv", site.elsewhere / "shadow", Path("/etc/shadow"),
    ]  # fmt: skip
    assert all(path.exists() for path in secrets)
    folders = [site.state, site.state / "identity", site.agent.folder, site.elsewhere, "/", "/root", "/home", "/proc"]
    targets = [
        site.agent.folder / "hostile.py", site.agent.folder / "policy.yaml", site.state / "agent.sqlite",
        site.state / "models" / "x", site.elsewhere / "x", "/dev/shm/x", Path(__file__).parent / "x", "/tmp/x",
    ]  # fmt: skip
    before = (site.agent.folder / "policy.yaml").read_text()
    found = site.attack(
        "spy",
        secrets=[str(path) for path in secrets if path.is_file()],
        folders=list(map(str, folders)),
        targets=list(map(str, targets)),
        agent=site.agent.process.pid,
    )
    assert found == ("recipe-error", "Contained"), site.agent.log()
    assert (site.agent.folder / "policy.yaml").read_text() == before
    (started,) = {str(event["closed"]) for event in site.agent.events("child.started")}
    assert "open" not in started
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as local:
        heard: list[object] = []
        path = site.elsewhere / "socket"
        local.bind(str(path))
        local.listen()
        threading.Thread(target=lambda: heard.append(listener.accept()), daemon=True).start()
        found = site.attack("network", port=listener.getsockname()[1], unix=str(path))
        assert found == ("recipe-error", "Contained"), site.agent.log()
        assert heard == []


def test_a_recipe_uses_no_more_than_it_was_given(site) -> None:
    """Processes, disk, memory and time; the agent ends the recipe, names the reason, and goes on."""
    assert site.attack("bomb", most=300)[0] == "too-many-processes"
    assert site.attack("fill", most=100, folder=site.work())[0] == "disk-limit"
    assert site.attack("one_file", most=64, folder=site.work()) == ("recipe-error", "OSError")
    assert site.attack("litter", folder=site.work())[0] in ("recipe-error", "disk-limit", "disk-full")
    assert site.attack("eat", most=2048)[0] == "out-of-memory"
    assert site.attack("eat_shared", most=1600)[0] == "out-of-memory"
    assert site.attack("stubborn", deadline_s=3.0)[0] == "task-time"
    assert site.attack("daemon") == "completions"
    left = [line for line in (site.state / "recipes.log").read_text().splitlines() if line.startswith("daemon")]
    assert len(left) == 1
    daemon = int(left[0].split()[1])
    assert psutil.Process(daemon).status() == psutil.STATUS_STOPPED, (
        "its child is kept, and stopped for the other's task"
    )
    assert site.attack("shout", most=20) == "completions"
    assert (site.state / "recipes.log").stat().st_size < 20 * MIB
    assert site.agent.kill(signal.SIGTERM) == 0
    assert not alive(daemon)


def test_what_a_recipe_answers_is_read_as_a_strangers_word(site) -> None:
    assert site.attack("nan")[0] == "bad-model-file"
    assert site.attack("huge", most=16)[0] == "model-mismatch"
    assert site.attack("no_model", folder=site.work())[0] == "bad-model-file"
    assert site.attack("pipe_in_place", folder=site.work()) == ("recipe-error", "PermissionError")
    assert site.attack("link_in_place", folder=site.work(), to="/etc/hostname") == ("recipe-error", "PermissionError")
    assert site.attack("folder_in_place", folder=site.work())[0] == "bad-result"
    assert site.attack("babble")[0] == "child-died"
    assert site.attack("lie")[0] == "recipe-error"
    bodies = [body for bodies in site.platform.bodies.values() for body in bodies]
    assert len(bodies) == 8, "only the honest rounds were answered"


async def test_the_attacks_succeed_where_nothing_confines_them(tmp_path) -> None:
    """The control: what is refused above is there to be had."""
    recipe, secret, task = tmp_path / "hostile.py", tmp_path / "secret", tmp_path / "task"
    recipe.write_text(HOSTILE.read_text())
    secret.write_text("a secret of the site")
    task.mkdir()
    (tmp_path / "datasets.yaml").write_text("datasets: [{name: bench, kind: none}]")
    digest = source_digest(recipe)
    setup = Setup(
        str(tmp_path / "datasets.yaml"), (str(recipe),), (digest,), device="cpu", isolate_network=False, confine=False
    )
    tensors = {"weights": np.ones(4, np.float32)}
    (tmp_path / "model").write_bytes(save(Model(Schema.of(tensors), tensors)))
    runner = WarmRunner(ProcessLauncher(tmp_path), setup, taken=tmp_path / "taken")

    async def failure(**params):
        order = RunOrder("train", "hostile", digest, params, DataRef(dataset="bench"), {}, 1, task, tmp_path / "model")
        with pytest.raises(TaskFailure) as found:
            await runner.run(order, lambda _: None, limit_s=60)
        return found.value

    spied = await failure(attack="spy", secrets=[str(secret)], folders=[], targets=[str(secret)])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        called = await failure(attack="network", port=listener.getsockname()[1])
    await runner.close()
    assert (spied.detail, called.detail) == ("Escaped", "Escaped")
    assert spied.text.count(str(secret)) == 2
    assert "tcp" in called.text


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_hidden_descendant_of_a_killed_agent_is_found_by_the_next(site) -> None:
    """It has no word of the agent in its environment, and its parent is gone."""
    platform, agent = site.platform, site.agent
    platform.offer(platform.manifest(site.hostile, model_ref=site.model, params={"attack": "daemon"}))
    log = site.state / "recipes.log"
    until = Deadline(60)
    while not (left := [line for line in log.read_text().splitlines() if line.startswith("daemon")]):
        assert not until.over()
        time.sleep(0.1)
    os.kill(agent.process.pid, 9)
    agent.process.wait(15)
    agent.start()
    count = len(platform.profiles)
    platform.wait(lambda: len(platform.profiles) > count, timeout_s=120)
    assert not alive(int(left[0].split()[1]))
