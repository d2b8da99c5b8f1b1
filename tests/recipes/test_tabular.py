"""The tabular recipe."""

import json
from dataclasses import replace

import numpy as np
import pytest

from undersong.recipes import table
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.recipes.tabular import RECIPE
from undersong.shared.learning.metrics import evaluation_layout, layout_length, metrics_of
from undersong.shared.learning.tensors import TensorRole, flatten, load, save
from undersong.shared.wire.profiles import Column

COLUMNS = (
    Column(name="a", type="number"),
    Column(name="b", type="number"),
    Column(name="c", type="category", categories=("x", "y", "z")),
)


def made(rows: int = 400, seed: int = 0, task: str = "binary", columns: tuple[Column, ...] = COLUMNS) -> Dataset:
    random = np.random.default_rng(seed)
    numbers = random.normal([50, -3], [10, 0.5], (rows, 2))
    kinds = random.integers(0, 3, rows).astype(float)
    score = (numbers[:, 0] - 50) / 10 + 2 * (kinds == 1) - 1
    label = {"binary": score > 0, "multiclass": np.digitize(score, [-1, 1]), "regression": 3 * score}[task].astype(
        float
    )
    features = np.column_stack([numbers, kinds])
    features[random.random(features.shape) < 0.1] = np.nan
    return Dataset("made", columns, features, label, np.arange(rows - 100), np.arange(rows - 100, rows), "y")


def trained(data: Dataset, params: dict[str, object], rounds: int = 5, seed: int = 1):
    context = {"statistics": RECIPE.statistics(data, params, seed).tolist()}
    model = RECIPE.initial(data.shape, params, context, seed)
    tensors = model.tensors
    for number in range(rounds):
        tensors = RECIPE.train(tensors, data, params, context, seed + number, lambda _: None).tensors
    return model.schema, tensors


@pytest.mark.parametrize("model", ["logistic", "mlp"])
@pytest.mark.parametrize(
    ("task", "metric", "least"), [("binary", "auc", 0.93), ("multiclass", "accuracy", 0.7), ("regression", "r2", 0.8)]
)
def test_it_learns(model, task, metric, least) -> None:
    params = {"model": model, "task": task, "classes": 3, "epochs": 3, "learning_rate": 0.05}
    data = made(task=task)
    _, tensors = trained(data, params)
    sums = RECIPE.evaluate(tensors, data, params, {})
    assert sums.size == layout_length(evaluation_layout(RECIPE.spec, params))
    assert metrics_of(evaluation_layout(RECIPE.spec, params), sums)[metric] > least


