"""The bank's examples in a small version: their jobs run in simulation, and learn."""

import csv
import gzip
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from undersong.recipes.datasets import read_datasets
from undersong.simulate import simulate

BANK = Path(__file__).parents[2] / "examples" / "bank"


def job(name: str, **changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((BANK / name).read_text()), **changes}


def test_credits_of_five_branches_are_learned(tmp_path: Path) -> None:
    short = job("german.yaml", rounds=6, evaluation={"every": 6})
    run = simulate(short, BANK / "german-data.yaml", clients=5, workers=0, out=tmp_path)
    assert run.metrics["auc"] > 0.75
    assert 0 < run.metrics["pr_auc"] < 1


@pytest.mark.exhaustive
def test_census_records_by_occupation_are_learned(tmp_path: Path) -> None:
    short = job("adult.yaml", rounds=3, evaluation={"every": 3})
    run = simulate(short, BANK / "adult-data.yaml", partition="by:occupation", workers=0, out=tmp_path)
    assert run.simulated["clients"] == 15
    assert run.metrics["examples"] == 16_281
    assert run.metrics["auc"] > 0.87


def test_loans_are_taken_as_r_writes_them_and_nothing_else(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("bank_prepare", BANK / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = [name for name in module.columns() if name != "bad"]
    source = tmp_path / "loans.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([[*names, "Class"], [*("1" for _ in names), "bad"], [*("2" for _ in names), "good"]])
    assert module.prepare(source, tmp_path) == 2
    with gzip.open(tmp_path / "lending_club.csv.gz", "rt") as file:
        assert [row["bad"] for row in csv.DictReader(file)] == ["1", "0"]
    source.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column funded_amnt"):
        module.prepare(source, tmp_path)
    assert "lending" in read_datasets(BANK / "lending-data.yaml")
