"""What every recipe does that learns a label from a table's columns or an image, whatever learns it.

Columns become numbers by the federation's own means and scales (`undersong.recipes.table`), images are used as they
are, texts as the recipe encodes them. With task regression the label is learned in standard deviations from its mean
over all sites, so that a label of any scale fits the limits of an update; predictions and evaluation are in the label's
own units, the training loss is about standard deviations.
"""

# ruff: noqa: ARG002  (every recipe takes what the protocol names, used or not)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from undersong.recipes import table
from undersong.recipes.datasets import SOURCES, images_of
from undersong.recipes.labels import LABEL_SUMS, ORIGIN, SCALING, label_scale, label_tensors, origin_of, values_of
from undersong.recipes.learner import FirstTensors, Learned, LocalRound, ModelShape
from undersong.recipes.local_training import EVENT, TASKS, Combination, JsonSchema, defaults, faults, schema_of
from undersong.recipes.pretrained import FROZEN
from undersong.recipes.protocol import (
    Array,
    Column,
    Context,
    Dataset,
    DataShape,
    Params,
    Progress,
    RecipeError,
    Tensors,
    TrainResult,
    source_digest,
)
from undersong.recipes.survival import ranked, survival_sums, with_events, without_event
from undersong.shared.learning.metrics import binary_sums, multiclass_sums, regression_sums
from undersong.shared.learning.tensors import Model, Schema
from undersong.shared.names import hint
from undersong.shared.statistics import moments
from undersong.shared.wire.columns import ColumnType
from undersong.shared.wire.profiles import RecipeSpec, Task

TABLE: Final[tuple[ColumnType, ...]] = ("number", "category")
IMAGE: Final[tuple[ColumnType, ...]] = ("image",)
TEXT: Final[tuple[ColumnType, ...]] = ("text",)
READING: Final = (
    "supervised.py",
    "learner.py",
    "labels.py",
    "table.py",
    "local_training.py",
    "survival.py",
    "pretrained.py",
    "protocol.py",
    *SOURCES,
)
"""The files whose code every such recipe runs: part of the digest of those that come with the platform."""
VOCABULARY: Final = "input.vocabulary"
"""The tensor of a model of texts with the places of the tokens that it knows."""
BINS: Final = "bins"
"""The parameter of recipes for tables by which numbers become indicators of that many intervals; 0: none."""
_OWN_TENSORS: Final = frozenset({*table.FIXED, table.BORDERS, *SCALING, ORIGIN, VOCABULARY})
_KEPT: Final = _OWN_TENSORS | {FROZEN}


RANGES: Final[Mapping[str, JsonSchema]] = {
    "ranges": {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "default": {},
        "description": "Lowest and highest value of each number, and of a number that is predicted: columns are scaled "
        "by them, and no sums over rows are asked for first.",
    }
}
"""The parameter by which columns are scaled without looking at any row."""


