"""Recipe `two-layer`: McMahan et al.'s 2NN for MNIST (784-200-200-10), or with no hidden layer softmax regression.

`inputs`: pixels of an image, of other images than MNIST's.
"""

from collections.abc import Sequence

from torch import nn
from torch.nn.functional import cross_entropy

from undersong.recipe import IMAGE, ModelShape, TorchRecipe


def build(shape: ModelShape, hidden: Sequence[int] = (200, 200), inputs: int = 784) -> nn.Module:
    """Layers of these widths."""
    layers, width = [nn.Flatten()], inputs
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, shape.outputs))


RECIPE = TorchRecipe(__file__, build=build, loss=cross_entropy, task="multiclass", classes=10, inputs=IMAGE)
