"""What a training recipe is.

A recipe turns a site's rows into sums and model changes; the platform sees only what it returns. Recipes are pure in
this sense: same model, data, parameters and seed give the same result, but for noise that protects records, which is
fresh each time. Heavy imports (torch) belong inside functions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from undersong.shared.errors import Invalid
from undersong.shared.learning.tensors import Model
from undersong.shared.recipe_source import source_digest
from undersong.shared.wire.manifest import TRAINING_ROUND, EvaluatedPart
from undersong.shared.wire.privacy import RECORD_NOISE, PoissonGaussianEvent, RecordNoise
from undersong.shared.wire.profiles import Column, RecipeSpec

__all__ = [
    "TRAINING_ROUND",
    "Array",
    "Column",
    "Context",
    "DataShape",
    "Dataset",
    "Model",
    "Params",
    "Progress",
    "Recipe",
    "RecipeError",
    "RecipeSpec",
    "RecordNoise",
    "Tensors",
    "TrainResult",
    "record_noise",
    "source_digest",
]

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
Context = Mapping[str, Sequence[float]]
Params = Mapping[str, Any]
Progress = Callable[[float], None]


class RecipeError(Invalid):
    """The recipe cannot work with these parameters, this data or this model."""


@dataclass(frozen=True, slots=True)
class DataShape:
    """What a model must know of the data before it sees a row; `sample` is the shape of one image, if it is one."""

    columns: tuple[Column, ...]
    label: str | None = None
    sample: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A site's rows for one job.

    `features` is float64[n, k], one column each: a number, or a category's position; NaN where missing. For a single
    image column it is float32[n, channels, height, width], for a single text column an object array [n] of texts.
    Of a series rows are windows and `features` is a view, in which they lie over each other. `label` is float64[n],
    with NaN only in rows of no part. `train`, `validation` and `test` are row indices; evaluations are about `test`.
    `local`: what the last round of the job left at this site (`TrainResult.local`); empty before one did.
    `client`: in a simulation the client's number, from 0, and how many clients there are.
    """

    name: str
    columns: tuple[Column, ...]
    features: Array
    label: npt.NDArray[np.float64]
    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    label_name: str | None = None
    validation: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    local: Tensors = field(default_factory=dict)
    client: tuple[int, int] | None = None

    def evaluated_on(self, part: EvaluatedPart) -> "Dataset":
        """Return the data set with the rows of another part, or all, as those that evaluations are about."""
        if part == "test":
            return self
        rows = self.validation
        if part == "all":
            rows = np.sort(np.concatenate([self.train, self.validation, self.test]))
        return replace(self, test=rows)

    @property
    def shape(self) -> DataShape:
        """The shape without the rows."""
        sample = tuple(self.features.shape[1:]) if self.features.ndim == 4 else None
        return DataShape(self.columns, self.label_name, sample)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The model after local training, how many rows it saw, and the mean loss over them.

    events: the noisy steps that were taken, where the context asks for noise. Without them nothing is sent.
    local: tensors that stay at this site for the job's next round, such as the layers of a personal model or a control
    variate. They are never sent, and none are kept where a round protects records.
    """

    tensors: Tensors
    examples: int
    loss: float
    events: tuple[PoissonGaussianEvent, ...] = field(default=())
    local: Tensors = field(default_factory=dict)


def record_noise(context: Context) -> RecordNoise | None:
    """Return the noise that training must add to protect records; None where it is to train exactly."""
    given = context.get(RECORD_NOISE)
    return None if given is None else RecordNoise(*given)


def round_sums(recipe: "Recipe", data: Dataset, params: Params, context: Context, seed: int) -> npt.NDArray[np.float64]:
    """Return what a round of sums asks of a recipe; raises `RecipeError`."""
    if recipe.spec.grows is None:
        return np.asarray(recipe.statistics(data, params, seed), np.float64)
    if not isinstance(recipe, GrowingRecipe):
        raise RecipeError(f"{recipe.spec.name} says that its model grows by sums, and has no method `sums`")
    return np.asarray(recipe.sums(data, params, context, seed), np.float64)


@runtime_checkable
class GrowingRecipe(Protocol):
    """What a recipe has beside the rest if its spec `grows`."""

    def sums(self, data: Dataset, params: Params, context: Context, seed: int) -> npt.NDArray[np.float64]:
        """Return sums over the training rows, float64[m], as `context` asks, m the same at every site."""

    def grow(self, data: Dataset, params: Params, rounds: int) -> Model:
        """Return the model that grows of one data set's training rows alone."""


@runtime_checkable
class Recipe(Protocol):
    """One way to train. `spec` is what sites advertise and jobs are checked against.

    The spec decides the layout of the evaluation sums, because the coordinator reads it too: `task` and `classes`, or
    the parameters of these names where `params_schema` has them.
    """

    @property
    def spec(self) -> RecipeSpec:
        """Name, version, digest, task and the JSON schema of the parameters."""

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:
        """Return sums over the training rows, float64[m], m the same at every site. Only if ``spec.statistics``."""

    def initial(self, shape: DataShape, params: Params, context: Context, seed: int) -> Model:
        """Version 0. `context["statistics"]` holds the federation's sums, if there was a statistics round."""

    def train(
        self, model: Tensors, data: Dataset, params: Params, context: Context, seed: int, progress: Progress
    ) -> TrainResult:
        """Train on the training rows, from `model`; call `progress` with 0..1 now and then.

        A recipe whose spec has `record_params` adds the noise that `record_noise` finds in `context`, and returns what
        it did as events.
        """

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """Return sums over the test rows, in the layout that `undersong.shared.learning.metrics.evaluation_layout`
        names.
        """

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """From raw columns (name to values): probabilities [n] or [n, classes], or values [n]."""
