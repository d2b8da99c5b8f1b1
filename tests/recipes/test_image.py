"""The image recipe on scikit-learn's handwritten digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from undersong.recipes.image import RECIPE
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.shared.learning.metrics import evaluation_layout, metrics_of
from undersong.shared.learning.tensors import TensorRole, difference, unflatten
from undersong.shared.wire.profiles import Column

PARAMS = {"channels": [8, 16], "learning_rate": 0.1, "epochs": 2}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    x, y = load_digits(return_X_y=True)
    images = (x.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    rows = np.random.default_rng(0).permutation(len(y))
    columns = (Column(name="x", type="image"),)
    return Dataset("digits", columns, images, y.astype(float), rows[:900], rows[900:1300], "y")


def test_two_sites_learn_together_with_averaged_buffers(digits: Dataset) -> None:
    model = RECIPE.initial(digits.shape, PARAMS, {}, 0)
    roles = {spec.name: spec.role for spec in model.schema.tensors}
    assert roles["1.running_mean"] is TensorRole.BUFFER
    assert roles["1.num_batches_tracked"] is TensorRole.FIXED
    assert model.tensors["1.num_batches_tracked"].shape == ()
    sites = [
        Dataset("s", digits.columns, digits.features, digits.label, rows, digits.test)
        for rows in np.array_split(digits.train, 2)
    ]
    tensors = model.tensors
    for number in range(3):
        results = [RECIPE.train(tensors, site, PARAMS, {}, number, lambda _: None) for site in sites]
        change = np.mean([difference(model.schema, r.tensors, tensors) for r in results], axis=0)
        base = difference(
            model.schema, tensors, unflatten(model.schema, np.zeros(model.schema.length, np.float32), tensors)
        )
        tensors = unflatten(model.schema, base + change, tensors)
    assert tensors["1.num_batches_tracked"] == 0
    assert (tensors["1.running_var"] > 0).all()
    found = metrics_of(evaluation_layout(RECIPE.spec, PARAMS), RECIPE.evaluate(tensors, digits, PARAMS, {}))
    assert found["accuracy"] > 0.9
    assert RECIPE.predict(tensors, {"x": digits.features[:3]}, PARAMS).shape == (3, 10)


def test_same_seed_same_model(digits: Dataset) -> None:
    model = RECIPE.initial(digits.shape, PARAMS, {}, 5)
    small = Dataset("s", digits.columns, digits.features, digits.label, digits.train[:64], digits.test)
    one, two = (RECIPE.train(model.tensors, small, PARAMS, {}, 1, lambda _: None).tensors for _ in range(2))
    assert not difference(model.schema, one, two).any()
    assert difference(model.schema, RECIPE.initial(digits.shape, PARAMS, {}, 6).tensors, model.tensors).any()


def test_what_cannot_be_trained_is_refused(digits: Dataset) -> None:
    with pytest.raises(RecipeError, match="too small"):
        RECIPE.initial(digits.shape, {"channels": [1, 1, 1, 1]}, {}, 0)
    with pytest.raises(RecipeError, match="one image column"):
        RECIPE.initial(Dataset("t", (), np.zeros((1, 0)), np.zeros(1), digits.train, digits.test).shape, {}, {}, 0)
    with pytest.raises(RecipeError, match="no class"):
        RECIPE.evaluate(RECIPE.initial(digits.shape, PARAMS, {}, 0).tensors, digits, {**PARAMS, "classes": 5}, {})
    with pytest.raises(RecipeError, match="statistics"):
        RECIPE.statistics(digits, {}, 0)
    with pytest.raises(RecipeError, match="filters"):
        RECIPE.initial(digits.shape, {"filters": [1]}, {}, 0)
    with pytest.raises(RecipeError, match="exactly one"):
        RECIPE.predict({}, {}, {})
