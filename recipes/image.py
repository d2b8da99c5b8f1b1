"""Recipe `image`: a small convolutional network with batch or group normalisation.

With batches, the running mean and variance are buffers: the federation averages them, and no server optimiser moves
them. Where noise protects records, each image is normalised alone, in groups of filters (Wu and He, Group
Normalization, ECCV 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from undersong.recipes.protocol import RecipeError
from undersong.recipes.supervised import IMAGE, ModelShape
from undersong.recipes.torch_recipe import TORCH_FILES, TorchRecipe

if TYPE_CHECKING:
    import torch

_HERE: Final = Path(__file__).parent
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
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
        "enum": ["batch", "group", "none"],
        "default": "batch",
        "description": "Over which filters are normalised: the images of a step, or each image alone, in groups.",
    },
    "dropout": {
        "type": "number",
        "minimum": 0,
        "maximum": 0.95,
        "default": 0.0,
        "description": "Share of the numbers before the last layer that a step leaves out.",
    },
}
_GROUPS: Final = 8  # of filters, or fewer


def build(shape: ModelShape, channels: Sequence[int], normalisation: str, dropout: float) -> torch.nn.Module:
    """Torch's own draw."""
    from torch import nn

    depth, height, width = shape.sample
    layers: list[nn.Module] = []
    for filters in channels:
        plain = normalisation == "none"
        layers.append(nn.Conv2d(depth, filters, 3, padding=1, bias=plain))
        if not plain:
            groups = math.gcd(filters, _GROUPS)
            layers.append(nn.BatchNorm2d(filters) if normalisation == "batch" else nn.GroupNorm(groups, filters))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        depth, height, width = filters, height // 2, width // 2
    if not height or not width:
        raise RecipeError(f"images of {shape.sample[1]}x{shape.sample[2]} are too small for {len(channels)} layers")
    dropped = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Flatten(), *dropped, nn.Linear(depth * height * width, shape.outputs))


RECIPE: Final = TorchRecipe(
    [_HERE / name for name in ("image.py", *TORCH_FILES)],
    build=build,
    task="multiclass",
    inputs=IMAGE,
    name="image",
    params=_PARAMETERS,
    record_params={"properties": {"normalisation": {"enum": ["group", "none"]}}},
    description="Small CNN with normalisation for images of one size.",
)
