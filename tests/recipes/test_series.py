"""The recipe for windows of series."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.effort import examples
from undersong.recipes.protocol import Dataset, RecipeError, TrainResult
from undersong.recipes.series import RECIPE, WindowInputs
from undersong.shared.learning.metrics import metrics_of
from undersong.shared.wire.profiles import Column

LAGS = 6
NAMES = [f"{name}@{step}" for step in range(1 - LAGS, 1) for name in ("level", "hour")] + ["hour@+2"]
COLUMNS = tuple(Column(name=name, type="number") for name in NAMES)


def wave(start: float = 400.0, rows: int = 300) -> Dataset:
    """A level that drifts far from 0 and swings with the hour, two steps ahead."""
    at = np.arange(rows + LAGS + 2, dtype=float)
    hour = at % 24
    level = start + 0.05 * at + 3 * np.sin(2 * np.pi * hour / 24)
    both = np.stack([level, hour], axis=1)
    past = [both[k : k + LAGS].ravel() for k in range(rows)]
    known = hour[LAGS + 1 : LAGS + 1 + rows, None]
    label = level[LAGS + 1 : LAGS + 1 + rows]
    features = np.concatenate([np.stack(past), known], axis=1)
    return Dataset("s", COLUMNS, features, label, np.arange(240), np.arange(240, rows), "level@+2")


def trained(params: dict[str, Any], rounds: int, data: Dataset | None = None) -> tuple[dict[str, Any], Dataset]:
    data = data or wave()
    sums = RECIPE.statistics(data, params, 0)
    tensors = RECIPE.initial(data.shape, params, {"statistics": sums.tolist()}, 1).tensors
    for number in range(rounds):
        tensors = step(tensors, data, params, number).tensors
    return tensors, data


def step(tensors: dict[str, Any], data: Dataset, params: dict[str, Any], number: int) -> TrainResult:
    return RECIPE.train(tensors, data, params, {}, number, lambda _: None)


@pytest.mark.parametrize("model", ["linear", "mlp", "gru", "tcn"])
def test_each_model_beats_the_last_value(model: str) -> None:
    params = {"model": model, "hidden": [12], "learning_rate": 0.05, "epochs": 5, "clip_gradient": 1.0}
    tensors, data = trained(params, examples(4))
    said = metrics_of("regression", RECIPE.evaluate(tensors, data, params, {}))
    last = data.features[data.test, NAMES.index("level@0")]
    assert said["mae"] < 0.5 * np.abs(data.label[data.test] - last).mean()
    rows = {name: data.features[data.test, at] for at, name in enumerate(NAMES)}
    predicted = RECIPE.predict(tensors, rows, params)
    assert np.abs(predicted - data.label[data.test]).mean() == pytest.approx(said["mae"])


def test_the_change_begins_where_the_last_value_is_and_the_value_at_the_mean() -> None:
    tensors, data = trained({}, 0)
    rows = {name: data.features[:5, at] for at, name in enumerate(NAMES)}
    change = float(tensors["label.mean"][0])
    assert RECIPE.predict(tensors, rows, {}) == pytest.approx(rows["level@0"] + change)
    tensors, _ = trained({"target": "value"}, 0)
    assert RECIPE.predict(tensors, rows, {"target": "value"}) == pytest.approx(
        np.full(5, data.label[data.train].mean())
    )


def test_statistics_of_sites_add_up_and_declared_ranges_ask_for_none() -> None:
    data = wave()
    halves = [replace(data, train=part) for part in np.array_split(data.train, 2)]
    total = sum(RECIPE.statistics(half, {}, 0) for half in halves)
    assert total == pytest.approx(RECIPE.statistics(data, {}, 0))
    ranges = {name: [0, 24] if name.startswith("hour") else [380, 420] for name in [*NAMES, "level@+2"]}
    model = RECIPE.initial(data.shape, {"ranges": ranges}, {}, 1)
    assert model.tensors["label.mean"][0] == 0, "a change goes either way"
    assert model.tensors["label.scale"][0] == pytest.approx(80 / np.sqrt(12))


def test_the_order_of_features_does_not_matter_to_what_goes_through_steps() -> None:
    shuffled = tuple(COLUMNS[at] for at in np.random.default_rng(0).permutation(len(COLUMNS)))
    found = WindowInputs.of(shuffled)
    told = [[shuffled[at // 2].name for at in each] for each in found.steps]
    assert [sorted(each) for each in told] == [[f"hour@{k}", f"level@{k}"] for k in range(1 - LAGS, 1)]
    assert [shuffled[at // 2].name for at in found.known] == ["hour@+2"]


@pytest.mark.parametrize(
    ("names", "label", "params", "said"),
    [
        (["age"], "level@+2", {"target": "value"}, "column age is of no window"),
        (["level@-1"], "level@+2", {}, "last known value of the label level@+2, column level@0"),
        (["level@0", "hour@-1"], "level@+2", {"model": "gru"}, "features lack level@-1"),
        (["hour@+2"], "level@+2", {"model": "tcn", "target": "value"}, "features lack a past step"),
        (["level@0"], "sick", {}, "column NAME@0"),
    ],
)
def test_columns_that_are_no_windows_are_refused_in_a_sentence(names, label, params, said) -> None:
    shape = replace(wave().shape, columns=tuple(Column(name=name, type="number") for name in names), label=label)
    with pytest.raises(RecipeError, match=re.escape(said)):
        RECIPE.initial(shape, params, {}, 1)


def test_a_missing_last_value_is_refused_when_the_change_is_predicted() -> None:
    tensors, data = trained({}, 0)
    rows = {name: data.features[:2, at] for at, name in enumerate(NAMES) if name != "level@0"}
    with pytest.raises(RecipeError, match="level@0 is missing in a row"):
        RECIPE.predict(tensors, rows, {})
