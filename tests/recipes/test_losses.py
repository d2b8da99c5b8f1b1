"""Losses against their formulas in numpy, and as means of what single rows give."""

from typing import Any

import numpy as np
import pytest

from undersong.recipes.losses import loss_of
from undersong.recipes.protocol import RecipeError
from undersong.shared.wire.profiles import Task

RANDOM = np.random.default_rng(0)
LOGITS, CLASSES = RANDOM.normal(size=(50, 3)).astype(np.float32), RANDOM.integers(0, 3, 50)
SAID, VALUES = RANDOM.normal(size=(50, 1)).astype(np.float32), RANDOM.normal(size=50).astype(np.float32)
SETTINGS = {"loss": "auto", "class_weights": [], "focal_gamma": 2.0, "huber_delta": 0.7, "quantile": 0.9}


def value(task: Task, said: Any, truth: Any, **settings: Any) -> float:
    import torch  # not at the top: each worker collects this file

    loss = loss_of(task, 3 if task is Task.MULTICLASS else 2, SETTINGS | settings)
    whole = float(loss(torch.from_numpy(said), torch.from_numpy(truth)))
    rows = [float(loss(torch.from_numpy(said[at, None]), torch.from_numpy(truth[at, None]))) for at in range(len(said))]
    assert whole == pytest.approx(np.mean(rows), rel=1e-5), "it is the mean of what single rows give"
    return whole


def test_losses_of_classes() -> None:
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    right = p[np.arange(50), CLASSES]
    weights = np.array([1.0, 2.0, 5.0])
    assert value(Task.MULTICLASS, LOGITS, CLASSES) == pytest.approx(-np.log(right).mean(), rel=1e-5)
    weighted = (-np.log(right) * weights[CLASSES]).mean()
    assert value(Task.MULTICLASS, LOGITS, CLASSES, class_weights=weights.tolist()) == pytest.approx(weighted, rel=1e-5)
    focal = ((1 - right) ** 2 * -np.log(right)).mean()
    assert value(Task.MULTICLASS, LOGITS, CLASSES, loss="focal") == pytest.approx(focal, rel=1e-5)
    two = (CLASSES > 0).astype(np.float32)
    one = 1 / (1 + np.exp(-SAID[:, 0]))
    right = np.where(two > 0, one, 1 - one)
    focal = ((1 - right) ** 1.5 * -np.log(right) * np.where(two > 0, 3.0, 1.0)).mean()
    found = value(Task.BINARY, SAID, two, loss="focal", focal_gamma=1.5, class_weights=[1.0, 3.0])
    assert found == pytest.approx(focal, rel=1e-5)
    with pytest.raises(RecipeError, match="2 classes: give one for each"):
        loss_of(Task.BINARY, 2, SETTINGS | {"class_weights": [1.0]})


def test_losses_of_numbers() -> None:
    error = (VALUES - SAID[:, 0]).astype(np.float64)
    huber = np.where(np.abs(error) <= 0.7, error**2 / 2, 0.7 * (np.abs(error) - 0.35)).mean()
    pinball = np.where(error > 0, 0.9 * error, -0.1 * error).mean()
    wanted = {"auto": (error**2).mean(), "squared": (error**2).mean(), "absolute": np.abs(error).mean()}
    for name, number in {**wanted, "huber": huber, "quantile": pinball}.items():
        assert value(Task.REGRESSION, SAID, VALUES, loss=name) == pytest.approx(number, rel=1e-5), name