def test_same_seed_same_model() -> None:
    params = {"model": "mlp", "batch_size": 16}
    (schema, one), (_, two), (_, other) = (trained(made(), params, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(flatten(schema, one), flatten(schema, two))
    assert not np.array_equal(flatten(schema, one), flatten(schema, other))


def test_statistics_of_sites_add_up_to_those_of_the_pool() -> None:
    data = made()
    parts = [
        Dataset("p", COLUMNS, data.features, data.label, rows, data.test) for rows in np.array_split(data.train, 3)
    ]
    total = sum(RECIPE.statistics(part, {}, 0) for part in parts)
    assert total == pytest.approx(RECIPE.statistics(data, {}, 0))
    fixed = table.fixed_tensors(COLUMNS, total)
    x = data.features[data.train]
    assert fixed[table.MEAN][0] == pytest.approx(np.nanmean(x[:, 0]))
    assert fixed[table.SCALE][0] == pytest.approx(np.nanstd(x[:, 0]))
    scaled = table.inputs(fixed, COLUMNS, x)
    assert np.abs(scaled.mean(axis=0)).max() < 1e-4
    assert np.isfinite(scaled).all()


def test_a_column_that_never_varies_keeps_its_scale() -> None:
    sums = table.statistics((COLUMNS[0],), np.full((10, 1), 1e6))
    assert table.fixed_tensors((COLUMNS[0],), sums)[table.SCALE].tolist() == [1, 1]


def test_a_column_without_one_known_value_is_the_flag_alone() -> None:
    columns = (COLUMNS[0],)
    features = np.full((10, 1), np.nan)
    fixed = table.fixed_tensors(columns, table.statistics(columns, features))
    assert not table.inputs(fixed, columns, features).any()


def test_a_pulled_model_predicts_from_raw_columns() -> None:
    data = made()
    schema, tensors = trained(data, {})
    from_file = load(save(type("M", (), {"schema": schema, "tensors": tensors})())).tensors
    values = data.features[data.test]
    rows = {
        "a": [None if np.isnan(v) else v for v in values[:, 0]],
        "b": values[:, 1],
        "c": [None if np.isnan(v) else "xyz"[int(v)] for v in values[:, 2]],
    }
    said = RECIPE.predict(from_file, rows, {})
    from_sums = metrics_of("binary", RECIPE.evaluate(tensors, data, {}, {}))["accuracy"]
    assert ((said >= 0.5) == (data.label[data.test] > 0.5)).mean() == pytest.approx(from_sums)
    assert RECIPE.predict(from_file, {"a": [50.0]}, {}).shape == (1,)
    with pytest.raises(RecipeError, match="no column d"):
        RECIPE.predict(from_file, {"d": [1]}, {})


def test_scaling_is_fixed_in_the_model() -> None:
    schema, tensors = trained(made(), {})
    roles = {spec.name: spec.role for spec in schema.tensors}
    assert all(roles[name] is TensorRole.FIXED for name in table.FIXED)
    assert schema.length == 8 + 1
    assert json.loads(tensors[table.COLUMNS].tobytes())[2]["categories"] == ["x", "y", "z"]


def test_a_model_refuses_columns_in_another_form() -> None:
    data = made()
    turned = (*COLUMNS[:2], COLUMNS[2].model_copy(update={"categories": ("z", "y", "x")}))
    _, tensors = trained(data, {})
    with pytest.raises(RecipeError, match="columns"):
        RECIPE.evaluate(tensors, replace(data, columns=turned), {}, {})


def test_fedprox_stays_nearer_to_the_global_model() -> None:
    data, base = made(), {"epochs": 20, "learning_rate": 0.2}
    context = {"statistics": RECIPE.statistics(data, base, 0).tolist()}
    model = RECIPE.initial(data.shape, base, context, 0)
    moved = []
    for mu in (0.0, 1.0, 4.0):
        result = RECIPE.train(model.tensors, data, {**base, "proximal_mu": mu}, context, 3, lambda _: None)
        moved.append(float(np.linalg.norm(flatten(model.schema, result.tensors))))
    assert moved[0] > moved[1] > moved[2] > 0


def test_one_full_step_is_gradient_descent() -> None:
    """One local step over all rows is w - eta times the gradient, to float tolerance."""
    data = made()
    params = {"epochs": 1, "batch_size": 0, "learning_rate": 0.5}
    context = {"statistics": RECIPE.statistics(data, params, 0).tolist()}
    model = RECIPE.initial(data.shape, params, context, 0)
    x = table.inputs(model.tensors, COLUMNS, data.features[data.train]).astype(float)
    gradient = x.T @ (0.5 - data.label[data.train]) / len(x)
    result = RECIPE.train(model.tensors, data, params, context, 0, lambda _: None)
    assert result.tensors["0.weight"][0] == pytest.approx(-0.5 * gradient, abs=1e-5)
    assert (result.examples, result.loss) == (300, pytest.approx(np.log(2)))


@pytest.mark.parametrize(
    ("change", "params", "says"),
    [
        ({"label": np.full(400, 2.0)}, {}, "no class"),
        ({"train": np.arange(0)}, {}, "no training rows"),
        ({}, {"speed": 1}, "speed"),
        ({}, {"model": "mlp"}, "do not fit"),
        ({}, {"learning_rate": 1e38, "momentum": 0.9, "epochs": 50}, "diverged"),
    ],
)
def test_what_cannot_be_trained_is_refused(change, params, says) -> None:
    data = made()
    _, tensors = trained(data, {}, rounds=0)
    fields = {name: getattr(data, name) for name in data.__slots__}
    with pytest.raises(RecipeError, match=says):
        RECIPE.train(tensors, Dataset(**{**fields, **change}), params, {}, 0, lambda _: None)


def test_progress_goes_to_one() -> None:
    seen: list[float] = []
    data = made()
    context = {"statistics": RECIPE.statistics(data, {}, 0).tolist()}
    RECIPE.train(RECIPE.initial(data.shape, {}, context, 0).tensors, data, {}, context, 0, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1


@pytest.mark.parametrize(("scale", "offset"), [(1e6, 0.0), (1e6, 2.5e8), (1e-3, 0.0), (1.0, -1e5)])
def test_a_label_of_any_scale_is_learnt_in_steps_of_its_deviation(scale: float, offset: float) -> None:
    """No update is larger than one of a label around 0, so the limits of an update hold for all of them."""
    params = {"task": "regression", "epochs": 3, "learning_rate": 0.05}
    data, plain = made(task="regression"), made(task="regression")
    data.label[:] = data.label * scale + offset
    _, tensors = trained(data, params)
    _, reference = trained(plain, params)
    assert tensors["0.weight"] == pytest.approx(reference["0.weight"], abs=1e-3)
    found = metrics_of("regression", RECIPE.evaluate(tensors, data, params, {}))
    assert found["r2"] > 0.8
    said = RECIPE.predict(tensors, {"a": data.features[:, 0], "b": data.features[:, 1]}, params)
    assert np.corrcoef(said, data.label)[0, 1] > 0.5
    assert np.median(said) == pytest.approx(np.median(data.label), abs=2 * scale)


@pytest.mark.parametrize(("task", "metric", "least"), [("binary", "auc", 0.9), ("regression", "r2", 0.75)])
def test_declared_ranges_scale_columns_without_looking_at_a_row(task, metric, least) -> None:
    """No sums over rows are asked for, and what is learned is as good."""
    data = made(task=task)
    params = {"task": task, "epochs": 3, "learning_rate": 0.05, "ranges": {"a": [20, 80], "b": [-5, -1], "y": [-9, 9]}}
    tensors = RECIPE.initial(data.shape, params, {}, 1).tensors
    place = table.input_names(COLUMNS).index("a")
    assert (tensors[table.MEAN][place], tensors[table.SCALE][place]) == pytest.approx((50, 60 / np.sqrt(12)))
    for number in range(8):
        tensors = RECIPE.train(tensors, data, params, {}, number, lambda _: None).tensors
    sums = RECIPE.evaluate(tensors, data, params, {})
    assert metrics_of(evaluation_layout(RECIPE.spec, params), sums)[metric] > least
    for ranges, said in (({"a": [0, 1]}, "lacks column b"), ({"a": [1, 1], "b": [0, 1]}, "has no width")):
        with pytest.raises(RecipeError, match=said):
            RECIPE.initial(data.shape, {**params, "ranges": ranges}, {}, 1)
