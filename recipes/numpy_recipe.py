"""A recipe from two functions on numpy arrays: one that trains, and one that predicts."""

# ruff: noqa: ARG002  (every recipe takes what the base class names, used or not)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.learner import FirstTensors, Learned, LocalRound, ModelShape
from undersong.recipes.local_training import TASKS
from undersong.recipes.protocol import Array, RecipeError, Tensors
from undersong.recipes.signature import parameters_of
from undersong.recipes.supervised import TABLE, SupervisedRecipe
from undersong.shared.learning.metrics import binary_sums, multiclass_sums, regression_sums
from undersong.shared.wire.profiles import Task

SEED: Final = "seed"
"""The parameter by which a function gets the round's seed; no job sets it."""


def linear_start(shape: ModelShape) -> Tensors:
    """Return zeros for a linear model: weights float32[inputs, outputs] and bias float32[outputs]."""
    return {
        "weights": np.zeros((shape.inputs, shape.outputs), np.float32),
        "bias": np.zeros(shape.outputs, np.float32),
    }


def mean_loss(shape: ModelShape, y: Array, said: Array) -> float:
    """Return the mean loss of scores: cross-entropy of probabilities, or squared error."""
    if shape.task is Task.MULTICLASS:
        sums = multiclass_sums(y, said)
    else:
        sums = (binary_sums if shape.task is Task.BINARY else regression_sums)(y.astype(np.float64), said)
    return float(sums[1] / sums[0])


class NumpyRecipe(SupervisedRecipe):
    """A recipe of two functions.

    fit(model, x, y, …) returns the trained model: a dict of the same float arrays as `model`, which it leaves alone;
    x is float32[n, inputs], scaled, without gaps, y float[n] or int[n] classes. predict(model, x, …) returns
    probabilities [n] or [n, classes], or values [n]. start(shape, …) returns the first model; without it a linear one
    of zeros. Other parameters with defaults are the job's, by the same name in each function; `seed` is the round's.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        fit: Callable[..., Mapping[str, Array]],
        predict: Callable[..., Array],
        start: Callable[..., Mapping[str, Array]] = linear_start,
        task: str | None = "binary",
        classes: int | None = None,
        inputs: Sequence[str] = TABLE,
        name: str | None = None,
        version: str = "1",
        description: str | None = None,
    ) -> None:
        self._fit, self._predict, self._start = fit, predict, start
        taken = {name: {**parameters_of(function, given, TASKS)} for name, function, given in self._functions()}
        self._taken = {name: tuple(found) for name, found in taken.items()}
        properties = {key: entry for found in taken.values() for key, entry in found.items() if key != SEED}
        for found in taken.values():
            if odd := [key for key, entry in found.items() if key != SEED and entry != properties[key]]:
                raise RecipeError(f"parameter {odd[0]} has different defaults in two functions: give it the same one")
        super().__init__(
            source,
            name=name,
            version=version,
            description=(getdoc(fit) or "").partition("\n")[0] if description is None else description,
            task=task,
            classes=classes,
            inputs=inputs,
            properties=properties,
        )

    def _functions(self) -> tuple[tuple[str, Callable[..., Any], int], ...]:
        return (("fit", self._fit, 3), ("predict", self._predict, 2), ("start", self._start, 1))

    def begin(self, shape: ModelShape, settings: Mapping[str, Any], seed: int) -> FirstTensors:
        """Return what `start` makes, float64 as float32."""
        made = {
            name: np.asarray(value)
            for name, value in self._start(shape, **self._given("start", settings, seed)).items()
        }
        return FirstTensors(
            {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in made.items()}
        )

    def learn(self, model: Tensors, work: LocalRound) -> Learned:
        """Call `fit`, and see that it gives back what it was given."""
        own, given = self.own_tensors(model), self._given("fit", work.settings, work.seed)
        made = self._fit({name: value.copy() for name, value in own.items()}, work.x, work.y, **given)
        if not isinstance(made, Mapping) or made.keys() != own.keys():
            returned = sorted(made) if isinstance(made, Mapping) else type(made).__name__
            raise RecipeError(f"fit must return a dict of the arrays {sorted(own)}, and returns {returned}")
        found = {name: np.asarray(made[name]).astype(own[name].dtype) for name in own}
        if wrong := [name for name in own if found[name].shape != own[name].shape]:
            shapes = f"{list(found[wrong[0]].shape)}, and was {list(own[wrong[0]].shape)}"
            raise RecipeError(f"fit must keep the shapes of arrays: {wrong[0]} has {shapes}")
        work.progress(1.0)
        said = self.answers(work.shape, found, work.x, work.settings)
        return Learned(found, len(work.y), mean_loss(work.shape, work.y, said))

    def scores(
        self, shape: ModelShape, model: Tensors, x: Array, settings: Mapping[str, Any]
    ) -> npt.NDArray[np.float64]:
        """Call `predict`."""
        return np.asarray(self._predict(self.own_tensors(model), x, **self._given("predict", settings, 0)), np.float64)

    def _given(self, function: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
        return {name: seed if name == SEED else settings[name] for name in self._taken[function]}
