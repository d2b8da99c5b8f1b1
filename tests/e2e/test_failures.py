"""What goes wrong at single sites, with real agents: each ends in a model or in a sentence, and never in silence."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.e2e.test_buffers import verified
from tests.pace import Deadline
from undersong.client import ApiError, Client
from undersong.client.types import Round
from undersong.local import Platform
from undersong.local.forks import Forks

pytestmark = [pytest.mark.process, pytest.mark.exhaustive, pytest.mark.timeout(900)]

SITES = ("north", "east", "south", "west", "isle")
"""`west` has one class only; `isle` joins late."""
ROWS = 120
COLUMNS = [
    {"name": "a", "type": "number"},
    {"name": "b", "type": "number"},
    {"name": "ill", "type": "category", "categories": ["no", "yes"]},
]


def write(folder: Path, name: str) -> list[dict[str, Any]]:
    """A table of two numbers, pictures of two shades, and a series, for one site."""
    random = np.random.default_rng(SITES.index(name))
    a = random.normal(size=ROWS)
    ill = np.where(a > 0, "yes", "no") if name != "west" else np.full(ROWS, "yes")
    pd.DataFrame({"a": a, "b": random.normal(size=ROWS), "ill": ill, "part": "train"}).assign(
        part=["test" if at % 5 == 0 else "train" for at in range(ROWS)],
        never=["test" if at % 5 == 0 and name != "west" else "train" for at in range(ROWS)],
    ).to_csv(folder / "rows.csv", index=False)
    shade = np.arange(ROWS) % 2
    pixels = (random.integers(0, 60, (ROWS, 8, 8)) + 150 * shade[:, None, None]).astype(np.uint8)
    np.savez(folder / "shots.npz", x=pixels, y=shade.astype(np.int64))
    value = 5 + np.sin(np.arange(200) / 5) + random.normal(size=200) / 10
    times = pd.date_range("2024-03-01", periods=200, freq="5min").strftime("%Y-%m-%dT%H:%M")
    pd.DataFrame({"at": times, "value": value}).to_csv(folder / "road.csv", index=False)
    tables = {}
    for table, column in {"rows": "part", "untested": "never"}.items():
        part = {"name": column, "type": "category", "categories": ["train", "test"]}
        made = {"name": table, "kind": "csv", "path": str(folder / "rows.csv"), "columns": [*COLUMNS, part]}
        tables[table] = made | {"label": "ill", "split": {"by": "column", "column": column, "test": ["test"]}}
    return [
        *tables.values(),
        {"name": "shots", "kind": "npz", "path": str(folder / "shots.npz"), "label": "y"}
        | {"columns": [{"name": "x", "type": "image"}, {"name": "y", "type": "number"}]},
        {"name": "road", "kind": "csv", "path": str(folder / "road.csv")}
        | {"series": {"time": "at", "target": "value", "lags": 4, "every": "5 min"}}
        | {"dates": {"at": "%Y-%m-%dT%H:%M"}, "columns": [{"name": "value", "type": "number"}]}
        | {"split": {"by": "time", "column": "at", "test_from": "2024-03-01T14:00"}},
    ]


def add(platform: Platform, folder: Path, name: str) -> None:
    datasets = write(folder, name)
    policy = {
        "federations": ["own"],
        "recipes": [{"name": recipe} for recipe in ("tabular", "image", "series", "trees")],
        "datasets": {entry["name"]: {"columns": "*"} for entry in datasets},
        "engines": ["pairwise", "twoserver", "sealed"],
    }
    platform.add_site(name, datasets={"datasets": datasets}, policy=policy, agent={"device": "cpu"})


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Platform]:
    with Platform(tmp_path_factory.mktemp("home"), forks=forks) as running:
        for name in SITES[:4]:
            add(running, tmp_path_factory.mktemp(name), name)
        running.wait_sites_online(4, timeout_s=180)
        yield running


def document(platform: Platform, name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "federation_id": platform.federation().id,
        "model": {"name": name},
        "recipe": {"name": "tabular", "params": {"epochs": 3, "learning_rate": 0.2}},
        "data": {"dataset": "rows", "features": ["a", "b"], "label": "ill"},
        "rounds": 3,
        "engine": "sealed",
        "evaluation": {"every": 3},
        "deadlines": {"round_s": 90},
        **more,
    }


def run(platform: Platform, asked: dict[str, Any]) -> tuple[Client, str]:
    client = platform.client
    job_id = client.submit_job(asked).id
    job = client.wait(job_id, timeout_s=500)
    assert job.state == "succeeded", (job.reason, job.explanation, job.causes)
    return client, job_id


def scores(client: Client, job_id: str) -> dict[str, float]:
    return dict(client.job(job_id).progress["scores"][-1])


def rounds_of(client: Client, job_id: str, kind: str) -> list[Round]:
    return [one for one in client.rounds(job_id) if one.kind == kind and one.phase == "published"]


def test_a_class_absent_at_a_site_is_learnt_from_the_others(platform: Platform) -> None:
    client, job_id = run(platform, document(platform, "one class"))
    found = scores(client, job_id)
    assert found["examples"] == 4 * ROWS / 5
    assert found["auc"] > 0.9
    assert [one.got for one in rounds_of(client, job_id, "train")] == [4] * 3


def test_a_site_without_rows_to_evaluate_says_so_and_the_others_go_on(platform: Platform) -> None:
    """Its data set cannot be used as it is declared, which the site is told at once, and a job before it starts."""
    client, data = platform.client, {"dataset": "untested", "features": ["a", "b"], "label": "ill"}
    west = next(site for site in client.sites() if site.name == "west")
    assert west.profile is not None
    assert {"code": "dataset-unreadable", "dataset": "untested"}.items() <= west.profile["faults"][0].items()
    log = platform.processes["agent.west"].log.read_text()
    assert "its split leaves no rows for test" in log
    with pytest.raises(ApiError, match="3 active sites have this recipe, data set and columns, and 4 are needed"):
        client.submit_job(document(platform, "untested by four", data=data, cohort={"min": 4}))
    client, job_id = run(platform, document(platform, "untested", data=data))
    assert scores(client, job_id)["examples"] == 3 * ROWS / 5


def test_one_frozen_site_holds_up_no_round_that_has_enough(platform: Platform) -> None:
    """With `enough` rounds go on without it; it comes back and takes part again."""
    client = platform.client
    asked = document(platform, "enough", rounds=4, cohort={"enough": 3}, evaluation={"every": 0})
    job_id = client.submit_job(asked).id
    for event in client.follow(job_id, poll_s=0.1):
        if event.type == "round.published" and event.data["kind"] == "train" and event.data["number"] == 1:
            platform.halt("agent.east")
        if event.type == "round.published" and event.data["kind"] == "train" and event.data["number"] == 3:
            platform.resume("agent.east")
    job = client.job(job_id)
    assert job.state == "succeeded", (job.explanation, job.causes, job.last_failure)
    assert [one.got >= 3 for one in rounds_of(client, job_id, "train")] == [True] * 4


def test_sites_join_and_leave_between_rounds(platform: Platform, tmp_path: Path) -> None:
    """The site that joined is in later rounds, the one that left is in none, and the job needs neither."""
    client = platform.client
    asked = document(platform, "coming and going", rounds=6, evaluation={"every": 0}, deadlines={"round_s": 45})
    job_id = client.submit_job(asked).id
    names = {site.name: site.id for site in client.sites()}
    for event in client.follow(job_id, poll_s=0.1):
        if event.type == "round.published" and event.data["kind"] == "train" and event.data["number"] == 1:
            client.pause_job(job_id)
            add(platform, tmp_path, "isle")
            platform.wait_sites_online(5, timeout_s=180)
            platform.halt("agent.south")
            deadline = Deadline(120)
            while next(site for site in client.sites() if site.name == "south").online:
                assert not deadline.over()
                time.sleep(0.5)
            client.resume_job(job_id)
    platform.resume("agent.south")
    job = client.job(job_id)
    assert job.state == "succeeded", (job.reason, job.causes)
    names = {site.name: site.id for site in client.sites()}
    last = rounds_of(client, job_id, "train")[-1]
    assert names["isle"] in last.cohort
    assert names["south"] not in last.cohort
    platform.wait_sites_online(5)


@pytest.mark.parametrize(
    ("strategy", "least"),
    [
        ({"name": "krum", "params": {"attackers": 1, "kept": 2}}, 5),
        ({"name": "trimmed_mean", "params": {"trim": 0.2}}, 5),
    ],
)
def test_rules_that_compare_updates_train_through_agents(
    platform: Platform, strategy: dict[str, Any], least: int
) -> None:
    platform.wait_sites_online(least)
    asked = document(platform, strategy["name"], cohort={"min": least}, strategy={**strategy, "weighting": "equal"})
    client, job_id = run(platform, asked)
    assert scores(client, job_id)["auc"] > 0.9
    assert [one.got for one in rounds_of(client, job_id, "train")] == [least] * 3


def test_a_kill_within_a_level_of_trees_changes_no_tree(platform: Platform, tmp_path: Path) -> None:
    """The coordinator's worker, an agent and the aggregator's worker die while trees grow; a calm run is the same."""
    params = {"depth": 2, "bins": 16, "min_rows": 5}
    asked = document(platform, "trees", recipe={"name": "trees", "params": params}, cohort={"min": 5})
    contents = []
    for calm in (True, False):
        client = platform.client
        job_id = client.submit_job(asked | {"name": f"trees {calm}", "model": {"name": f"trees {calm}"}}).id
        victims = [] if calm else ["coordinator.worker", "agent.north", "aggregator.worker"]
        for event in client.follow(job_id, poll_s=0.05):
            if victims and event.type == "round.collecting" and event.data["kind"] == "statistics":
                platform.kill(victims.pop())
        job = client.wait(job_id, timeout_s=400)
        assert job.state == "succeeded", (job.reason, job.causes)
        assert not victims
        assert job.version_id is not None
        client.download(job.version_id, tmp_path / f"{calm}")
        contents.append((tmp_path / f"{calm}").read_bytes())
        assert verified(client, job.version_id).verified
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("recipe", "dataset", "params", "metric", "least"),
    [
        ("image", "shots", {"classes": 2, "model": "resnet", "channels": [4, 4], "epochs": 20}, "accuracy", 0.7),
        ("series", "road", {"model": "gru", "epochs": 5}, "r2", 0.3),
        ("series", "road", {"model": "tcn", "epochs": 5}, "r2", 0.3),
    ],
)
def test_networks_that_no_other_job_here_has(
    platform: Platform, recipe: str, dataset: str, params: dict[str, Any], metric: str, least: float
) -> None:
    name = f"{recipe} {params['model']}"
    asked = document(platform, name, recipe={"name": recipe, "params": params}, data={"dataset": dataset})
    client, job_id = run(platform, asked | {"engine": "pairwise"})
    assert scores(client, job_id)[metric] > least
