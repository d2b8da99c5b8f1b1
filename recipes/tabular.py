"""Recipe `tabular`: linear or logistic regression, or a multilayer perceptron, on numbers and categories.

With `task: regression` the model learns the label in standard deviations from its mean over all sites, so that a label
of any scale fits the limits of an update; predictions and evaluation are in the label's own units, the training loss is
in squared standard deviations.
"""

# ruff: noqa: ARG002  (every recipe takes what the protocol names, used or not)

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes import table, training
from undersong.recipes.datasets import SOURCES
from undersong.recipes.protocol import (
    Array,
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
from undersong.shared.learning.metrics import binary_sums, multiclass_sums, regression_sums
from undersong.shared.learning.tensors import Model, Schema
from undersong.shared.statistics import moments
from undersong.shared.wire.profiles import RecipeSpec, Task

if TYPE_CHECKING:
    import torch

_HERE: Final = Path(__file__).parent
_LABEL_MEAN: Final = "label.mean"
_LABEL_SCALE: Final = "label.scale"
_LABEL_SUMS: Final = 3
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    **training.SCHEMA,
    "model": {
        "enum": ["logistic", "mlp"],
        "default": "logistic",
        "description": "logistic is linear, whatever the task; mlp has hidden layers.",
    },
    "hidden": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 65_536},
        "maxItems": 8,
        "default": [32],
        "description": "Widths of the hidden layers of mlp.",
    },
    "task": {
        "enum": [str(task) for task in Task if task is not Task.SUMMARY],
        "default": "binary",
        "description": "What the label is: one of two classes, one of several, or a number.",
    },
    "classes": {
        "type": "integer",
        "minimum": 2,
        "maximum": 1000,
        "default": 2,
        "description": "Classes of the label with task multiclass.",
    },
}
_DEFAULTS: Final = training.defaults(_PARAMETERS)
_SCHEMA: Final[dict[str, Any]] = {"type": "object", "additionalProperties": False, "properties": _PARAMETERS}


class Tabular:
    """See the module."""

    def __init__(self) -> None:
        files = [
            _HERE / name
            for name in ("tabular.py", "table.py", "training.py", "noisy_steps.py", "protocol.py", *SOURCES)
        ]
        self.spec: RecipeSpec = RecipeSpec(
            name="tabular",
            version="1",
            digest=source_digest(*files),
            task=Task.BINARY,
            params_schema=_SCHEMA,
            classes=_DEFAULTS["classes"],
            statistics=True,
            inputs=("number", "category"),
            record_params={},
            description="Logistic regression or MLP on numbers and categories; missing values get a flag.",
        )

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:
        """Return counts, sums and sums of squares of every input, and of the label where it is a number to predict."""
        sums = table.statistics(data.columns, data.features[data.train])
        if _settings(params)["task"] != Task.REGRESSION:
            return sums
        return np.concatenate([sums, moments.sums_of(data.label[data.train, None]).ravel()])

    def initial(self, shape: DataShape, params: Params, context: Context, seed: int) -> Model:
        """Zeros for the linear model, torch's own draw by seed for the MLP; scaling from the statistics."""
        settings = _settings(params)
        sums = np.asarray(context["statistics"], np.float64) if "statistics" in context else None
        target = _target(sums) if settings["task"] == Task.REGRESSION else {}
        inputs = sums[:-_LABEL_SUMS] if sums is not None and target else sums
        tensors = table.fixed_tensors(shape.columns, inputs) | target
        with training.seeded(seed):
            tensors |= training.state_of(_module(tensors[table.MEAN].size, settings))
        return Model(Schema.of(tensors, fixed=(*table.FIXED, *target)), tensors)

    def train(
        self, model: Tensors, data: Dataset, params: Params, context: Context, seed: int, progress: Progress
    ) -> TrainResult:
        """Local SGD on the training rows."""
        settings = _settings(params)
        x, y = self._rows(model, data, params, data.train)
        if not len(y):
            raise RecipeError("the data set has no training rows")
        if settings["task"] == Task.REGRESSION:
            mean, scale = _label_scale(model)
            y = ((y - mean) / scale).astype(np.float32)
        module = _module(x.shape[1], settings)
        training.load_state(module, model)
        with training.seeded(seed):
            fitted = training.fit(module, x, y, _loss(settings), settings, context, seed, progress)
        fixed = {name: model[name] for name in (*table.FIXED, _LABEL_MEAN, _LABEL_SCALE) if name in model}
        return TrainResult(fixed | training.state_of(module), len(y), fitted.loss, fitted.events)

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """Return sums over the test rows."""
        settings = _settings(params)
        x, y = self._rows(model, data, params, data.test)
        said = _predictions(model, x, settings)
        if settings["task"] == Task.MULTICLASS:
            return multiclass_sums(y, said)
        return (binary_sums if settings["task"] == Task.BINARY else regression_sums)(y.astype(np.float64), said)

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """Probabilities [n] or [n, classes], or values [n], from raw columns."""
        return _predictions(model, table.inputs_of_rows(model, rows), _settings(params))

    def _rows(self, model: Tensors, data: Dataset, params: Params, rows: Array) -> tuple[Array, Array]:
        settings = _settings(params)
        x = table.inputs(model, data.columns, data.features[rows])
        y = data.label[rows]
        if settings["task"] == Task.REGRESSION:
            return x, y
        classes = settings["classes"] if settings["task"] == Task.MULTICLASS else 2
        if not np.isin(y, np.arange(classes)).all():
            raise RecipeError(
                f"the label holds values that are no class of task {settings['task']} (0 to {classes - 1}): for "
                "numbers set task: regression in the job's recipe params, for more classes task: multiclass and classes"
            )
        return x, y.astype(np.float32 if settings["task"] == Task.BINARY else np.int64)


