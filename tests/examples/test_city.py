"""The city's example in a small version: car parks are clients, and forecasts beat "as full as now"."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import yaml

from undersong.errors import UndersongError
from undersong.simulate import simulate

CITY = Path(__file__).parents[2] / "examples" / "city"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"city_{name}", CITY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def job(name: str, **changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((CITY / name).read_text()), **changes}


def test_each_car_park_is_a_client_and_the_common_model_beats_persistence(tmp_path: Path) -> None:
    short = job("job.yaml", rounds=1, evaluation={"every": 1})
    run = simulate(short, CITY / "datasets.yaml", partition="by:car_park", workers=0, out=tmp_path)
    assert run.rounds[0].cohort[:2] == ["BHMBCCMKT01", "BHMBCCPST01"]
    assert run.simulated["clients"] == 28
    assert run.metrics["examples"] == 6001
    assert run.metrics["mae"] < 0.03, "as full as now: 0.0334"


@pytest.mark.exhaustive
def test_personal_models_beat_the_common_one() -> None:
    found = module("compare").compare(rounds=5)
    assert found["as full as now"] == pytest.approx(0.0334, abs=5e-5)
    assert found["personal models"] < found["common model"] < found["as full as now"]


def test_only_the_personal_weight_differs_and_a_simulation_says_that_it_keeps_nothing(tmp_path: Path) -> None:
    plain, personal = job("job.yaml"), job("personalised.yaml")
    assert personal["recipe"]["params"].pop("personal_weight") > 0
    assert {**plain, "name": "", "model": {}} == {**personal, "name": "", "model": {}}
    with pytest.raises(UndersongError, match="keeps tensors at its site"):
        simulate(
            job("personalised.yaml", rounds=1),
            CITY / "datasets.yaml",
            partition="by:car_park",
            workers=0,
            out=tmp_path,
        )


def test_the_file_of_uci_is_prepared_as_the_one_here() -> None:
    records = pd.DataFrame(
        [
            ("B", 100, 120, "2016-10-08 08:14:00"),
            ("A", 577, 61, "2016-10-04 07:59:42"),
            ("A", 577, 99, "2016-10-04 08:01:00"),
            ("NIA North", 10, 1, "2016-10-04 08:00:00"),
        ],
        columns=["SystemCodeNumber", "Capacity", "Occupancy", "LastUpdated"],
    )
    made = module("prepare").prepared(records)
    assert made[["car_park", "at", "rate", "weekend"]].to_numpy().tolist() == [
        ["A", "2016-10-04 08:00", 0.10572, 0],
        ["B", "2016-10-08 08:00", 1.0, 1],
    ]
    assert list(made) == list(pd.read_csv(CITY / "parking.csv.gz", nrows=1))
    with pytest.raises(ValueError, match="no column capacity"):
        module("prepare").prepared(records.drop(columns="Capacity"))
