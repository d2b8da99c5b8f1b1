"""Linear models of scikit-learn as recipes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recipes.test_torch_recipe import made
from undersong.recipe import Recipe, SklearnRecipe
from undersong.recipes.protocol import RecipeError
from undersong.recipes.reference import score, train_in_one_place

HERE = Path(__file__)


def sgd(loss: str = "log_loss", alpha: float = 1e-4) -> Any:
    """Make a linear model that goes on from where it was."""
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(loss=loss, alpha=alpha)


def logistic(strength: float = 1.0) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength)


def numbers() -> Any:
    from sklearn.linear_model import SGDRegressor

    return SGDRegressor()


def ridge() -> Any:
    from sklearn.linear_model import Ridge

    return Ridge()


@pytest.mark.parametrize(
    ("make", "params", "task", "metric", "least"),
    [
        (sgd, {"epochs": 3}, "binary", "auc", 0.9),
        (sgd, {"loss": "hinge"}, "binary", "auc", 0.9),
        (sgd, {"epochs": 3}, "multiclass", "accuracy", 0.7),
        (logistic, {}, "binary", "auc", 0.9),
        (logistic, {}, "multiclass", "accuracy", 0.75),
        (numbers, {"epochs": 3}, "regression", "r2", 0.8),
        (ridge, {}, "regression", "r2", 0.8),
    ],
)
def test_it_learns(make: Any, params: dict[str, Any], task: str, metric: str, least: float) -> None:
    recipe = SklearnRecipe(HERE, make=make, task=task, classes=3 if task == "multiclass" else None)
    assert isinstance(recipe, Recipe)
    model = train_in_one_place(recipe, made(task), params, rounds=3)
    again = train_in_one_place(recipe, made(task), params, rounds=3)
    assert np.array_equal(model["coef"], again["coef"])
    assert score(recipe, model, made(task), params)[metric] > least


def test_a_class_that_is_absent_at_a_site() -> None:
    data = made("multiclass")
    part = replace(data, train=data.train[data.label[data.train] < 2])
    tolerant = SklearnRecipe(HERE, make=sgd, task="multiclass", classes=3)
    assert train_in_one_place(tolerant, part, {}, rounds=2)["coef"].shape == (3, 5)
    with pytest.raises(RecipeError, match="a class is absent at this site"):
        train_in_one_place(SklearnRecipe(HERE, make=logistic, task="multiclass", classes=3), part, {}, rounds=1)
    with pytest.raises(RecipeError, match="no estimator of scikit-learn"):
        train_in_one_place(SklearnRecipe(HERE, make=lambda: "no", task="binary"), part, {}, rounds=1)
    with pytest.raises(RecipeError, match="write a function of your own"):
        SklearnRecipe(HERE, make=dict)
