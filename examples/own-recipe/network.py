"""Recipe `network`: a neural network for numbers and categories."""

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from undersong.recipe import ModelShape, TorchRecipe


def build(shape: ModelShape, hidden: int = 16, dropout: float = 0.1) -> nn.Module:
    """Two layers with dropout."""
    first, last = nn.Linear(shape.inputs, hidden), nn.Linear(hidden, shape.outputs)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), last)


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, the mean over rows."""
    return binary_cross_entropy_with_logits(outputs[:, 0], labels)


RECIPE = TorchRecipe(__file__, build=build, loss=loss, task="binary")
