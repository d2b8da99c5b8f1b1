"""A site's own recipe that needs a package of the site, which happens to be called `shared`."""

from pathlib import Path

import numpy as np

import shared  # noqa: TID251 (not ours: that is the point)
import undersong.recipe as own


class Theirs:
    """Adds one in each round, as long as `shared` is the site's own."""

    spec = own.RecipeSpec(
        name="theirs", version="1", digest=own.source_digest(Path(__file__)), task=own.Task.BINARY, statistics=False
    )

    def statistics(self, data, params, seed):
        raise own.RecipeError("there is no statistics round")

    def initial(self, shape, params, context, seed):
        tensors = {"weights": np.zeros(4, np.float32)}
        return own.Model(own.Schema.of(tensors), tensors)

    def evaluate(self, model, data, params, context):
        raise own.RecipeError("there is no evaluation")

    def predict(self, model, rows, params):
        return np.zeros(0)

    def train(self, model, data, params, context, seed, progress):
        if shared.OWNER != "another project's":
            raise own.RecipeError("this is another package of that name")
        return own.TrainResult({"weights": model["weights"] + np.float32(1)}, 10, 0.0)


RECIPE = Theirs()
