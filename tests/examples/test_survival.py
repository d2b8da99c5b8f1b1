"""The example of survival in a small version: cohorts made here, prepared as R's files, trained in simulation."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from undersong.simulate import simulate

SURVIVAL = Path(__file__).parents[2] / "examples" / "hospital" / "survival"


def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("survival_prepare", SURVIVAL / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


PREPARE = module()


def job(name: str, **changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((SURVIVAL / name).read_text()), **changes}


def as_r_writes_it(folder: Path, rows: int) -> None:
    """Write rotterdam.csv and gbsg.csv of made patients, whose hazard grows with positive nodes."""
    random = np.random.default_rng(0)
    for name in PREPARE.PUBLISHED:
        nodes = random.poisson(3, rows)
        time = np.ceil(random.exponential(3000 * np.exp(-nodes / 2)))
        cut = np.ceil(random.exponential(2000, rows))
        came, until = (time <= cut).astype(int), np.minimum(time, cut)
        table = pd.DataFrame({
            "age": random.integers(30, 80, rows), "meno": random.integers(0, 2, rows),
            "grade": random.integers(2, 4, rows), "nodes": nodes, "pgr": random.poisson(40, rows),
            "er": random.poisson(60, rows), "hormon": random.integers(0, 2, rows),
        })  # fmt: skip
        if name == "gbsg":
            own = {"size": random.integers(5, 90, rows), "rfstime": until, "status": came}
        else:
            size = random.choice(list(PREPARE.SIZES), rows)
            own = {"size": size, "rtime": until, "recur": came, "dtime": until, "death": 0}
        table.assign(**own).to_csv(folder / f"{name}.csv")


def test_deaths_after_the_follow_up_for_recurrence_are_cut_short_where_that_ended() -> None:
    rows = pd.DataFrame({
        "size": ["<=20", "20-50", ">50", ">50"], "rtime": [100, 200, 300, 400], "recur": [1, 0, 0, 0],
        "dtime": [900, 200, 700, 900], "death": [1, 1, 1, 0],
    })  # fmt: skip
    made = PREPARE.rotterdam(rows)
    assert made[["size", "time", "event"]].to_numpy().tolist() == [[0, 100, 1], [1, 200, 1], [2, 300, 0], [2, 900, 0]]
    own = PREPARE.gbsg(pd.DataFrame({"size": [20, 21, 50, 51], "rfstime": 1, "status": 0}))
    assert own["size"].tolist() == [0, 1, 1, 2]


def test_other_files_are_refused(tmp_path: Path) -> None:
    as_r_writes_it(tmp_path, 20)
    with pytest.raises(ValueError, match="2982 with 1670 are published"):
        PREPARE.check_published(PREPARE.cohorts(tmp_path))
    (tmp_path / "gbsg.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column size"):
        PREPARE.cohorts(tmp_path)
    with pytest.raises(ValueError, match="no column site"):
        PREPARE.cohorts(tmp_path / "gbsg.csv")
    with pytest.raises(OSError, match="rotterdam"):
        PREPARE.cohorts(tmp_path / "nowhere")


def test_both_models_learn_from_four_sites(tmp_path: Path) -> None:
    as_r_writes_it(tmp_path, 240)
    rows = PREPARE.cohorts(tmp_path)
    written = pd.read_csv(PREPARE.write(rows, tmp_path))
    assert written.site.value_counts().to_dict() == {"gbsg": 240, **dict.fromkeys(PREPARE.SITES[:3], 80)}
    assert written.nodes.max() == pytest.approx(np.log1p(rows.nodes.max()), abs=1e-5)
    (tmp_path / "datasets.yaml").write_text((SURVIVAL / "datasets.yaml").read_text())
    for name in ("cox.yaml", "deepsurv.yaml"):
        short = job(name, rounds=6, evaluation={"every": 6})
        if name == "deepsurv.yaml":
            short["recipe"]["params"]["batch_size"] = 32  # so few patients are one step otherwise
        run = simulate(short, tmp_path / "datasets.yaml", partition="by:site", workers=0, out=tmp_path / name)
        assert run.simulated["clients"] == 4
        assert run.metrics["concordance"] > 0.62, name
        assert 0 < run.metrics["events"] < run.metrics["examples"]
