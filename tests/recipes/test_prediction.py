"""Predictors of versions say what the recipe's own evaluation computes."""

from dataclasses import replace

import numpy as np
import pytest

from tests.recipes.test_tabular import made, trained
from undersong.recipes import trees
from undersong.recipes.prediction import predictor_of
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.recipes.tabular import RECIPE
from undersong.recipes.text import RECIPE as TEXT
from undersong.shared.learning.metrics import binary_sums, multiclass_sums, regression_sums
from undersong.shared.learning.tensors import Model, save
from undersong.shared.wire.manifest import DataRef, RecipeRef
from undersong.shared.wire.profiles import Column, Task

LABEL = Column(name="y", type="category", categories=("no", "yes", "perhaps"))
SUMS = {"binary": binary_sums, "multiclass": multiclass_sums, "regression": regression_sums}


def about(data: Dataset, label: Column = LABEL) -> DataRef:
    features = tuple(column.name for column in data.columns)
    return DataRef(dataset="made", features=features, label="y", columns=(*data.columns, label))


def rows_of(data: Dataset) -> dict[str, list[object]]:
    """The test rows as a user has them: missing cells are None, categories texts."""
    rows: dict[str, list[object]] = {}
    for place, column in enumerate(data.columns):
        values = data.features[data.test, place]
        texts = column.categories
        rows[column.name] = [None if np.isnan(v) else texts[int(v)] if texts else v for v in values.tolist()]
    return rows


@pytest.mark.parametrize("model", ["logistic", "mlp"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_it_is_the_evaluation(model, task) -> None:
    params = {"model": model, "task": task, "classes": 3, "epochs": 1}
    data = made(task=task)
    schema, tensors = trained(data, params, rounds=1)
    ref = RecipeRef(name="tabular", digest=RECIPE.spec.digest, params=params)
    found = predictor_of(save(Model(schema, tensors)), ref, about(data))
    said, y = found.scores(rows_of(data)), data.label[data.test]
    sums = SUMS[task](y.astype(np.int64) if task == "multiclass" else y, said)
    assert np.array_equal(sums, RECIPE.evaluate(tensors, data, params, {}))


def test_trees_are_the_evaluation() -> None:
    data, params = made(), {"task": "binary"}
    grown = trees.RECIPE.grow(data, params, 2)
    ref = RecipeRef(name="trees", digest=trees.RECIPE.spec.digest, params=params)
    said = predictor_of(save(grown), ref, about(data)).scores(rows_of(data))
    assert np.array_equal(
        binary_sums(data.label[data.test], said), trees.RECIPE.evaluate(grown.tensors, data, params, {})
    )


def test_answers_name_classes_and_faults_are_told() -> None:
    data = made()
    schema, tensors = trained(data, {}, rounds=1)
    content = save(Model(schema, tensors))
    ref = RecipeRef(name="tabular", digest=RECIPE.spec.digest)
    label = LABEL.model_copy(update={"categories": ("no", "yes")})
    found = predictor_of(content, ref, about(data, label))
    (answer,) = found.predict({"a": [90.0], "c": ["y"]})
    assert answer["class"] == "yes"
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert found.predict({}) == []
    with pytest.raises(RecipeError, match="differ in length"):
        found.predict({"a": [1.0], "b": [1.0, 2.0]})
    for odd in (5, "one", None):
        with pytest.raises(RecipeError, match="column a is no list"):
            found.predict({"a": odd})  # type: ignore[dict-item]
    with pytest.raises(RecipeError, match="predict at a site"):
        predictor_of(content, ref.model_copy(update={"params": {"local_layers": ["0"]}}), about(data))
    with pytest.raises(RecipeError, match="install the release"):
        predictor_of(content, ref.model_copy(update={"digest": "0" * 64}), about(data))
    with pytest.raises(RecipeError, match="classes"):
        predictor_of(content, ref, about(data)).predict({"a": [1.0]})
    with pytest.raises(RecipeError, match=r"shape \[1\] for 1 rows: with task multiclass"):
        replace(found, task=Task.MULTICLASS).predict({"a": [1.0]})
    with pytest.raises(RecipeError, match="predicts nothing"):
        predictor_of(
            content,
            RecipeRef(name="text", digest=TEXT.spec.digest, params={"task": "next_token"}),
            about(data),
        )
