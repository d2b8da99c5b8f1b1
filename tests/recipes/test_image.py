"""The image recipe on scikit-learn's handwritten digits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from undersong.recipes.image import RECIPE, augment
from undersong.recipes.learner import ModelShape
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.recipes.supervised import IMAGE
from undersong.recipes.torch_recipe import TorchRecipe
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


def test_a_residual_network_learns_with_changed_images_by_seed(digits: Dataset) -> None:
    """Normalised in groups by default, so that no mean over batches travels; changes follow the round's seed."""
    params = {"model": "resnet", "channels": [8, 16], "blocks": 1, "learning_rate": 0.1, "epochs": 3, "shift": 1}
    model = RECIPE.initial(digits.shape, params, {}, 0)
    assert not [spec.name for spec in model.schema.tensors if spec.role is TensorRole.BUFFER]
    small = Dataset("s", digits.columns, digits.features, digits.label, digits.train[:64], digits.test)
    short = params | {"epochs": 1}
    same, again, other, plain = (
        RECIPE.train(model.tensors, small, short | more, {}, seed, lambda _: None).tensors
        for seed, more in ((1, {}), (1, {}), (2, {}), (1, {"shift": 0}))
    )
    assert not difference(model.schema, same, again).any()
    assert difference(model.schema, same, other).any()
    assert difference(model.schema, same, plain).any()
    longer = params | {"optimiser": "adam", "learning_rate": 0.01, "epochs": 5, "shift": 0}
    made = RECIPE.train(model.tensors, digits, longer, {}, 1, lambda _: None)
    found = metrics_of(evaluation_layout(RECIPE.spec, params), RECIPE.evaluate(made.tensors, digits, params, {}))
    assert found["accuracy"] > 0.6
    batches = RECIPE.initial(digits.shape, params | {"normalisation": "batch"}, {}, 0)
    assert [spec.name for spec in batches.schema.tensors if spec.role is TensorRole.BUFFER]


def test_images_are_mirrored_and_moved_each_by_its_own_draw() -> None:
    x = torch.arange(1.0, 13).reshape(1, 1, 3, 4).repeat(200, 2, 1, 1)
    assert torch.equal(augment(x, np.random.default_rng(0), flip=False, shift=0), x)
    flipped = augment(x, np.random.default_rng(0), flip=True, shift=0)
    assert 60 < (flipped[:, 0, 0, 0] == 4).sum().item() < 140
    assert torch.equal(flipped, torch.where((flipped[:, :1, :1, :1] == 4), x.flip(3), x))
    moved = augment(x, np.random.default_rng(0), flip=False, shift=2)
    assert moved.shape == x.shape
    assert torch.equal(moved[:, 0], moved[:, 1])
    places = [tuple(np.argwhere(image == 6)[0]) for image in moved[:, 0].numpy() if 6 in image and 7 in image]
    after = [tuple(np.argwhere(image == 7)[0]) for image in moved[:, 0].numpy() if 6 in image and 7 in image]
    assert [(row, column + 1) for row, column in places] == after, "neighbours stay neighbours"
    assert len({image.tobytes() for image in moved[:, 0].numpy()}) > 15


def test_an_own_recipe_changes_its_rows_before_each_step(tmp_path: Path, digits: Dataset) -> None:
    """Its parameters are the job's; rows that are evaluated stay as they are."""
    seen = []

    def noisy(x: torch.Tensor, random: np.random.Generator, scale: float = 0.5) -> torch.Tensor:
        seen.append(scale)
        return x + scale * torch.from_numpy(random.normal(size=x.shape).astype(np.float32))

    def build(shape: ModelShape) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape.inputs, shape.outputs))

    (tmp_path / "own.py").write_text("")
    own = TorchRecipe(tmp_path / "own.py", build=build, augment=noisy, inputs=IMAGE, task="multiclass", classes=10)
    assert "scale" in own.spec.params_schema["properties"]  # type: ignore[operator]
    rows = Dataset("d", digits.columns, digits.features, digits.label, digits.train[:64], digits.test, "y")
    model = own.initial(rows.shape, {}, {}, 0).tensors
    own.train(model, rows, {"scale": 0.25, "batch_size": 32}, {}, 0, lambda _: None)
    assert seen == [0.25, 0.25]
    own.evaluate(model, rows, {}, {})
    assert len(seen) == 2
