"""Recipe `networks`: the two networks of McMahan et al. (2017) for digits, and a small one for colour images."""

from typing import Literal

from torch import nn
from torch.nn.functional import cross_entropy

from undersong.recipe import IMAGE, ModelShape, TorchRecipe


def build(shape: ModelShape, model: Literal["2nn", "cnn", "small-cnn"] = "2nn") -> nn.Module:
    """Two hidden layers of 200, two 5x5 convolutions before 512, or three 3x3 convolutions before 64."""
    depth, height, width = shape.sample
    if model == "2nn":
        hidden = [nn.Linear(shape.inputs, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(200, shape.outputs))
    size, filters, last = (5, [32, 64], 512) if model == "cnn" else (3, [32, 64, 64], 64)
    layers: list[nn.Module] = []
    for each in filters:
        layers += [nn.Conv2d(depth, each, size, padding=size // 2), nn.ReLU(), nn.MaxPool2d(2)]
        depth, height, width = each, height // 2, width // 2
    dense = [nn.Linear(depth * height * width, last), nn.ReLU(), nn.Linear(last, shape.outputs)]
    return nn.Sequential(*layers, nn.Flatten(), *dense)


RECIPE = TorchRecipe(__file__, build=build, loss=cross_entropy, task="multiclass", classes=10, inputs=IMAGE)
