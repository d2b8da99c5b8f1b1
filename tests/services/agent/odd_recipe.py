"""A recipe that misbehaves as its parameters say."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from undersong.recipes.protocol import RecipeError, TrainResult, source_digest
from undersong.shared.learning.metrics import layout_length
from undersong.shared.learning.tensors import Model, Schema
from undersong.shared.wire.profiles import RecipeSpec, Task


class Odd:
    def __init__(self):
        self.spec = RecipeSpec(
            name="odd", version="1", digest=source_digest(Path(__file__)), task=Task.BINARY, statistics=True
        )

    def statistics(self, data, params, seed):
        return np.array([3.0, -1.5])

    def initial(self, shape, params, context, seed):
        tensors = {"weights": np.zeros(4, np.float32)}
        return Model(Schema.of(tensors), tensors)

    def evaluate(self, model, data, params, context):
        return np.zeros(layout_length("binary"))

    def predict(self, model, rows, params):
        return np.zeros(0)

    def train(self, model, data, params, context, seed, progress):
        print(f"training in {os.getpid()}")
        how = params.get("how", "")
        if how == "crash":
            os._exit(7)
        if how == "raise":
            raise ValueError("could not convert 'Smith, 1956' to a number")
        if how == "refuse":
            raise RecipeError("odd cannot work with how=refuse")
        if how == "memory":
            np.ones(int(params["bytes"]) // 8).sum()
        if how == "fork":
            code = "import time; time.sleep(600)"
            alone = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
            print("left", *(process.pid for process in alone))
        progress(0.5)
        time.sleep(float(params.get("sleep_s", 0)))
        made = {name: array + np.float32(params.get("add", 0.0)) for name, array in model.items()}
        if how == "nan":
            made = {name: array * np.float32("nan") for name, array in made.items()}
        if how == "shape":
            made = {"weights": np.zeros(9, np.float32)}
        return TrainResult(made, 10, 0.25)


RECIPE = Odd()
