"""A real agent that is killed around its ledger: each round is charged once, before it trains, and nothing is lost."""

import json
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.effort import also
from tests.services.agent.ledgers import DELTA, ENCODING, gaussian, terms
from undersong.services.agent.ledger.entries import FIELDS, Chain
from undersong.shared.faults import REACHED, VARIABLE
from undersong.shared.privacy.accounting import epsilon_of

pytestmark = pytest.mark.process

BUDGET = {"unit": "site", "epsilon": 8, "delta": DELTA, "period_days": 365}
POINTS = (
    "agent.charge.held",
    *also("agent.update.noted", "agent.charge.noted", "agent.training", "agent.body.written", "agent.update.kept"),
    *also("agent.update.acknowledged", "agent.task.completed"),
)


@pytest.fixture
def faults(agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an order for the agent is written."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "faults"))
    folder = tmp_path / "faults" / f"agent.{agent.folder.name}"
    folder.mkdir(parents=True)
    return folder


def offer(platform: Any, agent: Any, *, manifest: Any = None, **changes: Any) -> Any:
    """A round with noise of job 1."""
    made = manifest or platform.manifest(
        agent.recipe,
        model_ref=platform.add_model([1.0, 2.0, 3.0, 4.0]),
        encoding=ENCODING,
        privacy=terms(),
        **{"params": {"add": 0.5}, **changes},
    )
    platform.end_polls()
    platform.offer(made)
    return made


def budgeted(agent: Any, epsilon: float = 8) -> None:
    agent.write("policy.yaml", {**agent.policy, "privacy": {"budgets": {"bench": {**BUDGET, "epsilon": epsilon}}}})


def chain(agent: Any) -> Chain:
    with closing(sqlite3.connect(agent.folder / "state" / "agent.sqlite")) as db:
        rows = db.execute(f"SELECT {', '.join(FIELDS)}, hash FROM charges ORDER BY seq").fetchall()
    return Chain().read((row[:-1], row[-1]) for row in rows)


def states(agent: Any) -> list[str]:
    found = chain(agent)
    assert found.fault is None
    return [str(charge.state) for charge in found.charges.values()]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_a_round_is_charged_once(platform, agent, faults: Path, point: str) -> None:
    budgeted(agent)
    manifest = offer(platform, agent)
    (faults / point).write_text("kill")
    agent.start().process.wait(30)
    assert (faults / f"{point}{REACHED}").exists()
    assert states(agent) == ["held"]
    offer(platform, agent, manifest=manifest)
    agent.start()
    platform.wait(lambda: any(end.startswith("completions:") for end, _ in platform.ended))
    assert states(agent) == ["held"]
    mark = json.loads((agent.folder / "high-water.ledger").read_text())
    assert (mark["seq"], mark["hash"]) == (1, chain(agent).head.hash)


@pytest.mark.exhaustive
def test_killed_while_a_charge_is_made_void(platform, agent, faults: Path) -> None:
    """The recipe failed, so nothing left; the end is written once, and the same task is charged anew."""
    (faults / "agent.charge.settled").write_text("kill")
    offer(platform, agent, params={"how": "raise"})
    agent.start().process.wait(30)
    assert states(agent) == ["void"]
    manifest = offer(platform, agent, number=2)
    agent.start()
    platform.wait(lambda: any(end.startswith("completions:") for end, _ in platform.ended))
    assert states(agent) == ["void", "held"]
    assert manifest.digest() == chain(agent).charges[3].held.manifest_digest


def test_the_round_beyond_the_budget_does_not_train_and_the_platform_hears_a_code(platform, agent) -> None:
    two = epsilon_of([gaussian()] * 2, DELTA)
    budgeted(agent, two)
    agent.start()
    for number in (1, 2, 3):
        offer(platform, agent, job_id="job_1", number=number)
        platform.wait(lambda: len(platform.ended) == number)  # noqa: B023  (waited for here)
    assert [end.partition(":")[0] for end, _ in platform.ended] == ["completions", "completions", "failures"]
    told = platform.ended[-1][1]
    assert (told["code"], told["message"]) == ("budget-exceeded", "")
    assert "budget" not in json.dumps(platform.profiles)
    assert f"the budget is epsilon {two:g}" in agent.events("task.failed")[0]["detail"]
    assert states(agent) == ["held", "held"]
    status = json.loads(subprocess.run(agent.command("status"), capture_output=True, check=True).stdout)
    (line,) = status["ledger"]["budgets"]
    assert (line["dataset"], line["left"]) == ("bench", pytest.approx(0, abs=1e-9))


def test_a_snapshot_of_the_whole_machine_is_found_out_by_the_log(platform, agent) -> None:
    """State and marks are an older copy and agree, but the log has a round with this site's update."""
    agent.start()
    platform.wait(lambda: platform.profiles)
    agent.kill(signal.SIGTERM)
    copy = shutil.copytree(agent.folder, agent.folder.with_name("snapshot"), ignore=shutil.ignore_patterns("work"))
    platform.end_polls()
    model = platform.add_model([1.0, 2.0, 3.0, 4.0])
    party = platform.begin_pairwise(agent.recipe, ["site_test"], peers=3, model_ref=model, params={"add": 0.5})
    agent.start()
    platform.wait(lambda: party.logged is not None, 60)
    platform.wait(lambda: states(agent) == ["final"], 60)
    agent.kill(signal.SIGTERM)
    shutil.rmtree(agent.folder)
    shutil.copytree(copy, agent.folder)
    agent.start()
    platform.wait(lambda: agent.events("ledger.damaged"))
    assert party.manifest.round_id in agent.events("ledger.damaged")[0]["reason"]
    offer(platform, agent)
    platform.wait(lambda: any(told.get("code") == "ledger-damaged" for _, told in platform.ended))
