"""MNIST for benchmarks, from the folder `shared/data` beside the project; without it figures are left out."""

from pathlib import Path
from typing import Any

import numpy as np

from undersong.recipes.protocol import Column, Dataset

FILE = Path(__file__).parents[3] / "shared" / "data" / "mnist.npz"
RECIPE = Path(__file__).with_name("two_layer.py")


def mnist() -> Dataset:
    """60,000 training and 10,000 test images, pixels 0..1, in one data set; raises FileNotFoundError."""
    with np.load(FILE) as found:
        images = np.concatenate([found["x_train"], found["x_test"]])[:, None] / np.float32(255)
        labels = np.concatenate([found["y_train"], found["y_test"]]).astype(np.float64)
    columns = (Column(name="pixels", type="image", shape=(1, 28, 28), dtype="uint8"),)
    return Dataset("mnist", columns, images, labels, np.arange(60_000), np.arange(60_000, 70_000), "digit")


def mnist_job(name: str, rounds: int, **changes: Any) -> dict[str, Any]:
    """A job on it."""
    return {
        "name": name,
        "model": {"name": name},
        "recipe": {"name": "two-layer", "params": {}},
        "data": {"dataset": "mnist", "label": "digit"},
        "rounds": rounds,
        "evaluation": {"every": 0},
        **changes,
    }
