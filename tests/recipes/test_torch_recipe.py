"""A module and a loss are a whole recipe: tasks, roles of tensors, noise for records, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from undersong.recipe import ModelShape, Recipe, RecordNoise, TorchRecipe
from undersong.recipes.catalogue import load_file, load_recipe
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.recipes.reference import score, train_in_one_place
from undersong.shared.learning.metrics import metrics_of
from undersong.shared.learning.tensors import TensorRole, difference, load, save
from undersong.shared.wire.privacy import RECORD_NOISE
from undersong.shared.wire.profiles import Column

HERE = Path(__file__)
EXAMPLE = HERE.parents[2] / "examples" / "own-recipe" / "network.py"
COLUMNS = (Column(name="a", type="number"), Column(name="b", type="category", categories=("x", "y")))


def made(task: str = "binary", rows: int = 400) -> Dataset:
    random = np.random.default_rng(0)
    a, b = random.normal(40, 8, rows), random.integers(0, 2, rows).astype(float)
    score = (a - 40) / 8 + b - 0.5
    label = {"binary": score > 0, "multiclass": np.digitize(score, [-0.7, 0.7]), "regression": 1e6 + 3e5 * score}[task]
    features = np.column_stack([a, b])
    features[::17, 0] = np.nan
    return Dataset("d", COLUMNS, features, label.astype(float), np.arange(rows - 100), np.arange(rows - 100, rows), "y")


def linear(shape: ModelShape, width: int = 8) -> Any:
    """A layer that is trained, and one that is not."""
    from torch import nn

    module = nn.Sequential(nn.Linear(shape.inputs, width), nn.Tanh(), nn.Linear(width, shape.outputs))
    module[0].bias.requires_grad_(requires_grad=False)
    return module


def recipe(**kwargs: Any) -> TorchRecipe:
    return TorchRecipe(HERE, **{"build": linear, **kwargs})


def noisy(steps: int = 40) -> dict[str, list[float]]:
    return {RECORD_NOISE: list(RecordNoise(1.0, 1.0, 0.2, steps))}


def test_the_example_of_twenty_lines_is_a_recipe_that_learns() -> None:
    found = load_file(EXAMPLE)
    assert isinstance(found, Recipe)
    assert (found.spec.name, len(EXAMPLE.read_text().splitlines()) <= 22) == ("network", True)
    assert found.spec.params_schema["properties"]["hidden"] == {"type": "integer", "default": 16}
    model = train_in_one_place(found, made(), {"epochs": 5, "hidden": 8}, rounds=4)
    assert score(found, model, made(), {"hidden": 8})["auc"] > 0.9
    said = found.predict(model, {"a": [20.0, 60.0], "b": ["x", "y"]}, {"hidden": 8})
    assert said[0] < 0.3 < 0.7 < said[1]


@pytest.mark.parametrize(
    ("task", "metric", "least"), [("binary", "auc", 0.9), ("multiclass", "accuracy", 0.75), ("regression", "r2", 0.8)]
)
def test_each_task_is_learned_fixed_or_chosen_by_the_job(task: str, metric: str, least: float) -> None:
    params = {"epochs": 6, "optimiser": "adam", "learning_rate": 0.02}
    fixed = recipe(task=task, classes=3 if task == "multiclass" else None)
    model = train_in_one_place(fixed, made(task), params, rounds=4)
    assert score(fixed, model, made(task), params)[metric] > least
    opened, chosen = recipe(task=None), {**params, "task": task, "classes": 3}
    again = train_in_one_place(opened, made(task), chosen, rounds=4)
    assert all(np.array_equal(model[name], again[name]) for name in model)


def test_what_is_frozen_stays_and_is_not_sent() -> None:
    found = recipe()
    model = found.initial(made().shape, {}, {}, 0)
    roles = {spec.name: spec.role for spec in model.schema.tensors}
    assert (roles["0.bias"], roles["0.weight"]) == (TensorRole.FIXED, TensorRole.PARAMETER)
    after = found.train(model.tensors, made(), {"weight_decay": 0.1}, {}, 1, lambda _: None).tensors
    assert np.array_equal(after["0.bias"], model.tensors["0.bias"])
    assert not np.array_equal(after["0.weight"], model.tensors["0.weight"])
    assert difference(model.schema, after, model.tensors).size == 8 * 5 + 8 + 1


def odd(_: ModelShape) -> Any:
    """Make tied layers, a constant buffer, batch normalisation and bfloat16."""
    import torch
    from torch import nn

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
            self.second.weight = self.first.weight
            self.norm, self.last = nn.BatchNorm1d(5), nn.Linear(5, 1, dtype=torch.bfloat16)
            self.register_buffer("scale", torch.full((5,), 2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.norm(self.second(torch.tanh(self.first(x)) * self.scale))
            return self.last(hidden.to(torch.bfloat16)).float()

    return Odd()


def test_tied_layers_buffers_and_short_types_keep_their_roles() -> None:
    found, data = recipe(build=odd), made(rows=161)  # 61 training rows: the last batch of 20 would be one row alone
    model = found.initial(data.shape, {}, {}, 0)
    specs = {spec.name: spec for spec in model.schema.tensors}
    assert "second.weight" not in specs
    assert specs["norm.running_mean"].role is TensorRole.BUFFER
    assert specs["norm.num_batches_tracked"].role is specs["scale"].role is TensorRole.FIXED
    assert specs["last.weight"].dtype == "bfloat16"
    stored = load(save(model)).tensors
    after = found.train(stored, data, {"batch_size": 20}, {}, 1, lambda _: None).tensors
    assert difference(model.schema, after, stored).any()
    assert score(found, after, data, {})["examples"] == 100
    with pytest.raises(RecipeError, match="normalise each row alone"):
        found.train(stored, data, {}, noisy(), 1, lambda _: None)
    with pytest.raises(RecipeError, match="row alone: give a larger batch_size"):
        found.train(stored, data, {"batch_size": 1}, {}, 1, lambda _: None)


def test_records_are_protected_with_dropout_and_every_optimiser() -> None:
    example = load_file(EXAMPLE)
    for params in ({"learning_rate": 1.0}, {"optimiser": "adamw", "learning_rate": 0.1, "weight_decay": 0.01}):
        scaling = {"statistics": list(example.statistics(made(), params, 0))}
        model = example.initial(made().shape, params, scaling, 0).tensors
        result = example.train(model, made(), params, noisy(), 1, lambda _: None)
        assert (len(result.events), result.loss) == (1, 0.0)
        assert score(example, result.tensors, made(), params)["auc"] > 0.8
    frozen = recipe()
    model = frozen.initial(made().shape, {}, {}, 0).tensors
    result = frozen.train(model, made(), {}, noisy(2), 1, lambda _: None)
    assert np.array_equal(result.tensors["0.bias"], model["0.bias"])
    assert recipe(record_params=None).spec.record_params is None


def test_a_buffer_that_training_changes_is_refused() -> None:
    def counting(shape: ModelShape) -> Any:
        import torch
        from torch import nn

        class Counting(nn.Linear):
            def __init__(self) -> None:
                super().__init__(shape.inputs, shape.outputs)
                self.register_buffer("seen", torch.zeros(1))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.seen += len(x)
                return super().forward(x)

        return Counting()

    found = recipe(build=counting)
    model = found.initial(made().shape, {}, {}, 0).tensors
    with pytest.raises(RecipeError, match="changed the buffer seen"):
        found.train(model, made(), {}, {}, 1, lambda _: None)


def test_pictures_and_outputs_that_are_probabilities() -> None:
    def build(shape: ModelShape) -> Any:
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(shape.inputs, 1), nn.Sigmoid())

    def loss(said: Any, truth: Any) -> Any:
        from torch.nn.functional import binary_cross_entropy

        return binary_cross_entropy(said[:, 0], truth)

    random = np.random.default_rng(1)
    label = random.integers(0, 2, 300).astype(float)
    x = (random.random((300, 1, 4, 4)) + label[:, None, None, None]).astype(np.float32) / 2
    data = Dataset("p", (Column(name="x", type="image"),), x, label, np.arange(200), np.arange(200, 300), "y")
    found = recipe(build=build, loss=loss, scores=lambda said: said, inputs=("image",))
    model = train_in_one_place(found, data, {"epochs": 10}, rounds=2)
    assert score(found, model, data, {})["auc"] > 0.95
    assert found.predict(model, {"x": x[:3, 0]}, {}).shape == (3,)
    assert "loss" not in found.spec.params_schema["properties"]


def untyped(shape: ModelShape, kind: Literal["a", "b"] = "a", widths: list[int] = [4], rate: float = 1) -> Any:  # noqa: B006
    return shape, kind, widths, rate


def test_parameters_follow_from_the_function() -> None:
    properties = recipe(build=untyped).spec.params_schema["properties"]
    assert properties["kind"] == {"enum": ["a", "b"], "default": "a"}
    assert properties["widths"] == {"type": "array", "items": {"type": "integer"}, "maxItems": 1000, "default": [4]}
    assert properties["rate"] == {"type": "number", "default": 1}


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"build": lambda shape, width: (shape, width)}, "parameter width of .* needs a default"),
        ({"build": lambda shape, width=None: (shape, width)}, "is no number, text"),
        ({"build": lambda shape, epochs=3: (shape, epochs)}, "name of a parameter of training"),
        ({"build": lambda shape, **rest: (shape, rest)}, "name its parameters"),
        ({"build": lambda: None}, "takes 0 arguments"),
        ({"task": "binry"}, "did you mean|'binary'"),
        ({"task": "multiclass"}, "needs classes"),
        ({"inputs": ("image", "number")}, "or image alone"),
        ({"inputs": ("image",), "task": None}, "must name its task"),
        ({"training": {"learning_rat": 1}}, "no parameter learning_rat"),
    ],
)
def test_what_cannot_be_a_recipe_is_a_sentence(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(**kwargs)


def test_own_defaults_of_training_are_the_recipes() -> None:
    found = recipe(training={"optimiser": "adam", "learning_rate": 0.01, "epochs": 4})
    assert found.settings({})["optimiser"] == "adam"
    with pytest.raises(RecipeError, match="momentum belongs to optimiser sgd"):
        found.settings({"momentum": 0.9})


def test_a_loss_for_each_row_and_a_diverging_one_are_sentences() -> None:
    rows = recipe(loss=lambda said, truth: (said[:, 0] - truth) ** 2)
    model = rows.initial(made().shape, {}, {}, 0).tensors
    with pytest.raises(RecipeError, match="return its mean"):
        rows.train(model, made(), {}, {}, 0, lambda _: None)
    with pytest.raises(RecipeError, match="lower the learning rate"):
        recipe(task="regression").train(
            model, made("regression"), {"learning_rate": 100.0, "epochs": 50}, {}, 0, lambda _: None
        )
    with pytest.raises(RecipeError, match=r"0\.weight has the shape \[8, 5\]"):
        recipe().train(model, made(), {"width": 9}, {}, 0, lambda _: None)
    with pytest.raises(RecipeError, match="no training rows"):
        recipe().train(model, replace(made(), train=np.arange(0)), {}, {}, 0, lambda _: None)


def test_a_class_that_is_absent_at_a_site_is_learnt_from_the_others() -> None:
    """A site with two classes of three trains on what it has, and its evaluation counts all three."""
    random = np.random.default_rng(0)
    x, tabular, params = random.normal(size=(90, 2)), load_recipe("tabular"), {"task": "multiclass", "classes": 3}
    y = (x[:, 0] > 0).astype(float)
    columns = (Column(name="a", type="number"), Column(name="b", type="number"))
    data = Dataset("d", columns, x, y, np.arange(60), np.arange(60, 90), "y")
    sums = {"statistics": list(tabular.statistics(data, params, 0))}
    model = tabular.initial(data.shape, params, sums, 0)
    made = tabular.train(model.tensors, data, params | {"epochs": 5}, sums, 0, lambda _: None)
    found = tabular.evaluate(made.tensors, data, params, sums)
    assert found[0] == 30
    assert metrics_of("multiclass:3", found)["balanced_accuracy"] > 0.8
