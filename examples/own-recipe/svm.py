"""Recipe `svm`: a linear support vector machine in plain numpy, as an example of a recipe of one's own.

Loss: mean of max(0, 1 - y f(x)) over a site's rows, plus penalty / 2 |w|^2, with y in {-1, 1} and f(x) = x w + b.
Number columns only; a missing value counts as the federation's mean.
"""

# ruff: noqa: ARG002  (every recipe takes what the protocol names, used or not)

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipe import (
    Array,
    Context,
    Dataset,
    DataShape,
    Model,
    Params,
    Progress,
    RecipeError,
    RecipeSpec,
    Schema,
    Task,
    Tensors,
    TrainResult,
    binary_sums,
    source_digest,
)

DEFAULTS: Final = {"steps": 20, "learning_rate": 0.1, "penalty": 0.01}


class Svm:
    """See the module."""

    def __init__(self) -> None:
        self.spec: RecipeSpec = RecipeSpec(
            name="svm",
            version="1",
            digest=source_digest(Path(__file__)),
            task=Task.BINARY,
            statistics=True,
            description="Linear support vector machine on number columns.",
            params_schema={
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "steps": {"type": "integer", "minimum": 1, "maximum": 10_000},
                    "learning_rate": {"type": "number", "exclusiveMinimum": 0},
                    "penalty": {"type": "number", "minimum": 0},
                },
            },
        )

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:
        """Per column: how many values are known, their sum, the sum of their squares. Sums only, never a row."""
        x = data.features[data.train]
        return np.concatenate([np.isfinite(x).sum(axis=0), np.nansum(x, axis=0), np.nansum(x * x, axis=0)])

    def initial(self, shape: DataShape, params: Params, context: Context, seed: int) -> Model:
        """Zeros; mean and scale are fixed tensors, which no round changes."""
        if any(column.type != "number" for column in shape.columns):
            raise RecipeError("svm takes number columns only")
        count, total, squares = np.asarray(context["statistics"]).reshape(3, -1)
        mean = total / np.maximum(count, 1)
        scale = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 1e-12))
        tensors = {
            "weights": np.zeros(mean.size, np.float32),
            "bias": np.zeros(1, np.float32),
            "mean": mean,
            "scale": scale,
        }
        return Model(Schema.of(tensors, fixed=["mean", "scale"]), tensors)

    def train(
        self, model: Tensors, data: Dataset, params: Params, context: Context, seed: int, progress: Progress
    ) -> TrainResult:
        """Full-batch subgradient steps."""
        settings = {**DEFAULTS, **params}
        x, y = _scaled(model, data.features[data.train]), np.where(data.label[data.train] > 0, 1.0, -1.0)
        w, b = model["weights"].astype(np.float64), float(model["bias"][0])
        for step in range(settings["steps"]):
            inside = y * (x @ w + b) < 1
            w = w - settings["learning_rate"] * (settings["penalty"] * w - (x[inside].T @ y[inside]) / len(y))
            b += settings["learning_rate"] * y[inside].sum() / len(y)
            progress((step + 1) / settings["steps"])
        loss = float(np.maximum(0, 1 - y * (x @ w + b)).mean())
        trained = {"weights": w.astype(np.float32), "bias": np.array([b], np.float32)}
        return TrainResult({**model, **trained}, len(y), loss)

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """Return counts over the test rows."""
        return binary_sums(data.label[data.test], _scores(model, data.features[data.test]))

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """Scores in 0..1; the columns in the order of the job's features."""
        return _scores(model, np.stack([np.asarray(values, np.float64) for values in rows.values()], axis=1))


RECIPE: Final = Svm()


def _scaled(model: Tensors, features: Array) -> Array:
    return np.nan_to_num((features - model["mean"]) / model["scale"])


def _scores(model: Tensors, features: Array) -> npt.NDArray[np.float64]:
    margin = _scaled(model, features) @ model["weights"].astype(np.float64) + float(model["bias"][0])
    return np.asarray(1 / (1 + np.exp(-np.clip(2 * margin, -50, 50))))
