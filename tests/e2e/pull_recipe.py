"""Recipe `pull`: moves one number half the way to the mean of a site's own, after so many seconds as its rows say."""

import time
from pathlib import Path

import numpy as np

import undersong.recipe as own


class Pull:
    """See the module."""

    spec = own.RecipeSpec(
        name="pull",
        version="1",
        digest=own.source_digest(Path(__file__)),
        task=own.Task.REGRESSION,
        params_schema={"type": "object", "additionalProperties": False, "properties": {"odd": {"type": "boolean"}}},
    )

    def statistics(self, data, params, seed):
        raise own.RecipeError("pull has no statistics round")

    def initial(self, shape, params, context, seed):
        tensors = {"w": np.zeros(1, np.float32)}
        return own.Model(own.Schema.of(tensors), tensors)

    def train(self, model, data, params, context, seed, progress):
        until = time.monotonic() + float(data.features[data.train][:, 0].astype(float).mean())
        while time.monotonic() < until:
            progress(0.5)
            time.sleep(0.05)
        goal = np.float32(data.label[data.train].mean())
        return own.TrainResult({"w": model["w"] + (goal - model["w"]) / 2}, len(data.train), float(abs(goal)))

    def evaluate(self, model, data, params, context):
        truth = data.label[data.test]
        return own.regression_sums(truth, np.full(len(truth), float(model["w"][0])))

    def predict(self, model, rows, params):
        return np.full(max(map(len, rows.values())), float(model["w"][0]))


RECIPE = Pull()
