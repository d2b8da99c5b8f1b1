"""The city's example in a small version: car parks are clients, and forecasts beat "as full as now"."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.recipes.datasets import load_dataset, movable_document, read_datasets
from undersong.shared.learning import safetensors
from undersong.simulate import simulate
from undersong.simulate.kept import KEPT, KeptTensors

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


def test_only_the_personal_weight_differs_and_each_car_park_keeps_a_model(tmp_path: Path) -> None:
    plain, personal = job("job.yaml"), job("personalised.yaml")
    assert personal["recipe"]["params"].pop("personal_weight") > 0
    assert {**plain, "name": "", "model": {}} == {**personal, "name": "", "model": {}}
    short = job("personalised.yaml", rounds=1, evaluation={"every": 1})
    run = simulate(short, CITY / "datasets.yaml", partition="by:car_park", workers=0, out=tmp_path)
    assert run.metrics["examples"] == 6001
    assert run.metrics["mae"] < 0.027, "the common model after one round: 0.0277"
    assert KeptTensors(tmp_path / KEPT).clients(10) == list(range(28))


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


PARKS = ("BHMBCCMKT01", "BHMBCCPST01", "BHMBCCSNH01")


@pytest.mark.exhaustive
@pytest.mark.process
@pytest.mark.timeout(600)
def test_three_agents_keep_personal_models_of_their_car_parks(tmp_path: Path, forks: Forks) -> None:
    """As the README submits it: the job unchanged, each agent with one car park by a filter."""
    policy = {"federations": ["own"], "recipes": ["series"], "datasets": {"parking": {"columns": "*"}}}
    with Platform(tmp_path / "home", forks=forks) as platform:
        for park in PARKS:
            declared = movable_document(CITY / "datasets.yaml")
            declared["datasets"][0]["filter"] = {"car_park": park}
            platform.add_site(park.lower(), datasets=declared, policy={**policy, "engines": ["pairwise"]})
        platform.wait_sites_online(len(PARKS), timeout_s=180)
        client = platform.client
        short = job("personalised.yaml", rounds=2, evaluation={"every": 2})
        done = client.wait(client.submit_job({**short, "federation_id": platform.federation().id}).id, timeout_s=300)
        assert done.state == "succeeded", done.reason
        (found,) = [round_.metrics for round_ in client.rounds(done.id) if round_.metrics]
    entry = read_datasets(CITY / "datasets.yaml")["parking"]
    features = short["data"]["features"]
    sites = {park: load_dataset(entry.model_copy(update={"filter": {"car_park": park}}), features) for park in PARKS}
    simulated = simulate(short, sites, workers=0, out=tmp_path / "run").metrics
    assert simulated["examples"] == found["examples"]
    assert simulated["mae"] == pytest.approx(found["mae"], abs=2e-3)
    kept = [
        safetensors.read(path.read_bytes()) for path in (tmp_path / "home" / "sites").rglob("local/*/2.safetensors")
    ]
    weights = np.stack([tensors["model.weight"] for tensors in kept])
    assert weights.shape == (len(PARKS), 1, len(features))
    assert np.ptp(weights, axis=0).max() > 1e-3, "each car park has a model of its own"


@pytest.mark.parametrize("packed", [True, False])
def test_the_week_of_speeds_is_declared_as_a_series_of_each_sensor(packed: bool, tmp_path: Path) -> None:
    """Sensors of a wave that others follow; the job runs over them as clients."""
    at = np.arange(2016)[:, None] / 288 * 2 * np.pi
    speed = (55 + 8 * np.sin(at + np.arange(207) / 40) + np.random.default_rng(0).normal(0, 1, (2016, 207))).round(4)
    source = tmp_path / "speed"
    if packed:
        np.savez(tmp_path / "speed.npz", speed=speed.astype("float32"), sensor=np.arange(7000, 7207))
        source = tmp_path / "speed.npz"
    else:
        pd.DataFrame(speed, columns=np.arange(7000, 7207)).to_csv(source, index=False)
    made = module("open_data").traffic(source)
    assert list(made) == ["sensor", "at", "speed"]
    assert made.iloc[2016].tolist() == ["7001", "2012-03-01 00:00", pytest.approx(speed[0, 1], abs=1e-3)]
    few = made[made.sensor.isin([str(name) for name in range(7000, 7008)])]
    few.to_csv(tmp_path / "traffic.csv.gz", index=False)
    (tmp_path / "traffic-data.yaml").write_text((CITY / "traffic-data.yaml").read_text())
    if not packed:
        short = job("traffic.yaml", rounds=2, evaluation={"every": 2})
        run = simulate(
            short, tmp_path / "traffic-data.yaml", partition="by:sensor", sample=0.5, workers=0, out=tmp_path / "run"
        )
        assert run.simulated["clients"] == 8
        assert run.metrics["examples"] == 8 * (2016 - 1613)
        assert run.metrics["mae"] < 1.3, "the noise's own is 0.8, and that of the last value 1.3"


def test_demand_of_a_year_is_divided_by_the_month_of_what_is_predicted(tmp_path: Path) -> None:
    half_hours = np.arange(17_520)
    demand = 4 + np.sin(half_hours / 24 * np.pi) / 2
    rows = pd.DataFrame({"Demand": demand, "WorkDay": 1, "Temperature": 20.0})
    rows.to_csv(tmp_path / "elecdemand.csv", index=False)
    made = module("open_data")
    made.write("electricity", tmp_path / "elecdemand.csv", tmp_path)
    (tmp_path / "electricity-data.yaml").write_text((CITY / "electricity-data.yaml").read_text())
    entry = read_datasets(tmp_path / "electricity-data.yaml")["electricity"]
    for name in ("electricity.yaml", "electricity-linear.yaml"):
        rows_of_job = load_dataset(entry, [*job(name)["data"]["features"], "month@+48"])
        assert rows_of_job.test.size == 61 * 48
        months = rows_of_job.features[rows_of_job.train, -1]
        assert (np.unique(months) == np.arange(1, 11)).all()
        assert rows_of_job.features[0, 3] == demand[288]
    short = job("electricity-linear.yaml", rounds=1)
    run = simulate(short, tmp_path / "electricity-data.yaml", partition="by:month@+48", workers=0, out=tmp_path / "run")
    assert run.simulated["clients"] == 10
    assert run.metrics["mae"] < 0.05, "each day is as the one before"


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    made = module("open_data")
    (tmp_path / "x.csv").write_text("Demand,WorkDay\n1,2\n")
    np.savez(tmp_path / "x.npz", speed=np.zeros((3, 2)))
    for name, file, message in (
        ("electricity", "x.csv", "no column temp_c"),
        ("traffic", "x.csv", "1 rows of 2 columns"),
        ("traffic", "x.npz", "no array sensor"),
    ):
        with pytest.raises(ValueError, match=message):
            made.write(name, tmp_path / file, tmp_path)
    (tmp_path / "x.csv").write_text("Demand,WorkDay,Temperature\n1,2,3\n")
    with pytest.raises(ValueError, match="half hours of 2014 are 17520"):
        made.write("electricity", tmp_path / "x.csv", tmp_path)
