"""`undersong data mock --epsilon`: twins by noisy counts, each charged to the ledger before a row is counted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import yaml

from tests.services.agent.ledgers import Site
from undersong.cli import main
from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.services.agent.ledger.entries import State
from undersong.services.agent.settings import load

pytestmark = pytest.mark.process
ROWS, DELTA = 1000, 1e-5
BUDGET = {"unit": "record", "epsilon": 2, "delta": DELTA}
POLICY: dict[str, Any] = {
    "federations": ["own"],
    "recipes": [],
    "datasets": {"ward": {"columns": "*"}},
    "engines": [],
    "privacy": {"require": True, "budgets": {"ward": BUDGET}},
}
ENTRY: dict[str, Any] = {
    "name": "ward",
    "kind": "csv",
    "path": "rows.csv",
    "label": "sick",
    "ranges": {"age": [0, 80], "grade": [1, 4]},
    "columns": [
        {"name": "age", "type": "number"},
        {"name": "grade", "type": "number"},
        {"name": "weight", "type": "number"},
        {"name": "sex", "type": "category", "categories": ["f", "m"]},
        {"name": "sick", "type": "number"},
    ],
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A stopped site: four of five are men, ages are 60 to 80, one in four has no grade, one in ten is sick."""
    urls = {f"{name}_url": "http://127.0.0.1:9" for name in ("coordinator", "aggregator", "keys", "registry")}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(urls))
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [ENTRY]}))
    rows = [
        f"{60 + n % 20},{'' if n % 4 == 0 else 2},{n}.5,{'f' if n % 5 == 0 else 'm'},{int(n % 10 == 0)}"
        for n in range(ROWS)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["age,grade,weight,sex,sick", *rows]) + "\n")
    made = Site(tmp_path)
    made.stop()
    return made


