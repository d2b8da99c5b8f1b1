"""Recipe `slope`: logistic regression by noisy gradient steps in numpy, so that no test waits for torch."""

from pathlib import Path

import numpy as np

import undersong.recipe as own


class Slope:
    """See the module."""

    spec = own.RecipeSpec(
        name="slope",
        version="1",
        digest=own.source_digest(Path(__file__)),
        task=own.Task.BINARY,
        statistics=True,
        params_schema={
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "learning_rate": {"type": "number", "default": 0.5},
                "break_above": {"type": "number"},
                "keeps": {"type": "boolean"},
            },
        },
    )

    def statistics(self, data, params, seed):
        rows = data.features[data.train]
        return np.concatenate([[len(rows)], rows.sum(axis=0), (rows**2).sum(axis=0)])

    def initial(self, shape, params, context, seed):
        count, *sums = context["statistics"]
        scale = np.sqrt(np.array(sums[len(shape.columns) :]) / count)
        tensors = {"weights": np.zeros(len(shape.columns), np.float32), "scale": scale}
        return own.Model(own.Schema.of(tensors, fixed=["scale"]), tensors)

    def train(self, model, data, params, context, seed, progress):
        if len(data.train) > params.get("break_above", np.inf):
            raise own.RecipeError("this client has more rows than the test allows")
        random, weights = np.random.default_rng(seed), model["weights"].astype(np.float64)
        weights += 0.01 * _rounds(data)  # what a client keeps moves what it sends
        for row in random.permutation(data.train):
            x = data.features[row] / model["scale"]
            weights += params.get("learning_rate", 0.5) * 0.1 * (data.label[row] - _sigmoid(x @ weights)) * x
        progress(1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            made, loss = weights.astype(np.float32), float(np.abs(weights).sum())
        kept = {"own": made, "rounds": _rounds(data) + 1} if params.get("keeps") else {}
        return own.TrainResult({**model, "weights": made}, len(data.train), loss, local=kept)

    def evaluate(self, model, data, params, context):
        x, model = (
            data.features[data.test] / model["scale"],
            {**model, "weights": data.local.get("own", model["weights"])},
        )
        return own.binary_sums(data.label[data.test], _sigmoid(x @ model["weights"].astype(np.float64)))

    def predict(self, model, rows, params):
        return _sigmoid(np.stack(list(rows.values()), axis=1) / model["scale"] @ model["weights"])


def _rounds(data):
    return data.local.get("rounds", np.zeros(1))


def _sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


RECIPE = Slope()
