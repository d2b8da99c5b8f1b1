"""What an auditor at the owner's own machine asks of a recipe beyond an agent's orders: chosen rows, whole courses of
training, and the loss of single rows.

No manifest can ask for it: an agent's orders carry the kinds of rounds, and name no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import TRAINING_ROUND, Dataset, GrowingRecipe, Params, Recipe, RecipeError, Tensors
from undersong.shared.learning import safetensors
from undersong.shared.learning.tensors import Model

COURSE: Final = "course"
"""Train from nothing: statistics, version 0, then `rounds` times what a site does in a round."""
ROWS: Final = "rows"
"""The indices of a data set's training and test rows, where only the recipe can read it."""
LOSSES: Final = "losses"
"""The loss of each test row by itself."""
KINDS: Final = (COURSE, ROWS, LOSSES)


def save_rows(path: Path, *, train: Any = (), test: Any = (), label: Any = None) -> None:
    """Write which rows an order is about: their indices, and every row's label where it is another one."""
    arrays: dict[str, npt.NDArray[Any]] = {"train": np.asarray(train, np.int64), "test": np.asarray(test, np.int64)}
    if label is not None:
        arrays["label"] = np.asarray(label, np.float64)
    path.write_bytes(safetensors.write(arrays))


def chosen_rows(data: Dataset, path: Path) -> Dataset:
    """Return the data set with the rows and labels of a file of `save_rows`; raises `RecipeError`."""
    found = safetensors.read(path.read_bytes())
    train, test, label = found["train"], found["test"], found.get("label", data.label)
    rows = np.concatenate([train, test])
    if label.shape != data.label.shape or (rows.size and not 0 <= rows.min() <= rows.max() < len(data.label)):
        raise RecipeError("the data set changed while it was audited")
    return replace(data, train=train, test=test, label=label)


def run_course(recipe: Recipe, data: Dataset, order: Mapping[str, Any], progress: Callable[[float], None]) -> Model:
    """Return a model trained on this data set alone, as long as the audited one was."""
    params, seed, rounds = order["params"], int(order["seed"]), int(order["rounds"])
    context = dict(order["context"])
    if recipe.spec.grows is not None and isinstance(recipe, GrowingRecipe):
        return recipe.grow(data, params, rounds)
    if recipe.spec.statistics:
        context["statistics"] = list(recipe.statistics(data, params, seed))
    model = recipe.initial(data.shape, params, context, seed)
    tensors = model.tensors
    for number in range(rounds):
        context[TRAINING_ROUND] = [float(number), float(rounds)]
        tensors = recipe.train(tensors, data, params, context, seed + number, lambda _: None).tensors
        progress((number + 1) / rounds)
    return Model(model.schema.result(tensors), tensors)


def losses(
    recipe: Recipe, model: Tensors, data: Dataset, params: Params, progress: Callable[[float], None]
) -> npt.NDArray[np.float64]:
    """Return each test row's loss, float64[n]: every layout of evaluation sums begins with rows and their loss."""
    found = np.empty(data.test.size)
    for place, row in enumerate(data.test):
        sums = recipe.evaluate(model, replace(data, test=np.array([row])), params, {})
        found[place] = sums[1] / max(sums[0], 1.0)
        progress((place + 1) / data.test.size)
    return found
