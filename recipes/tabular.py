"""Recipe `tabular`: linear, logistic or Cox regression, or a multilayer perceptron, on numbers and categories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from undersong.recipes.learner import ModelShape
from undersong.recipes.supervised import BINS
from undersong.recipes.torch_recipe import TORCH_FILES, TorchRecipe

if TYPE_CHECKING:
    import torch

_HERE: Final = Path(__file__).parent
_GROUPS: Final = 8  # of a layer's numbers, or fewer
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
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
    BINS: {
        "type": "integer",
        "minimum": 0,
        "maximum": 256,
        "default": 0,
        "description": "Intervals of each number, of about as many values over all sites: an input for each takes the "
        "place of the value. 0 takes the value.",
    },
    "dropout": {
        "type": "number",
        "minimum": 0,
        "maximum": 0.95,
        "default": 0.0,
        "description": "Share of each hidden layer's numbers that a step leaves out.",
    },
    "normalisation": {
        "enum": ["none", "batch", "group"],
        "default": "none",
        "description": "Normalise hidden layers: over the rows of a step, or each row alone, in groups.",
    },
}


def build(
    shape: ModelShape, model: str, hidden: Sequence[int], dropout: float, normalisation: str, **_: object
) -> torch.nn.Module:
    """Zeros for the linear model, torch's own draw for the MLP."""
    from torch import nn

    if model == "logistic":
        linear = nn.Linear(shape.inputs, shape.outputs)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(linear)
    layers: list[nn.Module] = []
    width = shape.inputs
    for following in hidden:
        layers.append(nn.Linear(width, following))
        if normalisation != "none":
            groups = math.gcd(following, _GROUPS)
            layers.append(nn.BatchNorm1d(following) if normalisation == "batch" else nn.GroupNorm(groups, following))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = following
    return nn.Sequential(*layers, nn.Linear(width, shape.outputs))


RECIPE: Final = TorchRecipe(
    [_HERE / name for name in ("tabular.py", *TORCH_FILES)],
    build=build,
    task=None,
    name="tabular",
    params=_PARAMETERS,
    record_params={"properties": {"normalisation": {"enum": ["none", "group"]}}},
    description="Linear, logistic or Cox regression or MLP on numbers and categories; missing values get a flag.",
)
