"""How full a car park is in half an hour, for 28 car parks of Birmingham; needs the folder beside the project.

A row has the last six occupancy rates, the rate at that time a day and a week before, and the time of day; the label is
the change from the last rate. Training rows are those to the end of November 2016, test rows those of December.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from tests.benchmarks.learning_sets import SHARED, LearningSet
from undersong.recipes.protocol import Column, Dataset

FILE: Final = SHARED / "parking.csv.gz"
SHORT: Final = ("BHMBRTARC01", "NIA North")
LAGS: Final = 6
EARLIER: Final = ("day", "week")


def car_parks(_: Path) -> dict[str, Dataset]:
    """Each car park's rows."""
    records = pd.read_csv(FILE, parse_dates=["time"])
    return {str(name): _rows(part) for name, part in records.groupby("car_park") if name not in SHORT}


def _rows(part: pd.DataFrame) -> Dataset:
    part = part.assign(at=part.time.dt.round("30min")).drop_duplicates("at").set_index("at").sort_index()
    rate = (part.occupancy / part.capacity).clip(0, 1)
    grid = rate.reindex(pd.date_range(rate.index[0], rate.index[-1], freq="30min"))
    made = pd.DataFrame({f"rate@-{lag}": grid.shift(lag + 1) for lag in range(LAGS)})
    for name, steps in zip(EARLIER, (48, 336), strict=True):
        made[f"{name} before"] = grid.shift(steps)
        made[f"change a {name} before"] = grid.shift(steps) - grid.shift(steps + 1)
    hours = made.index.hour + made.index.minute / 60
    for turn in (1, 2):
        made[f"sine {turn}"], made[f"cosine {turn}"] = (
            np.sin(turn * hours / 24 * 6.2832),
            np.cos(turn * hours / 24 * 6.2832),
        )
    made["weekend"] = (made.index.dayofweek >= 5).astype(float)
    label = (grid - made["rate@-0"]).to_numpy()
    kept = np.isfinite(label)
    columns = tuple(Column(name=name, type="number") for name in made.columns)
    december = np.asarray(made.index >= pd.Timestamp("2016-12-01"))[kept]
    features = made.to_numpy(float)[kept]
    return Dataset(
        "parking", columns, features, label[kept], np.flatnonzero(~december), np.flatnonzero(december), "change"
    )


def parking() -> LearningSet:
    """FedAvg of a linear model over all car parks, one pass a round."""
    params = {"model": "logistic", "task": "regression", "epochs": 1, "batch_size": 32, "learning_rate": 0.02}
    job: dict[str, Any] = {
        "name": "parking",
        "model": {"name": "parking"},
        "recipe": {"name": "tabular", "params": params},
        "data": {"dataset": "parking", "label": "change"},
        "rounds": 100,
        "update": {"clip_norm": 20},
        "evaluation": {"every": 10},
    }
    return LearningSet(
        "parking",
        job,
        car_parks,
        "mae",
        {20: 0.0180, 100: 0.0170},
        sense="at most",
        pooled_rounds=10,
        alone_rounds=20,
        alone=6,
        comparable=0.001,
        note="; 28 car parks",
    )
