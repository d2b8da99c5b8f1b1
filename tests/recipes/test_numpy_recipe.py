"""Two functions on numpy arrays are a whole recipe."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recipes.test_torch_recipe import made
from undersong.recipe import NumpyRecipe, Recipe
from undersong.recipes.protocol import RecipeError
from undersong.recipes.reference import score, train_in_one_place

HERE = Path(__file__)


def fit(model: dict[str, Any], x: Any, y: Any, rate: float = 0.5, steps: int = 20, seed: int = 0) -> dict[str, Any]:
    """Least squares or logistic regression by full gradients."""
    assert isinstance(seed, int)
    w, b = model["weights"][:, 0].astype(float), model["bias"].astype(float)
    for _ in range(steps):
        error = 1 / (1 + np.exp(-(x @ w + b))) - y
        w, b = w - rate * x.T @ error / len(y), b - rate * error.mean()
    return {"weights": w[:, None], "bias": b}


def predict(model: dict[str, Any], x: Any) -> Any:
    return 1 / (1 + np.exp(-(x @ model["weights"][:, 0] + model["bias"])))


def test_a_pair_of_functions_learns() -> None:
    recipe = NumpyRecipe(HERE, fit=fit, predict=predict)
    assert isinstance(recipe, Recipe)
    assert sorted(recipe.spec.params_schema["properties"]) == ["ranges", "rate", "steps"]
    assert (recipe.spec.record_params, recipe.spec.description) == (
        None,
        "Least squares or logistic regression by full gradients.",
    )
    model = train_in_one_place(recipe, made(), {"steps": 40}, rounds=3)
    assert model["weights"].dtype == np.float32
    assert score(recipe, model, made(), {})["auc"] > 0.9


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda _model, _x, _y: None, "returns NoneType"),
        (lambda model, _x, _y: {"weights": model["weights"]}, "must return a dict of the arrays"),
        (lambda model, _x, _y: {**model, "bias": np.zeros(2)}, "bias has"),
    ],
)
def test_what_fit_gives_back_is_checked(wrong: Any, said: str) -> None:
    recipe = NumpyRecipe(HERE, fit=wrong, predict=predict)
    with pytest.raises(RecipeError, match=said):
        train_in_one_place(recipe, made(), {}, rounds=1)


def test_functions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RecipeError, match="different defaults in two functions"):
        NumpyRecipe(HERE, fit=fit, predict=lambda model, x, rate=1.0: (model, x, rate))
    with pytest.raises(RecipeError, match="takes 1 arguments"):
        NumpyRecipe(HERE, fit=fit, predict=lambda model: model)
    recipe = NumpyRecipe(HERE, fit=fit, predict=lambda _model, _x: np.zeros(3))
    with pytest.raises(RecipeError, match=r"shape \[3\]"):
        train_in_one_place(recipe, made(), {}, rounds=1)
