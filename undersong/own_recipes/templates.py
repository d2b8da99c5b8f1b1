"""First texts of recipes, each complete: it passes `undersong recipe check` as it is."""

from typing import Final

TEMPLATES: Final = {
    "torch": '''"""Recipe `{name}`: a neural network for numbers and categories."""

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
''',
    "sklearn": '''"""Recipe `{name}`: a linear model of scikit-learn, which must be installed beside the agents."""

from sklearn.linear_model import SGDClassifier

from undersong.recipe import SklearnRecipe


def make(loss: str = "log_loss", alpha: float = 0.0001) -> SGDClassifier:
    """A linear model that each site trains on from the federation's."""
    return SGDClassifier(loss=loss, alpha=alpha)


RECIPE = SklearnRecipe(__file__, make=make, task="binary")
''',
    "numpy": '''"""Recipe `{name}`: logistic regression in plain numpy."""

import numpy as np

from undersong.recipe import NumpyRecipe


def fit(model, x, y, steps: int = 20, rate: float = 0.5):
    """Take steps of logistic regression over all rows."""
    weights, bias = model["weights"], model["bias"]
    for _ in range(steps):
        error = (predict({{"weights": weights, "bias": bias}}, x) - y)[:, None]
        weights, bias = weights - rate * x.T @ error / len(y), bias - rate * error.mean(axis=0)
    return {{"weights": weights, "bias": bias}}


def predict(model, x):
    """Return the probability of class 1, float[rows]."""
    return 1 / (1 + np.exp(-(x @ model["weights"] + model["bias"])[:, 0]))


RECIPE = NumpyRecipe(__file__, fit=fit, predict=predict, task="binary")
''',
}
"""Texts by kind; `{name}` is the recipe's name."""
