"""A recipe whose every change of the model is random, and is written down where a test can find it."""

import os
from pathlib import Path

import numpy as np

from undersong.recipes.protocol import TrainResult, source_digest
from undersong.shared.learning.metrics import layout_length
from undersong.shared.learning.tensors import Model, Schema
from undersong.shared.wire.profiles import RecipeSpec, Task

LENGTH = 2000


class Canary:
    def __init__(self):
        self.spec = RecipeSpec(name="canary", version="1", digest=source_digest(Path(__file__)), task=Task.BINARY)

    def statistics(self, data, params, seed):
        return np.array([1.0])

    def initial(self, shape, params, context, seed):
        tensors = {"weights": np.zeros(LENGTH, np.float32)}
        return Model(Schema.of(tensors), tensors)

    def evaluate(self, model, data, params, context):
        return np.zeros(layout_length("binary"))

    def predict(self, model, rows, params):
        return np.zeros(0)

    def train(self, model, data, params, context, seed, progress):
        delta = np.random.default_rng(int.from_bytes(os.urandom(16), "little")).normal(0, 0.01, LENGTH)
        old = np.asarray(model["weights"])
        new = (old + delta).astype(np.float32)
        np.savez(
            f"{params['name']}-{os.urandom(8).hex()}.npz", new=new, delta=new - old
        )  # at home: nowhere else may it
        return TrainResult({"weights": new}, 10, 0.25)


RECIPE = Canary()
