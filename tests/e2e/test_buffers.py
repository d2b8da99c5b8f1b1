"""Buffers of updates with real agents: one is many times slower than the others, who do not wait for it."""

import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.effort import also
from tests.pace import Deadline
from undersong.client import ApiError, Client
from undersong.client.types import Round
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.recipes.protocol import source_digest
from undersong.shared.learning.tensors import load
from undersong.verify import verify_now

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

RECIPE = Path(__file__).with_name("pull_recipe.py")
GOALS = {"east": 1.0, "north": 2.0, "south": 3.0, "west": 10.0}
SLOW, SLOW_S = "west", 2.5
ROUNDS = 12


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Platform]:
    with Platform(tmp_path_factory.mktemp("home"), forks=forks) as running:
        for name, goal in GOALS.items():
            folder = tmp_path_factory.mktemp(name)
            shutil.copy(RECIPE, folder)
            pause = SLOW_S if name == SLOW else 0.0
            (folder / "rows.csv").write_text("pause,goal\n" + f"{pause},{goal}\n" * 40)
            columns = [{"name": "pause", "type": "number"}, {"name": "goal", "type": "number"}]
            rows = {"name": "rows", "kind": "csv", "path": str(folder / "rows.csv"), "columns": columns}
            policy = {
                "federations": ["own"],
                "recipes": [{"digest": source_digest(folder / RECIPE.name)}],
                "datasets": {"rows": {"columns": "*"}},
                "engines": ["pairwise", "twoserver", "sealed"],
            }
            settings = {"recipes": [str(folder)], "device": "cpu"}
            running.add_site(name, datasets={"datasets": [{**rows, "label": "goal"}]}, policy=policy, agent=settings)
        running.wait_sites_online(len(GOALS), timeout_s=180)
        yield running


def document(platform: Platform, name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "federation_id": platform.federation().id,
        "model": {"name": name},
        "recipe": {"name": "pull"},
        "data": {"dataset": "rows"},
        "rounds": ROUNDS,
        "strategy": {"name": "fedbuff", "params": {"buffer": 3, "max_staleness": 50}, "weighting": "equal"},
        "update": {"modulus_bits": 64},
        "evaluation": {"every": 0},
        "deadlines": {"round_s": 60},
        **more,
    }


def trained(client: Client, job_id: str) -> list[Round]:
    found = [one for one in client.rounds(job_id) if one.kind == "train" and one.phase == "published"]
    return sorted(found, key=lambda one: one.number)


def check_reference(client: Client, job_id: str, names: dict[str, str], folder: Path) -> None:
    """Every version follows from those before it by FedBuff's formula, in plain Python."""
    values = {0: 0.0}
    for one in trained(client, job_id):
        result = one.result or {}
        ages = result["staleness"]
        changes = {site: (GOALS[names[site]] - values[one.number - 1 - age]) / 2 for site, age in ages.items()}
        weights = {site: 1 / math.sqrt(1 + age) for site, age in ages.items()}
        assert result["count"] == len(changes)
        mean = sum(weights[site] * change for site, change in changes.items()) / sum(weights.values())
        values[one.number] = values[one.number - 1] + mean
        client.download(result["version_id"], folder / f"{job_id}-{one.number}")
        made = load((folder / f"{job_id}-{one.number}").read_bytes()).tensors["w"][0]
        assert made == pytest.approx(values[one.number], abs=1e-4)


def verified(client: Client, version_id: str) -> Any:
    deadline = Deadline(400)
    while True:
        try:
            return verify_now(version_id, client, None)
        except ApiError:
            assert not deadline.over(), "the round was never logged"
            time.sleep(0.2)


@pytest.mark.parametrize("engine", ["pairwise", *also("sealed", "twoserver")])
def test_sites_go_on_without_the_slow_one_whose_change_is_weighed_by_its_age(
    platform: Platform, tmp_path: Path, engine: str
) -> None:
    """While the coordinator's worker, an agent that trains and the aggregator's worker are killed."""
    client = platform.client
    names = {site.id: site.name for site in client.sites()}
    slow = next(site for site, name in names.items() if name == SLOW)
    job_id = client.submit_job(document(platform, f"buffered {engine}", engine=engine)).id
    published = 0
    for event in client.follow(job_id, poll_s=0.1):
        if event.type == "round.published" and event.data["kind"] == "train":
            published += 1
            if victim := {1: "coordinator.worker", 2: "agent.north", 4: "aggregator.worker"}.get(published):
                platform.kill(victim)
    job = client.wait(job_id, timeout_s=400)
    assert job.state == "succeeded", (job.reason, job.causes)
    rounds = trained(client, job_id)
    assert [one.number for one in rounds] == list(range(1, ROUNDS + 1))
    ages = [(one.result or {})["staleness"] for one in rounds]
    assert all(len(age) >= 3 for age in ages)
    assert sum(slow not in age for age in ages) >= 2, "the others did not wait"
    assert max((age.get(slow, 0) for age in ages), default=0) >= 1, "and what it trained meanwhile counts"
    check_reference(client, job_id, names, tmp_path)
    assert job.version_id is not None
    found = verified(client, job.version_id)
    assert found.verified, found.findings
