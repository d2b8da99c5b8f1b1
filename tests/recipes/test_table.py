"""Numbers as indicators of intervals that hold about as many values each, over all sites."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from undersong.recipes import table
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.recipes.reference import score, train_in_one_place
from undersong.recipes.tabular import RECIPE
from undersong.shared.wire.profiles import Column

COLUMNS = (
    Column(name="age", type="number"),
    Column(name="sex", type="category", categories=("f", "m")),
    Column(name="dose", type="number"),
)
BINNED = {"bins": 8, "learning_rate": 0.5, "epochs": 20}


def bent(rows: int = 600, seed: int = 0) -> Dataset:
    """A label that is 1 in the middle of a skewed column, which no line tells from both ends."""
    random = np.random.default_rng(seed)
    age = np.exp(random.normal(3, 1, rows))
    label = ((age > np.exp(2.3)) & (age < np.exp(3.7))).astype(float)
    age[::50] = np.nan
    features = np.stack([age, random.integers(0, 2, rows).astype(float), random.normal(-40, 5, rows)], axis=1)
    return Dataset("s", COLUMNS, features, label, np.arange(rows - 150), np.arange(rows - 150, rows), "sick")


def test_a_linear_model_of_intervals_learns_what_no_line_does() -> None:
    data = bent()
    said = {
        bins: score(RECIPE, train_in_one_place(RECIPE, data, {**BINNED, "bins": bins}, rounds=1), data, {"bins": bins})
        for bins in (0, 8)
    }
    assert said[0]["auc"] < 0.75
    assert said[8]["auc"] > 0.95


def test_sites_lead_to_the_intervals_of_all_rows_and_each_holds_about_as_many() -> None:
    data = bent(2000)
    sites = [replace(data, train=part) for part in np.array_split(data.train, 3)]
    sums = np.sum([RECIPE.statistics(site, BINNED, 0) for site in sites], axis=0)
    assert sums == pytest.approx(RECIPE.statistics(data, BINNED, 0))
    tensors = RECIPE.initial(data.shape, BINNED, {"statistics": sums.tolist()}, 0).tensors
    borders = table.model_borders(tensors)
    assert borders is not None
    assert [each.size for each in borders] == [7, 7]
    made = table.inputs(tensors, COLUMNS, data.features[data.train])
    names = table.input_names(COLUMNS, borders)
    assert made.shape[1] == len(names) == tensors["input.mean"].size
    parts = made[:, [at for at, name in enumerate(names) if name.startswith("age[")]]
    missing = np.isnan(data.features[data.train, 0])
    assert (parts.sum(axis=1) == ~missing).all(), "a missing value is in no interval"
    assert parts.sum(axis=0).min() > 0.04 * len(parts)


def test_a_pulled_model_predicts_from_raw_columns() -> None:
    data = bent()
    tensors = train_in_one_place(RECIPE, data, BINNED, rounds=1)
    rows: dict[str, Any] = {"age": [20.0, 1.0, None, 1e12], "sex": ["f", "m", None, "f"], "dose": [-40.0] * 4}
    said = RECIPE.predict(tensors, rows, BINNED)
    assert said[0] > 0.7 > 0.3 > said[1]
    assert np.isfinite(said).all()


def test_declared_ranges_are_divided_equally_and_ask_for_no_counts() -> None:
    ranges = {"age": [0, 80], "dose": [-60, -20]}
    model = RECIPE.initial(bent().shape, {"bins": 4, "ranges": ranges}, {}, 0)
    assert [each.tolist() for each in table.model_borders(model.tensors) or []] == [[20, 40, 60], [-50, -40, -30]]
    assert {spec.name: str(spec.role) for spec in model.schema.tensors}["input.borders"] == "fixed"


def test_regression_keeps_its_label_beside_the_counts() -> None:
    data = replace(bent(), label=1000 + 250 * np.nan_to_num(bent().features[:, 0] > 20))
    params = {**BINNED, "task": "regression", "learning_rate": 0.1}
    assert score(RECIPE, train_in_one_place(RECIPE, data, params, rounds=2), data, params)["r2"] > 0.6


@pytest.mark.parametrize(
    "packed",
    [
        [2.0, 1.0],
        [-1.0],
        [0.0],
        [1.0, 5.0, 0.0, 0.0],
        [np.nan, 0.5],
        [np.inf, 0.5],
        [1.0, np.nan, 1.0, 0.5],
        [1.5, 0.5, 1.0, 0.5],
        [2.0, 0.5, 0.2, 1.0, 0.5],
    ],
)
def test_borders_that_are_no_model_s_are_refused(packed: list[float]) -> None:
    tensors = RECIPE.initial(bent().shape, {"bins": 2, "ranges": {"age": [0, 1], "dose": [0, 1]}}, {}, 0).tensors
    with pytest.raises(RecipeError, match="borders of intervals"):
        table.model_borders({**tensors, "input.borders": np.array(packed)})


def test_missing_counts_and_too_many_intervals_are_refused_in_a_sentence() -> None:
    with pytest.raises(RecipeError, match="counts over all sites"):
        RECIPE.initial(bent().shape, {"bins": 4}, {}, 0)
    sums = RECIPE.statistics(bent(), {}, 0)
    with pytest.raises(RecipeError, match="counts over all sites"):
        RECIPE.initial(bent().shape, {"bins": 4}, {"statistics": sums.tolist()}, 0)
