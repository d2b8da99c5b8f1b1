"""The example's figures over real processes: one hospital's agent is killed in the middle, and the sums are right."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.shared.statistics.results import ContingencyResult, KMeansResult, MomentResult

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "hospital"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Platform]:
    with Platform(tmp_path_factory.mktemp("home"), forks=forks) as running:
        for name in HOSPITALS:
            running.add_site(name, datasets=EXAMPLE / "datasets" / f"{name}.yaml", policy=EXAMPLE / "policy.yaml")
        running.wait_sites_online(len(HOSPITALS), timeout_s=180)
        yield running


def test_the_examples_figures_with_an_agent_killed(platform: Platform) -> None:
    """Whatever the round counted, it counted whole hospitals, each once."""
    client = platform.client
    spec: dict[str, Any] = yaml.safe_load((EXAMPLE / "statistics.yaml").read_text())
    spec |= {"federation_id": platform.federation().id, "deadlines": {"round_s": 120}}
    job = client.submit_job(spec)
    killed = False
    for event in client.follow(job.id, poll_s=0.2):
        if event.type == "round.collecting" and not killed:
            platform.kill("agent.va")
            killed = True
    assert killed
    assert client.job(job.id).state == "succeeded"
    found = {result.name: result for result in client.results(job.id).results}
    assert len(found) == len(spec["queries"])
    assert {result.status for result in found.values()} == {"ok"}
    records = pd.read_csv(EXAMPLE / "heart_disease.csv")
    first = next(round_ for round_ in client.rounds(job.id) if round_.phase == "published")
    if first.got < len(HOSPITALS):
        records = records[records.site != "va"]
    means = found["means"]
    assert isinstance(means, MomentResult)
    assert {c.column: c.mean for c in means.columns} == pytest.approx(
        {name: records[name].mean() for name in ("age", "trestbps", "thalach")}
    )
    pain = found["chest pain and disease"]
    assert isinstance(pain, ContingencyResult)
    wanted = pd.crosstab(records.cp, records.target)
    for row, (_, counts) in zip(pain.cells, wanted.iterrows(), strict=True):
        assert all(cell in (None, float(count)) for cell, count in zip(row, counts, strict=True))
    groups = found["k-means of age, thalach, trestbps"]
    assert isinstance(groups, KMeansResult)
    assert groups.steps >= 2


def test_two_servers_count_what_each_site_proved(platform: Platform) -> None:
    """Prio3 between real processes: the same figures as over all rows together, and neither server saw a site's."""
    client = platform.client
    platform.wait_sites_online(len(HOSPITALS), timeout_s=180)
    spec: dict[str, Any] = yaml.safe_load((EXAMPLE / "statistics.yaml").read_text())
    queries = [query for query in spec["queries"] if query.get("name") in ("means", "chest pain and disease")]
    spec |= {
        "name": "two servers", "engine": "twoserver", "queries": queries,
        "federation_id": platform.federation().id, "deadlines": {"round_s": 120},
    }  # fmt: skip
    job = client.wait(client.submit_job(spec).id, timeout_s=240)
    assert job.state == "succeeded", job.reason
    counted = [round_ for round_ in client.rounds(job.id) if round_.phase == "published"]
    assert [round_.got for round_ in counted] == [len(HOSPITALS)] * len(counted)
    with closing(sqlite3.connect(platform.home / "helper" / "helper.sqlite")) as helper:
        rows = helper.execute("SELECT round_id FROM reports WHERE message IS NOT NULL").fetchall()
    assert Counter(round_id for (round_id,) in rows) == {round_.id: len(HOSPITALS) for round_ in counted}
    found = {result.name: result for result in client.results(job.id).results}
    means, pain = found["means"], found["chest pain and disease"]
    assert isinstance(means, MomentResult)
    assert isinstance(pain, ContingencyResult)
    records = pd.read_csv(EXAMPLE / "heart_disease.csv")
    assert {c.column: c.mean for c in means.columns} == pytest.approx(
        {name: records[name].mean() for name in ("age", "trestbps", "thalach")}
    )
    wanted = pd.crosstab(records.cp, records.target)
    for row, (_, counts) in zip(pain.cells, wanted.iterrows(), strict=True):
        assert all(cell in (None, float(count)) for cell, count in zip(row, counts, strict=True))
