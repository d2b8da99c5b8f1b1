"""The example's figures over real processes: one hospital's agent is killed in the middle, and the sums are right."""

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.optimize import minimize_scalar
from scipy.stats import CensoredData, ecdf

from tests.commands import Commands
from tests.pace import Deadline
from tests.pages import sh_commands
from tests.shared.statistics.test_newton import efron
from undersong import cli
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.profile import Profile
from undersong.shared.statistics.results import (
    ContingencyResult,
    FitResult,
    HistogramResult,
    KaplanMeierResult,
    KMeansResult,
    MomentResult,
    PrincipalComponentsResult,
)

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "hospital"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


@dataclass(frozen=True)
class Shell:
    """A reader's shell: a folder, and the profile that its commands speak to."""

    folder: Path
    profile: Profile
    commands: Commands

    @property
    def env(self) -> dict[str, str]:
        told = {f"UNDERSONG_{name.upper()}": str(value) for name, value in asdict(self.profile).items() if value}
        return {**os.environ, **told, "UNDERSONG_HOME": str(self.folder.parent / "config")}

    def run(self, *words: str, code: int = 0) -> str:
        done = self.tried(*words)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def tried(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.commands.run(*words, cwd=self.folder, env=self.env)

    def until(self, said: str, *words: str) -> str:
        """What a command prints, once it says this: the agent, or the coordinator, needs a moment."""
        deadline = Deadline(120)
        while said not in " ".join((done := self.tried(*words)).stdout.split()) or done.returncode:
            assert not deadline.over(), f"{said!r} {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            time.sleep(0.3)
        return done.stdout


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


def test_models_of_survival_are_those_of_all_rows_stratified_by_site(platform: Platform) -> None:
    """Newton's steps through real rounds; ages stand in for times: the example's hospitals followed no patient."""
    client = platform.client
    platform.wait_sites_online(len(HOSPITALS), timeout_s=180)
    asked = {"time": "age", "event": "target"}
    spec: dict[str, Any] = {
        "kind": "statistics", "name": "survival", "data": {"dataset": "heart"}, "deadlines": {"round_s": 120},
        "federation_id": platform.federation().id, "queries": [
            {"query": "cox_regression", "features": ["sex"], **asked},
            {"query": "kaplan_meier", "until": 80.0, "steps": 80, **asked},
            {"query": "pca", "columns": ["age", "thalach"]},
        ],
    }  # fmt: skip
    job = client.wait(client.submit_job(spec).id, timeout_s=240)
    assert job.state == "succeeded", job.reason
    model, curve, axes = client.results(job.id).results
    assert isinstance(axes, PrincipalComponentsResult)
    assert isinstance(model, FitResult)
    assert isinstance(curve, KaplanMeierResult)
    records = pd.read_csv(EXAMPLE / "heart_disease.csv").rename(columns={"age": "time", "target": "event"})
    complete = records[["time", "thalach"]].dropna().to_numpy()
    both = 1 + abs(np.corrcoef(complete.T)[0, 1])
    assert [one.variance for one in axes.components] == pytest.approx([both, 2 - both])
    best = minimize_scalar(lambda b: -efron(records, records[["sex"]].to_numpy(float), np.array([b])), (0.0, 1.0))
    assert model.terms[0].value == pytest.approx(best.x, abs=1e-5)
    wanted = ecdf(CensoredData.right_censored(records.time, records.event == 0)).sf
    for point in curve.curves[0].points:
        assert point.survival == pytest.approx(float(wanted.evaluate(point.time - 1)))


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


PAGES = ("choose-a-unit", "choose-epsilon", "plan-run-audit-publish", "data-map", "hazards-and-tests")


@pytest.fixture(scope="module")
def shell(platform: Platform, tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Shell:
    """A reader's shell in a copy of the example's folder, after a job with noise that protects sites."""
    folder = tmp_path_factory.mktemp("reader") / "hospital"
    shutil.copytree(EXAMPLE, folder)
    spec: dict[str, Any] = yaml.safe_load((EXAMPLE / "private-sites.yaml").read_text())
    platform.wait_sites_online(len(HOSPITALS), timeout_s=180)
    job = platform.client.wait(platform.client.submit_job(spec).id, timeout_s=240)
    assert job.state == "succeeded", job.reason
    return Shell(folder, platform.client.profile, commands)


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", PAGES)
def test_the_pages_on_privacy_engineering_run(shell: Shell, page: str) -> None:
    """Every command as the page has it, in the order of the pages."""
    text = (EXAMPLE.parents[1] / "docs" / "privacy-engineering" / f"{page}.md").read_text()
    for line in sh_commands(text):
        command, _, refused = line.partition(" # exit code ")
        assert command.startswith("undersong ")
        shell.run(*shlex.split(command)[1:], code=int(refused or 0))


@pytest.mark.exhaustive  # it tells what the pages left; without them: tests/services/coordinator/test_datasheets.py
def test_a_datasheet_and_a_data_map_tell_what_the_platform_did(platform: Platform, shell: Shell) -> None:
    """Noise for records, noise of all sites together, and figures with noise: by the command, the API and the page."""
    client = platform.client
    rows = json.loads(shell.run("datasheet", "heart-private", "--json"))["datasheet"]
    (claim,) = rows["claims"]
    assert (claim["unit"], claim["released"]) == ("record", 2)
    assert claim["epsilon"] == pytest.approx(4.0, rel=0.01)
    assert claim["sampling"].startswith("Poisson")
    assert {gap["what"] for gap in rows["gaps"]} >= {"evaluations", "statistics without noise"}
    assert [audit["kind"] for audit in rows["audits"]] == ["loss-threshold"]
    page = (shell.folder / "datasheet.html").read_text()
    assert "Claim for each record" in page
    assert "<script" not in page
    model = next(model for model in client.models() if model.name == "heart-private-sites")
    newest = client.versions(model.id)[-1]
    sheet = client.datasheet(newest.id).datasheet
    (of_sites,) = sheet.claims
    assert (of_sites.unit, of_sites.released, of_sites.mechanisms[0].model) == ("site", 2, "distributed")
    assert of_sites.epsilon == pytest.approx(8.0, rel=0.01)
    assert of_sites.planned_epsilon == pytest.approx(of_sites.epsilon)
    assert newest.lineage["privacy"]["model"] == "distributed"
    found = json.loads(shell.run("datamap", "heart-private", "--format", "json"))
    assert {site["name"] for site in found["sites"]} == set(HOSPITALS)
    assert found["sites"][0]["columns"][0] == "age"
    assert any("with noise that the recipe adds" in flow["form"] for flow in found["flows"])
    with httpx.Client(base_url=client.profile.coordinator_url, verify=client.profile.ca_file or True) as browser:
        browser.post("/dashboard/login", data={"token": client.profile.token})
        text = " ".join(re.sub(r"<[^>]+>", " ", browser.get("/dashboard/privacy").text).split())
        assert re.search(r"ε 8 for each site at δ 0.0001, 2 noisy sums", text), text
        assert re.search(r"heart-private-figures ε 1 for each record at δ 0.0001, 1 noisy sum none", text), text
        assert "Claim for each site" in browser.get(f"/dashboard/versions/{newest.id}/datasheet").text


def test_noise_from_the_job_file_to_the_answers(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every hospital adds its part: a model is trained, and figures come with the noise that is in them."""
    platform.wait_sites_online(len(HOSPITALS), timeout_s=180)
    for field in fields(platform.profile):
        if value := getattr(platform.profile, field.name):
            monkeypatch.setenv(f"UNDERSONG_{field.name.upper()}", value)

    def said(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["undersong", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        assert int(end.value.code or 0) == code, printed
        return printed.out + printed.err

    noise = {"model": "distributed", "epsilon": 4.0, "delta": 1e-5}
    train: dict[str, Any] = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
    train |= {
        "name": "private model", "rounds": 2, "privacy": noise, "update": {"clip_norm": 1.0},
        "strategy": {"weighting": "equal"}, "evaluation": {"every": 0}, "deadlines": {"round_s": 120},
    }  # fmt: skip
    count: dict[str, Any] = {
        "kind": "statistics", "name": "private figures", "data": {"dataset": "heart"}, "privacy": noise,
        "deadlines": {"round_s": 120},
        "queries": [
            {"query": "mean", "columns": ["age"], "ranges": {"age": [20, 90]}},
            {"query": "histogram", "column": "age", "edges": [20, 40, 50, 60, 90]},
        ],
    }  # fmt: skip
    for name, spec in (("train.yaml", train), ("count.yaml", count)):
        (tmp_path / name).write_text(yaml.safe_dump(spec))
    planned = said("privacy", "plan", str(tmp_path / "train.yaml"), "--parameters", "14")
    assert "for each site over all 2 rounds" in planned
    assert "14 parameters" in planned
    assert "every site takes part in every round" in planned
    assert "█" in said("privacy", "curve", str(tmp_path / "train.yaml"))
    assert "privacy: epsilon" in said("job", "submit", "--dry-run", str(tmp_path / "train.yaml"))
    train["update"] = {}
    (tmp_path / "open.yaml").write_text(yaml.safe_dump(train))
    assert "/update/clip_norm" in said("job", "submit", "--dry-run", str(tmp_path / "open.yaml"), code=1)

    said("job", "submit", "--watch", str(tmp_path / "train.yaml"))
    page = said("job", "show", "private model")
    assert "each site over all 2 rounds" in page
    job = next(job for job in platform.client.jobs() if job.name == "private model")
    (spent,) = platform.client.spent(job.id).spent
    assert (spent.unit, spent.sums, job.privacy is not None) == ("site", 2, True)
    assert spent.epsilon == pytest.approx(job.privacy.epsilon if job.privacy is not None else 0, rel=0.01)
    assert f"epsilon {spent.epsilon:.4g} for each site" in page
    job = next(job for job in platform.client.jobs() if job.name == "private model")
    trained = [round_.result or {} for round_ in platform.client.rounds(job.id) if round_.kind == "train"]
    assert [(result["loss"], result["clipped"]) for result in trained] == [(None, None)] * 2

    said("job", "submit", "--watch", str(tmp_path / "count.yaml"))
    figures = next(job for job in platform.client.jobs() if job.name == "private figures")
    shown = said("stats", "show", figures.id)
    assert "±" in shown
    means, histogram = platform.client.results(figures.id).results
    assert isinstance(means, MomentResult)
    assert isinstance(histogram, HistogramResult)
    records = pd.read_csv(EXAMPLE / "heart_disease.csv")
    age, mean_noise = means.columns[0].mean, means.columns[0].mean_noise
    assert age is not None
    assert mean_noise is not None
    assert 0 < abs(age - records.age.mean()) < 6 * mean_noise
    assert histogram.noise is not None
    wanted, _ = np.histogram(records.age, bins=[20, 40, 50, 60, 90])
    assert np.abs(np.array(histogram.counts, float) - wanted).max() < 6 * histogram.noise


SAYS = {
    "policy explain": "Rounds without noise are refused",
    "site list": "north online",
    "job try": "mock answers",
    "job show heart-request": "for consent of north, since",
    "consent list": "heart-request",
    "consent show heart-request": "How old are the patients",
    "stats watch": "mean of age",
    "ledger show": "heart",
    "consent deny": "denied",
    "job show heart-request-2": "does not consent",
}
"""What the page promises that commands print, by how they begin; the longest beginning counts."""


@pytest.mark.exhaustive
def test_the_page_for_users_of_pysyft_runs(platform: Platform, shell: Shell, forks: Forks) -> None:
    """Request, review, approve, run, release and deny, as the page has it: a fifth hospital whose owner is asked."""
    lines = sh_commands((EXAMPLE.parents[1] / "docs" / "migrate" / "pysyft.md").read_text())
    with ExitStack() as agents:
        for line in lines:
            command, _, file = line.removeprefix("undersong ").partition(" >> ")
            words = shlex.split(command)
            beginning = max((known for known in SAYS if command.startswith(known)), key=len, default=None)
            if command.startswith("agent run"):
                agents.enter_context(running_agent(shell, forks, shell.folder / words[-1]))
                platform.wait_sites_online(len(HOSPITALS) + 1, timeout_s=180)
            elif beginning is not None:
                shell.until(SAYS[beginning], *words)
            elif command.startswith("consent"):
                shell.until("", *words)
            else:
                printed = shell.run(*words)
                if file:
                    with (shell.folder / file).open("a") as appended:
                        appended.write(printed)
    found = json.loads(shell.run("stats", "show", "heart-request", "--json"))
    mock = json.loads(shell.run("job", "try", "asked-statistics.yaml", "--data", "mock/datasets.yaml", "--json"))
    assert [fields_of(result) for result in found["results"]] == [fields_of(result) for result in mock["results"]]
    assert (mock["mock"], found.get("mock"), mock["sites"]) == (True, None, 5)


def fields_of(document: object) -> object:
    """The form of an answer, without its numbers."""
    if isinstance(document, dict):
        return {name: fields_of(value) for name, value in document.items()}
    return [fields_of(value) for value in document] if isinstance(document, list) else type(document).__name__


@contextmanager
def running_agent(shell: Shell, forks: Forks, config: Path) -> Iterator[None]:
    arguments, log = ["--config", str(config)], shell.folder / "agent.log"
    agent = forks.spawn("undersong.services.agent", arguments, env=shell.env, cwd=shell.folder, log=log)
    assert agent is not None
    try:
        yield
    finally:
        agent.terminate()
        agent.wait(60)
