"""Predictions of a loaded model: of frames and records, with a place for each cell that does not fit."""

import dataclasses
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.recipes.test_prediction import LABEL, about, rows_of
from tests.recipes.test_tabular import made, trained
from undersong.client.loaded import LoadedModel
from undersong.errors import RowsError, UndersongError
from undersong.recipes.prediction import Predictor, predictor_of
from undersong.recipes.protocol import Dataset
from undersong.recipes.rows import inputs_of
from undersong.recipes.tabular import RECIPE
from undersong.shared.learning.tensors import Model, save
from undersong.shared.wire.manifest import RecipeRef


def loaded_of(predictor: Predictor, data: Dataset) -> LoadedModel:
    return LoadedModel("ver_1", "fed_1", "0" * 64, inputs_of(predictor.tensors, about(data)), predictor, [])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made()


@pytest.fixture(scope="module")
def model(data: Dataset) -> LoadedModel:
    schema, tensors = trained(data, {"epochs": 1}, rounds=1)
    label = LABEL.model_copy(update={"categories": ("no", "yes")})
    ref = RecipeRef(name="tabular", digest=RECIPE.spec.digest, params={"epochs": 1})
    return loaded_of(predictor_of(save(Model(schema, tensors)), ref, about(data, label)), data)


def test_frames_and_records_say_the_same(model: LoadedModel, data: Dataset) -> None:
    rows = rows_of(data)
    frame = pd.DataFrame(rows, index=[f"patient {n}" for n in range(len(rows["a"]))]).assign(more="unread")
    said = model.predict(frame)
    assert list(said.columns) == ["class", "probability_no", "probability_yes"]
    assert list(said.index) == list(frame.index)
    records = model.predict(frame.to_dict("records"))
    assert [record["class"] for record in records] == list(said["class"])
    assert np.array_equal(said["probability_yes"], model.predictor.scores(rows))
    typed = frame.astype({"c": "category"}).convert_dtypes()
    assert model.predict(typed).equals(said)
    assert model.predict([]) == []
    assert list(model.predict(frame[:0]).columns) == list(said.columns)


def test_missing_cells_are_missing_in_every_spelling(model: LoadedModel, data: Dataset) -> None:
    first = {**{name: values[0] for name, values in rows_of(data).items()}, "a": 90.0}
    empty = [{**first, "a": nothing} for nothing in (None, float("nan"), "", np.float32("nan"), pd.NA, pd.NaT)]
    left_out = {name: value for name, value in first.items() if name != "a"}
    answers = model.predict([first, *empty, left_out])
    assert all(answer == answers[1] for answer in answers[1:])
    assert answers[0] != answers[1]


def test_moments_are_days_where_a_column_holds_numbers(model: LoadedModel) -> None:
    at = datetime(1970, 1, 3, 12, tzinfo=UTC)
    frames = [pd.DataFrame({"a": [value], "b": [1.0], "c": ["x"]}) for value in (2.5, at, at.replace(tzinfo=None))]
    said = [model.predict(frame) for frame in frames]
    assert said[0].equals(said[1])
    assert said[0].equals(said[2])


FAULTS: list[tuple[Any, str]] = [
    ([{"a": 1, "b": 1, "c": "x"}, {"a": "old", "b": 1, "c": "x"}], "/rows/1/a: 'old' is not a number"),
    ([{"a": [1], "b": 1, "c": "x"}], r"/rows/0/a: '\[1\]' is not a number"),
    ([{"a": float("inf"), "b": 1, "c": "x"}], "/rows/0/a: 'inf' is not a number"),
    ([{"a": 1, "b": 1, "c": "purple"}], "/rows/0/c: 'purple' is outside its categories: x, y"),
    ([{"A": 1, "b": 1, "c": "x"}], r"/rows/\*/a: the column is missing; did you mean A\?$"),
    ([{"b": 1, "c": "x"}], r"/rows/\*/a: the column is missing$"),
    ([{"a": 1, "b": 1, "c": "x"}, 5], "/rows/1: it is int"),
    ({"a": 1, "b": 1, "c": "x"}, "a data frame of pandas or a list of records, and this is dict"),
    ("a,b,c", "this is str"),
    (5, "this is int"),
    (pd.DataFrame({"a": [1.0, np.inf], "b": 1, "c": "x"}), "/rows/1/a: 'inf' is an infinite"),
    (pd.DataFrame({"b": [1], "c": ["x"]}), r"/rows/\*/a: the column is missing"),
    (pd.DataFrame([[1, 2, 3, "x"]], columns=["a", "a", "b", "c"]), r"/rows/\*/a: the column is there more than once"),
    (pd.DataFrame({"a": [pd.Timestamp(0)], "b": 1, "c": [pd.Timestamp(0)]}), "/rows/0/c: .* outside its categories"),
]


@pytest.mark.parametrize(("rows", "said"), FAULTS)
def test_what_does_not_fit_is_told_with_its_place(model: LoadedModel, rows: Any, said: str) -> None:
    with pytest.raises(RowsError, match=said):
        model.predict(rows)


def test_every_column_that_does_not_fit_is_told(model: LoadedModel) -> None:
    with pytest.raises(RowsError) as refusal:
        model.predict([{"a": "x", "b": "y", "c": "x"}])
    assert [path for path, _ in refusal.value.errors] == ["/rows/0/a", "/rows/0/b"]


def test_a_package_that_is_not_there_is_one_line(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    without = dataclasses.replace(model, predictor=dataclasses.replace(model.predictor, recipe=_Recipe(absent)))
    with pytest.raises(UndersongError, match=r"needs torch, which is not installed → pip install 'undersong\[agent\]'"):
        without.predict([{"a": 1, "b": 1, "c": "x"}])


class _Recipe:
    def __init__(self, predict: Any) -> None:
        self.predict, self.spec = predict, RECIPE.spec
