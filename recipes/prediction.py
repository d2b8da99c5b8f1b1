"""Predictions of a published version, by what the version's evidence holds and nothing else.

The model's file holds its preparation as fixed tensors (columns with their categories, mean, scale, borders of
intervals, the label's scale), and the signed manifest of the round that made it holds the recipe's name, digest and
parameters and the label's categories. `undersong verify` covers both; the caller has verified them. Only models
whose layers are all in the file can predict anywhere: those that keep layers at sites are refused. Where sites also
train models of their own (`personal_weight`), this is the shared model, and the job's metrics were those of the sites'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.catalogue import load_recipe
from undersong.recipes.protocol import Recipe, RecipeError, Tensors
from undersong.shared.learning.metrics import setting
from undersong.shared.learning.tensors import load
from undersong.shared.wire.manifest import DataRef, RecipeRef
from undersong.shared.wire.profiles import Task

Answer = dict[str, Any]
_LOCAL: Final = "local_layers"
_PREDICTED: Final = (Task.BINARY, Task.MULTICLASS, Task.REGRESSION, Task.SURVIVAL)


@dataclass(frozen=True, slots=True)
class Predictor:
    """A version's model with its recipe and parameters. `classes` are the label's in order, where it has some."""

    recipe: Recipe
    tensors: Tensors
    params: Mapping[str, Any]
    task: Task
    classes: tuple[str, ...] = ()

    def scores(self, rows: Mapping[str, Sequence[Any]]) -> npt.NDArray[np.float64]:
        """Return what the recipe's evaluation computes, of raw columns by name, all of one length.

        Probabilities [n] of the second class or [n, classes], values [n], or logarithms of hazard ratios [n]. Raises
        `RecipeError` for columns that the model does not have, and `BadDataset` for a cell that does not fit.
        """
        single = [name for name, values in rows.items() if isinstance(values, str) or not hasattr(values, "__len__")]
        if single:
            raise RecipeError(f"column {single[0]} is no list: give one value for each row")
        lengths = {name: len(values) for name, values in rows.items()}
        if len(set(lengths.values())) > 1:
            raise RecipeError(f"the columns differ in length: {lengths}")
        said = np.asarray(self.recipe.predict(self.tensors, rows, self.params), np.float64)
        shape = (max(lengths.values(), default=0), *((-1,) if self.task is Task.MULTICLASS else ()))
        if said.ndim != len(shape) or len(said) != shape[0]:
            raise RecipeError(
                f"recipe {self.recipe.spec.name} predicted the shape {list(said.shape)} for {shape[0]} rows: "
                "with task multiclass it returns [rows, classes], else [rows]"
            )
        return said

    def predict(self, rows: Mapping[str, Sequence[Any]]) -> list[Answer]:
        """Return an answer for each row: `class` and `probabilities`, `value`, or `log_hazard_ratio`; see `scores`."""
        said = self.scores(rows)
        if self.task is Task.REGRESSION:
            return [{"value": value} for value in said.tolist()]
        if self.task is Task.SURVIVAL:
            return [{"log_hazard_ratio": value} for value in said.tolist()]
        if self.task is Task.BINARY:
            chosen, shares = (said >= 0.5).astype(np.int64), np.stack([1 - said, said], axis=1)
        else:
            chosen, shares = np.argmax(said, axis=1), said
        names = self._names(shares.shape[1])
        return [
            {"class": names[place], "probabilities": dict(zip(names, row, strict=True))}
            for place, row in zip(chosen.tolist(), shares.tolist(), strict=True)
        ]

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of their probabilities; none where a number is predicted."""
        if self.task is Task.BINARY:
            return self._names(2)
        count = setting(self.recipe.spec, self.params, "classes")
        return self._names(int(count)) if self.task is Task.MULTICLASS else ()

    def _names(self, count: int) -> tuple[str, ...]:
        names = self.classes or tuple(map(str, range(count)))
        if len(names) > count:
            raise RecipeError(f"the label has {len(names)} classes, and the model knows {count}")
        return names + tuple(map(str, range(len(names), count)))


def predictor_of(content: bytes, recipe: RecipeRef, data: DataRef, paths: Sequence[Path] = ()) -> Predictor:
    """Return the predictor of a version's file and of the `recipe` and `data` of the manifest of its round.

    `paths` are files and folders of own recipes, which are imported, and so run. The recipe's code here must have the
    manifest's digest. Raises `RecipeError` where it has not, and where the model cannot predict.
    """
    found = load_recipe(recipe.name, paths)
    if found.spec.digest != recipe.digest:
        raise RecipeError(
            f"the version was made by recipe {recipe.name} of digest {recipe.digest}, and the one here has "
            f"{found.spec.digest}: install the release that made it, or name the recipe's own file"
        )
    params = dict(recipe.params)
    if layers := params.get(_LOCAL):
        raise RecipeError(f"layers {layers} stay at each site and are not in the version: predict at a site")
    task = setting(found.spec, params, "task")
    if found.spec.metrics or task not in _PREDICTED:
        said = "metrics of its own" if found.spec.metrics else f"task {task}"
        raise RecipeError(f"recipe {recipe.name} with {said} predicts nothing of a row")
    label = next((column for column in data.columns if column.name == data.label), None)
    classes = () if label is None else tuple(label.categories or ())
    return Predictor(found, load(content).tensors, params, Task(task), classes)
