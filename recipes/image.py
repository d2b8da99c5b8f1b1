"""Recipe `image`: a small convolutional network with batch or group normalisation.

With batches, the running mean and variance are buffers: the federation averages them, and no server optimiser moves
them. Where noise protects records, each image is normalised alone, in groups of filters (Wu and He, Group
Normalization, ECCV 2018).
"""

# ruff: noqa: ARG002  (every recipe takes what the protocol names, used or not)

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes import training
from undersong.recipes.datasets import SOURCES, images_of
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
from undersong.shared.learning.metrics import multiclass_sums
from undersong.shared.learning.tensors import Model, Schema
from undersong.shared.wire.profiles import RecipeSpec, Task

if TYPE_CHECKING:
    import torch

_HERE: Final = Path(__file__).parent
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    **training.SCHEMA,
    "classes": {
        "type": "integer",
        "minimum": 2,
        "maximum": 1000,
        "default": 10,
        "description": "Classes of the label.",
    },
    "channels": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 1024},
        "minItems": 1,
        "maxItems": 5,
        "default": [16, 32],
        "description": "Filters of each 3x3 convolution; each is followed by normalisation and 2x2 pooling.",
    },
    "normalisation": {
        "enum": ["batch", "group"],
        "default": "batch",
        "description": "Over which filters are normalised: the images of a step, or each image alone, in groups.",
    },
}
_DEFAULTS: Final = training.defaults(_PARAMETERS)
_GROUPS: Final = 8  # of filters, or fewer
_SCHEMA: Final[dict[str, Any]] = {"type": "object", "additionalProperties": False, "properties": _PARAMETERS}


class Image:
    """See the module."""

    def __init__(self) -> None:
        files = [_HERE / name for name in ("image.py", "training.py", "noisy_steps.py", "protocol.py", *SOURCES)]
        self.spec: RecipeSpec = RecipeSpec(
            name="image",
            version="1",
            digest=source_digest(*files),
            task=Task.MULTICLASS,
            params_schema=_SCHEMA,
            statistics=False,
            inputs=("image",),
            description="Small CNN with normalisation for images of one size.",
            classes=_DEFAULTS["classes"],
            record_params={"properties": {"normalisation": {"const": "group"}}},
        )

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:
        """Return nothing: this recipe needs none."""
        raise RecipeError("image has no statistics round")

    def initial(self, shape: DataShape, params: Params, context: Context, seed: int) -> Model:
        """Torch's own draw by seed."""
        if shape.sample is None:
            raise RecipeError("image needs a data set with one image column")
        with training.seeded(seed):
            tensors = training.state_of(_module(shape.sample, _settings(params)))
        buffers = [name for name in tensors if name.endswith(("running_mean", "running_var"))]
        return Model(Schema.of(tensors, buffers=buffers), tensors)

    def train(
        self, model: Tensors, data: Dataset, params: Params, context: Context, seed: int, progress: Progress
    ) -> TrainResult:
        """Local SGD on the training rows."""
        settings = _settings(params)
        x, y = data.features[data.train], _classes(data.label[data.train], settings)
        if not len(y):
            raise RecipeError("the data set has no training rows")
        module = _loaded(model, x.shape[1:], settings)
        from torch.nn import functional

        with training.seeded(seed):
            fitted = training.fit(module, x, y, functional.cross_entropy, settings, context, seed, progress)
        return TrainResult(training.state_of(module), len(y), fitted.loss, fitted.events)

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """Return sums over the test rows."""
        settings = _settings(params)
        y = _classes(data.label[data.test], settings)
        return multiclass_sums(y, _probabilities(model, data.features[data.test], settings))

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """Probabilities [n, classes] from the only column of `rows`."""
        if len(rows) != 1:
            raise RecipeError("give exactly one column of images")
        return _probabilities(model, images_of(np.asarray(next(iter(rows.values())))), _settings(params))


RECIPE: Final = Image()


def _settings(params: Params) -> dict[str, Any]:
    if unknown := set(params) - set(_DEFAULTS):
        raise RecipeError(f"image has no parameter {', '.join(sorted(unknown))}")
    return {**_DEFAULTS, **params}


def _module(sample: tuple[int, ...], settings: Mapping[str, Any]) -> torch.nn.Module:
    from torch import nn

    depth, height, width = sample
    layers: list[nn.Module] = []
    for filters in settings["channels"]:
        layers += [nn.Conv2d(depth, filters, 3, padding=1, bias=False), _normalisation(filters, settings), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        depth, height, width = filters, height // 2, width // 2
    if not height or not width:
        raise RecipeError(f"images of {sample[1]}x{sample[2]} are too small for {len(settings['channels'])} layers")
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(depth * height * width, settings["classes"]))


def _normalisation(filters: int, settings: Mapping[str, Any]) -> torch.nn.Module:
    from torch import nn

    if settings["normalisation"] == "batch":
        return nn.BatchNorm2d(filters)
    return nn.GroupNorm(math.gcd(filters, _GROUPS), filters)


def _loaded(model: Tensors, sample: tuple[int, ...], settings: Mapping[str, Any]) -> torch.nn.Module:
    module = _module(sample, settings)
    training.load_state(module, model)
    return module


def _classes(labels: Array, settings: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    if not np.isin(labels, np.arange(settings["classes"])).all():
        raise RecipeError("the label holds values that are no class")
    return labels.astype(np.int64)


def _probabilities(model: Tensors, x: Array, settings: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    if not len(x):
        return np.zeros((0, settings["classes"]))
    return training.softmax(training.outputs(_loaded(model, x.shape[1:], settings), x).astype(np.float64))
