"""The pages for users of other platforms tell the truth: jobs run by their commands, each row of a table has tests."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.pages import sh_commands
from tests.undersong.simulate.slopes import SLOPE, job, rows, table
from undersong.cli import app
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.protocol import Dataset
from undersong.services.coordinator.domain.cohort import derive_seed
from undersong.shared.learning.tensors import load
from undersong.shared.wire.manifest import RoundManifest
from undersong.simulate import simulate

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "migrate" / "tff.md").read_text()


def test_the_jobs_of_the_page_run(tmp_path: Path, monkeypatch) -> None:
    folder = shutil.copytree(ROOT / "examples" / "hospital", tmp_path / "hospital")
    monkeypatch.chdir(folder)
    for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        (folder / f"{text.splitlines()[0].removeprefix('name: ')}.yaml").write_text(text)
    for line in sh_commands(PAGE):
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], "--workers", "0"])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
    average, noisy = (json.loads((folder / name / "run.json").read_text()) for name in ("average", "noisy"))
    assert [round_["number"] for round_ in average["rounds"] if round_["kind"] == "train"] == [1, 2, 3, 4]
    assert "epsilon" in json.dumps(noisy)


@pytest.mark.parametrize("page", ["tff", "flower", "pysyft"])
def test_each_row_of_what_corresponds_names_tests_that_there_are(page: str) -> None:
    known = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        known |= set(re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.MULTILINE))
    text = (ROOT / "docs" / "migrate" / f"{page}.md").read_text("utf-8").partition("## What corresponds")[2]
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(found) > 9
    for cells in found[1:] if set(found[0][0]) <= {"-"} else found:
        assert len(cells) == 3, cells
        names = re.findall(r"`(\w+)`", cells[2])
        assert names, cells
        assert set(names) <= known, cells


@pytest.mark.parametrize("weighting", ["examples", "equal"])
def test_a_round_is_the_mean_that_is_written_by_hand(tmp_path: Path, weighting: str) -> None:
    """FedAvg as TFF's `build_weighted_fed_avg` and `build_unweighted_fed_avg` do, over 20 to 90 rows."""
    sites, recipe = {}, load_recipe("slope", [SLOPE])
    for name, count in (("east", 30), ("north", 40), ("south", 90), ("west", 20)):
        x, y = rows(count)
        sites[name] = Dataset("made", table().columns, x[:count], y[:count], np.arange(count), np.arange(0), "ill")
    asked = job(rounds=1, strategy={"name": "fedavg", "weighting": weighting}, evaluation={"every": 0})
    made = simulate(asked, sites, out=tmp_path, recipes=[SLOPE], workers=0, engine="plain")
    context = {"statistics": sum(recipe.statistics(data, {}, 0) for data in sites.values()).tolist()}
    start = recipe.initial(sites["east"].shape, {}, context, 0).tensors
    seeds = RoundManifest.model_construct(kind="train", seed=derive_seed(0, "train/1"))
    changes, weights = [], []
    for name, data in sites.items():
        after = recipe.train(start, data, {}, context, seeds.seed_of(name), lambda _: None)
        changes.append(after.tensors["weights"] - start["weights"])
        weights.append(1 if weighting == "equal" else len(data.train))
    wanted = start["weights"] + np.average(changes, axis=0, weights=weights)
    assert load(made.model.read_bytes()).tensors["weights"] == pytest.approx(wanted, abs=1e-6)
