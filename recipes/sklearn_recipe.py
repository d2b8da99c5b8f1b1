"""A recipe from a linear model of scikit-learn, or one with the same attributes: `coef_` and `intercept_`.

An estimator with `partial_fit` goes on from the federation's model. Another is fitted with `warm_start` where it has
that; one that solves its problem anew each time (Ridge) should train one round. scikit-learn must be installed beside
the agents.
"""

# ruff: noqa: ARG002  (every recipe takes what the base class names, used or not)

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import getdoc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from undersong.recipes.learner import FirstTensors, Learned, LocalRound, ModelShape, probabilities
from undersong.recipes.local_training import STEPS, TASKS
from undersong.recipes.numpy_recipe import mean_loss
from undersong.recipes.protocol import Array, RecipeError, Tensors
from undersong.recipes.signature import parameters_of
from undersong.recipes.supervised import TABLE, SupervisedRecipe
from undersong.shared.wire.profiles import Task


class SklearnRecipe(SupervisedRecipe):
    """A recipe that trains the estimator that `make` returns.

    make: called with the job's values of its parameters, whose defaults say of which type they are. The job's parameter
    `epochs` says how often `partial_fit` sees the rows in a round.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        make: Callable[..., Any],
        task: str = "binary",
        classes: int | None = None,
        name: str | None = None,
        version: str = "1",
        description: str | None = None,
    ) -> None:
        own = {"epochs": STEPS["epochs"]}
        of_make = parameters_of(make, 0, own | TASKS)
        self._make, self._of_make = make, tuple(of_make)
        super().__init__(
            source,
            name=name,
            version=version,
            description=(getdoc(make) or "").partition("\n")[0] if description is None else description,
            task=task,
            classes=classes,
            inputs=TABLE,
            properties=own | of_make,
        )

    def begin(self, shape: ModelShape, settings: Mapping[str, Any], seed: int) -> FirstTensors:
        """Return zeros."""
        rows = np.zeros((shape.outputs, shape.inputs), np.float32)
        return FirstTensors({"coef": rows, "intercept": np.zeros(shape.outputs, np.float32)})

    def learn(self, model: Tensors, work: LocalRound) -> Learned:
        """Fit the estimator on from the model."""
        shape, estimator = work.shape, self._estimator(work.shape, model, work.settings)
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=work.seed % 2**32)
        _fit(estimator, work)
        coefficients = np.asarray(estimator.coef_).reshape(-1, shape.inputs)
        if len(coefficients) != shape.outputs:
            raise RecipeError(f"the estimator has {len(coefficients)} rows of coefficients, not {shape.outputs}")
        made = {
            "coef": coefficients.astype(np.float32),
            "intercept": np.broadcast_to(np.asarray(estimator.intercept_, np.float32), (shape.outputs,)).copy(),
        }
        said = self.answers(shape, made, work.x, work.settings)
        return Learned(made, len(work.y), mean_loss(shape, work.y, said))

    def scores(
        self, shape: ModelShape, model: Tensors, x: Array, settings: Mapping[str, Any]
    ) -> npt.NDArray[np.float64]:
        """Return probabilities, from decision values where the estimator has none, or values."""
        estimator, rows = self._estimator(shape, model, settings), x.astype(np.float64)
        if shape.task is Task.REGRESSION:
            return np.asarray(estimator.predict(rows), np.float64)
        if hasattr(estimator, "predict_proba"):
            said = np.asarray(estimator.predict_proba(rows), np.float64)
            return said[:, 1] if shape.task is Task.BINARY else said
        return probabilities(shape, np.asarray(estimator.decision_function(rows)).reshape(len(rows), -1))

    def _estimator(self, shape: ModelShape, model: Tensors, settings: Mapping[str, Any]) -> Any:
        estimator = self._make(**{name: settings[name] for name in self._of_make})
        if not hasattr(estimator, "fit") or not hasattr(estimator, "get_params"):
            raise RecipeError(f"make returns {type(estimator).__name__}, which is no estimator of scikit-learn")
        if "warm_start" in estimator.get_params():
            estimator.set_params(warm_start=True)
        number = shape.task is Task.REGRESSION
        coefficients = np.ascontiguousarray(model["coef"], np.float64)
        estimator.coef_ = coefficients.ravel() if number else coefficients
        estimator.intercept_ = np.asarray(model["intercept"], np.float64).copy()
        estimator.n_features_in_ = shape.inputs
        if not number:
            kind = np.float32 if shape.task is Task.BINARY else np.int64
            estimator.classes_ = np.arange(max(shape.outputs, 2), dtype=kind)
        return estimator


def _fit(estimator: Any, work: LocalRound) -> None:
    x, outputs = work.x.astype(np.float64), work.shape.outputs
    classes = {} if work.shape.task is Task.REGRESSION else {"classes": np.arange(max(outputs, 2), dtype=work.y.dtype)}
    if not hasattr(estimator, "partial_fit"):
        if classes and len(np.unique(work.y)) < len(classes["classes"]):
            raise RecipeError(
                "a class is absent at this site, and the estimator must see them all: take one with partial_fit, "
                "SGDClassifier for example"
            )
        estimator.fit(x, work.y)
        work.progress(1.0)
        return
    epochs = int(work.settings["epochs"])
    for epoch in range(epochs):
        estimator.partial_fit(x, work.y, **classes)
        work.progress((epoch + 1) / epochs)
