"""MNIST and CIFAR-10 for benchmarks, from the folder `shared/data` beside the project; else figures are left out."""

import itertools
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from undersong.recipes.protocol import Column, Dataset

FILE = Path(__file__).parents[3] / "shared" / "data" / "mnist.npz"
CIFAR = FILE.with_name("cifar10_jpeg.npz")
RECIPE = Path(__file__).with_name("two_layer.py")


def mnist() -> Dataset:
    """60,000 training and 10,000 test images, pixels 0..1, in one data set; raises FileNotFoundError."""
    with np.load(FILE) as found:
        images = np.concatenate([found["x_train"], found["x_test"]])[:, None] / np.float32(255)
        labels = np.concatenate([found["y_train"], found["y_test"]]).astype(np.float64)
    columns = (Column(name="pixels", type="image", shape=(1, 28, 28), dtype="uint8"),)
    return Dataset("mnist", columns, images, labels, np.arange(60_000), np.arange(60_000, 70_000), "digit")


def cifar10() -> Dataset:
    """50,000 training and 10,000 test images, packed by JPEG, so no figure of others compares; FileNotFoundError."""
    from PIL import Image

    images, labels = [], []
    with np.load(CIFAR) as found:
        for part in ("train", "test"):
            packed, offsets = found[f"jpeg_{part}"].tobytes(), found[f"offset_{part}"]
            places = itertools.pairwise(offsets)
            images += [np.asarray(Image.open(BytesIO(packed[start:end]))) for start, end in places]
            labels.append(found[f"y_{part}"])
    pixels = np.moveaxis(np.stack(images), 3, 1) / np.float32(255)
    columns = (Column(name="pixels", type="image", shape=(3, 32, 32), dtype="uint8"),)
    classes = np.concatenate(labels).astype(np.float64)
    return Dataset("cifar10", columns, pixels, classes, np.arange(50_000), np.arange(50_000, 60_000), "object")


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