@pytest.fixture
def undersong(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run a command in the site's folder: exit code, output, errors."""
    monkeypatch.chdir(site.folder)
    logging = structlog.get_config()

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["undersong", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
    structlog.configure(**logging)


def lines(site: Site) -> list[State]:
    site.start()
    try:
        return [line.state for line, _ in site.ledger.lines()]
    finally:
        site.stop()


def account(undersong: Any) -> dict[str, Any]:
    code, out, _ = undersong("ledger", "show", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["fault"] is None
    (only,) = found["accounts"]
    return dict(only)


def test_a_twin_has_the_shares_of_the_rows_and_is_charged_once(undersong: Any, site: Site) -> None:
    code, out, err = undersong("data", "mock", "ward", "--epsilon", "1.5", "--rows", "2000", "--range", "grade=1,3")
    assert code == 0, err
    assert "none is real" in out
    assert "epsilon 1.5 at delta 1e-05 for each record of ward" in err
    assert "no range is declared: weight" in err
    data = load_dataset(read_datasets(site.folder / "mock-ward" / "datasets.yaml")["ward"])
    age, grade, _, sex = data.features.T
    assert 0.7 < np.nanmean(sex) < 0.9
    assert (age >= 60).mean() > 0.75
    assert 0.15 < np.isnan(grade).mean() < 0.35
    assert (grade[np.isfinite(grade)] == 2).mean() > 0.8
    assert set(np.unique(data.label)) == {0.0, 1.0}
    assert 0.03 < data.label.mean() < 0.2
    spent = account(undersong)
    assert (spent["final"], spent["held"], spent["unit"]) == (1, 0, "record")
    assert spent["epsilon"] == pytest.approx(1.5, rel=1e-3)
    code, _, err = undersong("data", "mock", "ward", "--epsilon", "1.5", "--out", "second")
    assert code == 1
    assert "the budget is epsilon 2" in err
    assert not (site.folder / "second").exists()
    assert account(undersong) == spent
    assert undersong("ledger", "verify")[0] == 0


@pytest.mark.parametrize(
    ("words", "policy", "said"),
    [
        (["--epsilon", "0"], {}, "epsilon must be more than 0"),
        (["--epsilon", "nan"], {}, "epsilon must be more than 0"),
        (["--epsilon", "1001"], {}, "at most 1000"),
        (["--epsilon", "1", "--delta", "1e-30"], {}, "delta from 1e-12"),
        (["--epsilon", "1"], {"budgets": {"ward": BUDGET | {"delta": 1e-30}}}, "greater than or equal to 0.0000"),
        (["--epsilon", "1", "--delta", "0.1"], {}, "not less than 1 / 1000 rows"),
        (["--epsilon", "1", "--data", "datasets.yaml"], {}, "neither --data nor --from"),
        (["--epsilon", "1", "--out", "."], {}, "is not empty"),
        (["--epsilon", "1"], {"mechanisms": ["distributed"]}, "noise of model local is not allowed"),
        (["--epsilon", "1"], {"budgets": {"ward": BUDGET | {"unit": "site"}}}, "no budget for unit record"),
        (["--epsilon", "1"], {"budget": {}}, "budget"),
        (["--epsilon", "1e-9"], {}, "epsilon"),
        (["--epsilon", "1", "--range", "grad=1,4"], {}, "did you mean 'grade'"),
    ],
)
def test_what_cannot_be_charged_is_not_counted(
    undersong: Any, site: Site, words: list[str], policy: dict[str, Any], said: str
) -> None:
    changed = POLICY | {"privacy": POLICY["privacy"] | policy}
    (site.folder / "policy.yaml").write_text(yaml.safe_dump(changed))
    code, _, err = undersong("data", "mock", "ward", *words)
    assert code == 1, err
    assert said in err
    assert not (site.folder / "mock-ward").exists()
    assert not lines(site)


def test_a_second_name_of_the_same_file_has_no_budget_of_its_own(undersong: Any, site: Site) -> None:
    """What the agent counts together, the owner's own commands count together as well."""
    (site.folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [ENTRY, ENTRY | {"name": "again"}]}))
    assert undersong("data", "mock", "ward", "--epsilon", "1.5")[0] == 0
    code, _, err = undersong("data", "mock", "again", "--epsilon", "1.5")
    assert code == 1
    assert "data sets again, ward, which read the same files" in err
    assert not (site.folder / "mock-again").exists()
    assert len(lines(site)) == 2, "one charge, held and final"


def test_rows_that_bound_nothing_and_a_running_agent_are_refused(undersong: Any, site: Site) -> None:
    bare = ENTRY | {"ranges": {}, "columns": [{"name": "weight", "type": "number"}], "label": None}
    (site.folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [bare]}))
    code, _, err = undersong("data", "mock", "ward", "--epsilon", "1")
    assert (code, "nothing bounds what one row adds" in err) == (1, True)
    from undersong.services.agent.loop import alone

    with alone(load(site.folder / "agent.yaml")):
        code, _, err = undersong("data", "mock", "ward", "--epsilon", "1")
    assert (code, "stop the agent first" in err) == (1, True)


@pytest.mark.parametrize("place", ["agent.charge.held", "agent.charge.noted", "agent.charge.settled"])
def test_a_kill_while_it_is_charged_leaves_no_twin_and_no_doubt(
    undersong: Any, site: Site, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A charge that is held counts until the agent finds that nothing left; a final one counts. None is lost."""

    class Killed(BaseException):
        pass

    def die(name: str) -> None:
        if name == place:
            raise Killed

    monkeypatch.setattr("undersong.services.agent.ledger.book.point", die)
    monkeypatch.setattr("sys.argv", ["undersong", "data", "mock", "ward", "--epsilon", "0.5"])
    with pytest.raises(Killed):
        main()
    monkeypatch.undo()
    monkeypatch.chdir(site.folder)
    assert not (site.folder / "mock-ward").exists()
    assert lines(site) == [State.HELD, *([State.FINAL] if place == "agent.charge.settled" else [])]
    code, _, err = undersong("data", "mock", "ward", "--epsilon", "0.5")
    assert code == 0, err
    assert account(undersong)["epsilon"] > 0.6