RECIPE: Final = Tabular()


def _settings(params: Params) -> dict[str, Any]:
    if unknown := set(params) - set(_DEFAULTS):
        raise RecipeError(f"tabular has no parameter {', '.join(sorted(unknown))}")
    return {**_DEFAULTS, **params}


def _module(inputs: int, settings: Mapping[str, Any]) -> torch.nn.Module:
    from torch import nn

    outputs = settings["classes"] if settings["task"] == Task.MULTICLASS else 1
    if settings["model"] == "logistic":
        linear = nn.Linear(inputs, outputs)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(linear)
    layers: list[nn.Module] = []
    for width in settings["hidden"]:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _loss(settings: Mapping[str, Any]) -> training.Loss:
    from torch.nn import functional

    if settings["task"] == Task.MULTICLASS:
        return functional.cross_entropy
    chosen = functional.mse_loss if settings["task"] == Task.REGRESSION else functional.binary_cross_entropy_with_logits
    return lambda said, truth: chosen(said[:, 0], truth)


def _predictions(model: Tensors, x: Array, settings: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    module = _module(x.shape[1], settings)
    training.load_state(module, model)
    if not len(x):
        return np.zeros((0, settings["classes"]) if settings["task"] == Task.MULTICLASS else 0)
    said = training.outputs(module, x).astype(np.float64)
    if settings["task"] == Task.MULTICLASS:
        return training.softmax(said)
    if settings["task"] == Task.BINARY:
        return training.sigmoid(said[:, 0])
    mean, scale = _label_scale(model)
    return said[:, 0] * scale + mean


def _target(sums: npt.NDArray[np.float64] | None) -> Tensors:
    """Return the label's mean and scale over all sites as fixed tensors; without sums it is used unscaled."""
    if sums is None:
        return {_LABEL_MEAN: np.zeros(1), _LABEL_SCALE: np.ones(1)}
    summary = moments.summary_of(sums[-_LABEL_SUMS:].reshape(_LABEL_SUMS, 1))
    return {_LABEL_MEAN: summary.mean, _LABEL_SCALE: summary.scale}


def _label_scale(model: Tensors) -> tuple[float, float]:
    return float(model.get(_LABEL_MEAN, [0.0])[0]), float(model.get(_LABEL_SCALE, [1.0])[0])
