"""Recipe `image`: a small convolutional or residual network with batch or group normalisation.

With batches, the running mean and variance are buffers: the federation averages them, and no server optimiser moves
them. Where noise protects records, each image is normalised alone, in groups of filters (Wu and He, Group
Normalization, ECCV 2018). Residual blocks are those of He et al., Deep Residual Learning (CVPR 2016), figure 5 left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from undersong.recipes.learner import ModelShape
from undersong.recipes.protocol import RecipeError
from undersong.recipes.supervised import IMAGE
from undersong.recipes.torch_recipe import TORCH_FILES, TorchRecipe
from undersong.shared.wire.profiles import ABOUT_TRAINING

if TYPE_CHECKING:
    import numpy as np
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
    "model": {
        "enum": ["cnn", "resnet"],
        "default": "cnn",
        "description": "cnn: convolutions with pooling between them; resnet: residual blocks.",
    },
    "channels": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 1024},
        "minItems": 1,
        "maxItems": 5,
        "default": [16, 32],
        "description": "Filters of each 3x3 convolution of cnn, followed by normalisation and 2x2 pooling; of resnet "
        "those of each stage, which halves height and width but for the first.",
    },
    "blocks": {
        "type": "integer",
        "minimum": 1,
        "maximum": 50,
        "default": 2,
        "description": "Blocks of two convolutions in each stage of resnet.",
    },
    "normalisation": {
        "enum": ["auto", "batch", "group", "none"],
        "default": "auto",
        "description": "Over which filters are normalised: the images of a step, or each image alone, in groups; auto: "
        "batch for cnn, group for resnet.",
    },
    "dropout": {
        "type": "number",
        "minimum": 0,
        "maximum": 0.95,
        "default": 0.0,
        "description": "Share of the numbers before the last layer that a step leaves out.",
    },
    "flip": {
        "type": "boolean",
        "default": False,
        "description": "Mirror half of a step's images, left to right.",
        "$comment": ABOUT_TRAINING,
    },
    "shift": {
        "type": "integer",
        "minimum": 0,
        "maximum": 64,
        "default": 0,
        "description": "Move each image of a step by up to so many pixels each way; what comes in is 0.",
        "$comment": ABOUT_TRAINING,
    },
}
_GROUPS: Final = 8  # of filters, or fewer
_TOGETHER: Final = 8  # filters of a group before the mean over an image, which is nothing for a group of one
_HALF: Final = 0.5


def build(
    shape: ModelShape,
    model: str,
    channels: Sequence[int],
    blocks: int,
    normalisation: str,
    dropout: float,
) -> torch.nn.Module:
    """Torch's own draw."""
    if model == "resnet":
        return _residual(shape, channels, blocks, "group" if normalisation == "auto" else normalisation, dropout)
    return _convolutional(shape, channels, "batch" if normalisation == "auto" else normalisation, dropout)


def _convolutional(shape: ModelShape, channels: Sequence[int], normalisation: str, dropout: float) -> torch.nn.Module:
    from torch import nn

    depth, height, width = shape.sample
    layers: list[nn.Module] = []
    for filters in channels:
        layers.append(nn.Conv2d(depth, filters, 3, padding=1, bias=normalisation == "none"))
        layers += [*_normalised(filters, normalisation, math.gcd(filters, _GROUPS)), nn.ReLU(), nn.MaxPool2d(2)]
        depth, height, width = filters, height // 2, width // 2
    if not height or not width:
        raise RecipeError(f"images of {shape.sample[1]}x{shape.sample[2]} are too small for {len(channels)} layers")
    dropped = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Flatten(), *dropped, nn.Linear(depth * height * width, shape.outputs))


def _normalised(filters: int, normalisation: str, groups: int) -> list[torch.nn.Module]:
    """Return the layer that normalises so many filters; none where none is wanted."""
    from torch import nn

    if normalisation == "none":
        return []
    return [nn.BatchNorm2d(filters) if normalisation == "batch" else nn.GroupNorm(groups, filters)]


def _residual(
    shape: ModelShape, channels: Sequence[int], blocks: int, normalisation: str, dropout: float
) -> torch.nn.Module:
    import torch
    from torch import nn

    def convolution(before: int, after: int, kernel: int, stride: int) -> list[nn.Module]:
        bias = normalisation == "none"
        made = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=bias)
        return [made, *_normalised(after, normalisation, math.gcd(after, max(1, after // _TOGETHER)))]

    class Block(nn.Module):
        """Two convolutions, and a way around them."""

        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            first = convolution(before, after, 3, stride)
            self.path = nn.Sequential(*first, nn.ReLU(), *convolution(after, after, 3, 1))
            same = before == after and stride == 1
            self.around = nn.Identity() if same else nn.Sequential(*convolution(before, after, 1, stride))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.path(x) + self.around(x))

    depth = channels[0]
    layers = [*convolution(shape.sample[0], depth, 3, 1), nn.ReLU()]
    for stage, filters in enumerate(channels):
        for block in range(blocks):
            layers.append(Block(depth, filters, 2 if stage and not block else 1))
            depth = filters
    dropped = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dropped, nn.Linear(depth, shape.outputs))


def augment(x: torch.Tensor, random: np.random.Generator, flip: bool, shift: int) -> torch.Tensor:
    """Return images [n, channels, height, width] mirrored and moved, each by its own draw."""
    import torch
    from torch.nn.functional import pad

    count, _, height, width = x.shape
    if flip:
        mirrored = torch.from_numpy(random.random(count) < _HALF).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    if shift:
        down, right = torch.from_numpy(random.integers(0, 2 * shift + 1, (2, count))).to(x.device)
        rows = down[:, None] + torch.arange(height, device=x.device)
        columns = right[:, None] + torch.arange(width, device=x.device)
        which = torch.arange(count, device=x.device)[:, None, None]
        moved = pad(x, (shift, shift, shift, shift))[which, :, rows[:, :, None], columns[:, None, :]]
        x = moved.permute(0, 3, 1, 2)
    return x


RECIPE: Final = TorchRecipe(
    [_HERE / name for name in ("image.py", *TORCH_FILES)],
    build=build,
    augment=augment,
    task="multiclass",
    inputs=IMAGE,
    name="image",
    params=_PARAMETERS,
    record_params={
        "properties": {"normalisation": {"enum": ["group", "none"]}, "flip": {"const": False}, "shift": {"const": 0}}
    },
    description="Small CNN or residual network with normalisation for images of one size.",
)