class SupervisedRecipe(ABC):
    """A recipe but for what learns: `begin`, `learn` and `scores`.

    source: the recipe's file (`__file__`), from which its name and digest follow. task: None leaves it to the job.
    properties: JSON schemas of the parameters, with defaults. record_params: see `RecipeSpec`; None where it cannot add
    noise that protects records.
    """

    reduces: ClassVar[Literal["vocabulary"] | None] = None
    """See `RecipeSpec`."""

    def __init__(
        self,
        source: str | Path | Sequence[Path],
        *,
        name: str | None,
        version: str,
        description: str,
        task: str | None,
        classes: int | None,
        inputs: Sequence[str],
        properties: Mapping[str, JsonSchema],
        tasks: Mapping[str, JsonSchema] = TASKS,
        combinations: Iterable[Combination] = (),
        record_params: JsonSchema | None = None,
    ) -> None:
        files = [Path(source)] if isinstance(source, str | Path) else list(source)
        self._task = None if task is None else _task(task, tasks)
        self._kind = _kind(inputs)
        if self._kind is not None and self._task is None and "task" not in properties:
            raise RecipeError(f"a recipe for {self._kind}s must name its task: binary, multiclass or regression")
        if self._task is Task.MULTICLASS and classes is None and "classes" not in properties:
            raise RecipeError("task multiclass needs classes: give how many the label has")
        self._classes = classes
        if self._kind is not None and self._task is Task.SURVIVAL:
            raise RecipeError(
                f"task survival takes columns, one of which says whether the event came, no {self._kind}s"
            )
        scales = self._kind is None or self._task is Task.REGRESSION
        self._properties = {**tasks_of(task, tasks), **properties, **(RANGES if scales else {})}
        self._combinations = tuple(combinations)
        self.spec: RecipeSpec = RecipeSpec(
            name=name or files[0].stem.replace("_", "-"),
            version=version,
            digest=source_digest(*files),
            task=self._task or Task.BINARY,
            params_schema=schema_of(self._properties, self._combinations),
            classes=classes or self._defaults.get("classes"),
            statistics=scales or self.reduces is not None,
            reduces=self.reduces,
            inputs=tuple(inputs),
            record_params=record_params,
            description=description,
        )

    @abstractmethod
    def begin(self, shape: ModelShape, settings: Mapping[str, Any], seed: int) -> FirstTensors:
        """Return the first tensors; the same seed gives the same ones."""

    @abstractmethod
    def learn(self, model: Tensors, work: LocalRound) -> Learned:
        """Train from `model`."""

    @abstractmethod
    def scores(
        self, shape: ModelShape, model: Tensors, x: Array, settings: Mapping[str, Any]
    ) -> npt.NDArray[np.float64]:
        """Return what the model says of x float32[n, …], n > 0.

        Probabilities [n] of class 1 or [n, classes], or values [n] in standard deviations from the label's mean.
        """

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:
        """Return counts, sums and sums of squares of every input, and of the label where it is a number to predict."""
        if not self.spec.statistics:
            raise RecipeError(f"{self.spec.name} has no statistics round")
        settings = self.settings(params)
        binned = int(settings.get(BINS, 0))
        data = self._labelled(data, settings)
        parts = [] if self._kind else [table.statistics(data.columns, data.features[data.train], binned)]
        if self._task_of(settings) is Task.REGRESSION:
            origin = self.origin(data.columns, data.label_name, settings)
            label = data.label[data.train] - values_of(origin, data.columns, data.features[data.train])
            parts.append(moments.sums_of(label[:, None]).ravel())
        return np.concatenate(parts)

    def initial(self, shape: DataShape, params: Params, context: Context, seed: int) -> Model:
        """Version 0: scaling from declared ranges or the federation's statistics, and what the model begins with."""
        settings = self.settings(params)
        if self._task_of(settings) is Task.SURVIVAL:
            shape = without_event(shape, settings["event"])
        sums = np.asarray(context["statistics"], np.float64) if "statistics" in context else None
        ranges = params.get("ranges") or {}
        if ranges:
            sums = self._declared(shape, ranges, settings)
        fixed = label_tensors(sums) if self._task_of(settings) is Task.REGRESSION else {}
        if self._kind is None:
            inputs = sums[:-LABEL_SUMS] if sums is not None and fixed else sums
            binned = int(settings.get(BINS, 0))
            borders = table.borders_of(shape.columns, inputs, ranges, binned) if binned else None
            fixed = table.fixed_tensors(shape.columns, inputs, borders) | fixed
        elif self._kind == "image" and shape.sample is None:
            raise RecipeError(f"{self.spec.name} needs a data set with one image column")
        if (origin := self.origin(shape.columns, shape.label, settings)) is not None:
            fixed = fixed | {ORIGIN: np.frombuffer(origin.encode(), np.uint8)}
        fixed = fixed | self.prepared(shape, settings, context)
        sample = self._sample(shape, settings) if self._kind else (fixed[table.MEAN].size,)
        start = self.begin(self._shape(sample, settings, fixed), settings, seed)
        if taken := _OWN_TENSORS & start.tensors.keys():
            raise RecipeError(f"the model has a tensor {min(taken)}, a name that is taken here: rename the layer")
        tensors = fixed | start.tensors
        schema = Schema.of(tensors, buffers=start.buffers, fixed=(*fixed, *start.fixed), bfloat16=start.bfloat16)
        return Model(schema, tensors)

    def train(
        self, model: Tensors, data: Dataset, params: Params, context: Context, seed: int, progress: Progress
    ) -> TrainResult:
        """Train on the training rows."""
        settings = self.settings(params)
        data = self._labelled(data, settings)
        x, y = self._inputs(model, data, data.train, settings), self._labels(data.label[data.train], settings)
        if not len(y):
            raise RecipeError("the data set has no training rows")
        if self._task_of(settings) is Task.REGRESSION:
            mean, scale = label_scale(model)
            y = y - values_of(origin_of(model), data.columns, data.features[data.train])
            y = ((y - mean) / scale).astype(np.float32)
        shape = self._shape(x.shape[1:], settings, model)
        made = self.learn(model, LocalRound(shape, x, y, settings, context, seed, progress, data.local))
        tensors = self.kept(model) | made.tensors
        return TrainResult(tensors, made.examples, made.loss, tuple(made.events), made.local)

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """Return sums over the test rows."""
        settings = self.settings(params)
        data = self._labelled(data, settings)
        y = self._labels(data.label[data.test], settings)
        said = self._predictions(
            self.at_site(model, data.local), self._inputs(model, data, data.test, settings), settings
        )
        said = said + values_of(origin_of(model), data.columns, data.features[data.test])
        task = self._task_of(settings)
        if task is Task.SURVIVAL:
            return survival_sums(y, said)
        if task is Task.MULTICLASS:
            return multiclass_sums(y, said)
        return (binary_sums if task is Task.BINARY else regression_sums)(y.astype(np.float64), said)

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """Probabilities [n] or [n, classes], or values [n], from raw columns."""
        settings = self.settings(params)
        if self._kind is None:
            columns, features = table.features_of_rows(model, rows)
            said = self._predictions(model, table.inputs(model, columns, features), settings)
            return said + values_of(origin_of(model), columns, features)
        if len(rows) != 1:
            raise RecipeError(f"give exactly one column of {self._kind}s")
        column = next(iter(rows.values()))
        x = images_of(np.asarray(column)) if self._kind == "image" else self._encoded(model, list(column), settings)
        return self._predictions(model, x, settings)

    def encoded(self, texts: Sequence[str], settings: Mapping[str, Any]) -> Array:
        """Return texts as numbers [n, …]; for recipes whose inputs are texts."""
        raise RecipeError(f"{self.spec.name} takes no texts")

    def prepared(self, shape: DataShape, settings: Mapping[str, Any], context: Context) -> Tensors:
        """Return fixed tensors that a recipe prepares beside those of scaling, from what all sites added up."""
        return {}

    def kept(self, model: Tensors) -> Tensors:
        """Return the tensors that are not trained."""
        return {name: model[name] for name in _KEPT & model.keys()}

    def at_site(self, model: Tensors, local: Tensors) -> Tensors:
        """Return the model as a site uses it that keeps these tensors."""
        return model

    def origin(self, columns: Sequence[Column], label: str | None, settings: Mapping[str, Any]) -> str | None:
        """Return the column from whose value in the same row a label of numbers is measured; None: from 0."""
        return None

    def settings(self, params: Params) -> dict[str, Any]:
        """Return the parameters with their defaults; raises `RecipeError` for what is unknown or refused together."""
        if unknown := sorted(set(params) - set(self._properties)):
            near = hint(unknown[0], self._properties)
            raise RecipeError(f"{self.spec.name} has no parameter {', '.join(unknown)}{near}")
        found = {**self._defaults, **params}
        known = found if self._task is None else {**found, "task": str(self._task)}
        if said := list(faults(self._combinations, params, known)):
            raise RecipeError("; ".join(said))
        return {name: value for name, value in found.items() if name not in RANGES}

    def _declared(
        self, shape: DataShape, ranges: Mapping[str, Sequence[float]], settings: Mapping[str, Any]
    ) -> npt.NDArray[np.float64]:
        """Return the sums that rows spread evenly over declared ranges would have, as `statistics` does."""
        parts = [] if self._kind else [table.declared(shape.columns, ranges)]
        if self._task_of(settings) is Task.REGRESSION:
            low, high = table.range_of(shape.label or "", ranges)
            if self.origin(shape.columns, shape.label, settings) is not None:
                low, high = low - high, high - low
            parts.append(table.evenly([(low, high)]).ravel())
        return np.concatenate(parts)

    def answers(
        self, shape: ModelShape, model: Tensors, x: Array, settings: Mapping[str, Any]
    ) -> npt.NDArray[np.float64]:
        """Return `scores`; raises `RecipeError` where they are not of the task's shape."""
        said = np.asarray(self.scores(shape, model, x, settings), np.float64)
        wanted = (len(x), shape.outputs) if shape.task is Task.MULTICLASS else (len(x),)
        if said.shape != wanted:
            raise RecipeError(f"the model's answers have the shape {list(said.shape)}, and {list(wanted)} is needed")
        return said

    def own_tensors(self, model: Tensors) -> Tensors:
        """Return the tensors that `begin` made, without those of the data's scaling."""
        return {name: value for name, value in model.items() if name not in _KEPT}

    @property
    def _defaults(self) -> dict[str, Any]:
        return defaults(self._properties)

    def _task_of(self, settings: Mapping[str, Any]) -> Task:
        return self._task or Task(settings["task"])

    def _classes_of(self, settings: Mapping[str, Any]) -> int:
        """Return how many classes the label has; 2 with task binary."""
        chosen = settings["classes"] if "classes" in self._properties else self._classes
        return int(chosen) if self._task_of(settings) is Task.MULTICLASS and chosen else 2

    def _shape(self, sample: tuple[int, ...], settings: Mapping[str, Any], fixed: Tensors) -> ModelShape:
        """Return what the model is made for; `fixed` has at least its tensors that are not trained."""
        task, columns = self._task_of(settings), () if self._kind else table.columns_of(fixed)
        return ModelShape(tuple(sample), self._classes_of(settings) if task is Task.MULTICLASS else 1, task, columns)

    def _encoded(self, model: Tensors, texts: Sequence[str], settings: Mapping[str, Any]) -> Array:
        return self.encoded(texts, settings)

    def _sample(self, shape: DataShape, settings: Mapping[str, Any]) -> tuple[int, ...]:
        return self.encoded([""], settings).shape[1:] if shape.sample is None else shape.sample

    def _inputs(self, model: Tensors, data: Dataset, rows: Array, settings: Mapping[str, Any]) -> Array:
        if self._kind == "text":
            return self._encoded(model, [str(text) for text in data.features[rows]], settings)
        if self._kind == "image":
            return data.features[rows]
        return table.inputs(model, data.columns, data.features[rows])

    def _labelled(self, data: Dataset, settings: Mapping[str, Any]) -> Dataset:
        """Return the data set with labels as the task has them: with task survival times and events, float64[n, 2]."""
        return with_events(data, settings["event"]) if self._task_of(settings) is Task.SURVIVAL else data

    def _labels(self, labels: Array, settings: Mapping[str, Any]) -> Array:
        task = self._task_of(settings)
        if task is Task.SURVIVAL:
            return ranked(labels)
        if task is Task.REGRESSION:
            return labels
        classes = self._classes_of(settings)
        if not np.isin(labels, np.arange(classes)).all():
            ways = (
                ": for numbers set task: regression in the job's recipe params, for more classes task: multiclass and "
                "classes"
            )
            raise RecipeError(
                f"the label holds values that are no class of task {task} (0 to {classes - 1})"
                + ways * (self._task is None)
            )
        return labels.astype(np.float32 if task is Task.BINARY else np.int64)

    def _predictions(self, model: Tensors, x: Array, settings: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        shape = self._shape(x.shape[1:], settings, model)
        if not len(x):
            return np.zeros((0, shape.outputs) if shape.task is Task.MULTICLASS else 0)
        said = self.answers(shape, model, x, settings)
        if shape.task is not Task.REGRESSION:
            return said
        mean, scale = label_scale(model)
        return said * scale + mean


def tasks_of(task: str | None, offered: Mapping[str, JsonSchema]) -> dict[str, JsonSchema]:
    """Return the parameters of a recipe of this task, or, with None, of one that leaves it to the job."""
    return dict(offered) if task is None else EVENT if task == Task.SURVIVAL else {}


def _task(name: str, offered: Mapping[str, JsonSchema]) -> Task:
    known = list(offered["task"]["enum"])
    if name not in (*known, Task.NEXT_TOKEN):
        said = f"it is {', '.join(known[:-1])} or {known[-1]}"
        raise RecipeError(f"task {name!r} is unknown here{hint(name, known)}: {said}")
    return Task(name)


def _kind(inputs: Sequence[str]) -> str | None:
    """Return image or text where a row is one of those, None where it is columns; raises `RecipeError`."""
    if tuple(inputs) in (IMAGE, TEXT):
        return inputs[0]
    if not inputs or not set(inputs) <= set(TABLE):
        raise RecipeError(
            f"inputs are {', '.join(inputs) or 'none'}: number, category or both, or image alone, or text alone"
        )
    return None
