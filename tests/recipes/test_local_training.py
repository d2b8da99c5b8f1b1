"""Options of local training: what is refused together is the same at submission and at a site; rates over rounds."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from undersong.recipes import image, tabular, text
from undersong.recipes.local_training import COMBINATIONS, WITH_NOISE, Combination, Given, LocalTraining
from undersong.recipes.protocol import TRAINING_ROUND, Dataset, RecipeError
from undersong.shared.wire.profiles import Column

DEFAULTS = {"optimiser": "sgd", "momentum": 0.0, "quantile": 0.5}
VALUES: dict[str, tuple[Any, ...]] = {"optimiser": ("sgd", "adam"), "momentum": (0, 0.5), "quantile": (0.5, 0.9)}


@pytest.mark.parametrize("condition", [Given.WRITTEN, Given.LEFT_OUT, Given.ON, (0.5,), (0, 0.0)])
@pytest.mark.parametrize("name", ["momentum", "quantile"])
def test_a_combination_means_the_same_as_its_schema(name: str, condition: Any) -> None:
    rule = Combination("no", {"optimiser": ("sgd",), name: condition})
    validator = Draft202012Validator(rule.schema(DEFAULTS))
    missing = object()
    for chosen in product(*((missing, *values) for values in VALUES.values())):
        params = {key: value for key, value in zip(VALUES, chosen, strict=True) if value is not missing}
        assert rule.holds(params, DEFAULTS | params) is not validator.is_valid(params), params


REFUSED = [
    ({"optimiser": "adam", "learning_rate": 0.01, "momentum": 0.9}, "momentum belongs to optimiser sgd"),
    ({"optimiser": "adamw"}, "need a learning_rate of their own"),
    ({"patience": 3}, "set validation_fraction"),
    ({"loss": "huber"}, "about numbers and the task about classes"),
    ({"task": "multiclass", "loss": "quantile", "quantile": 0.9}, "about numbers and the task about classes"),
    ({"task": "regression", "loss": "focal"}, "about classes and the task about numbers"),
    ({"task": "regression", "class_weights": [1, 2]}, "task regression has none"),
    ({"task": "survival", "class_weights": [1, 2]}, "task survival has none"),
    ({"task": "survival", "loss": "huber"}, "a loss of its own"),
    ({"task": "regression", "event": "came"}, "event is of task survival"),
    ({"event": "came"}, "event is of task survival"),
    ({"focal_gamma": 2.0}, "focal_gamma is of loss focal"),
    ({"task": "regression", "loss": "absolute", "huber_delta": 2.0}, "huber_delta is of loss huber"),
    ({"task": "regression", "quantile": 0.9}, "quantile is of loss quantile"),
    ({"control_variates": True, "optimiser": "adam", "learning_rate": 0.01}, "set optimiser: sgd"),
    ({"control_variates": True, "momentum": 0.9}, "leave momentum out"),
    ({"control_variates": True, "validation_fraction": 0.2}, "the best epoch undoes some"),
    ({"personal_weight": 0.1, "local_layers": ["0"]}, "its own model or its own layers"),
    ({"scaled_by": "steps", "optimiser": "adam", "learning_rate": 0.01}, "count plain steps of sgd"),
    ({"scaled_by": "loss", "control_variates": True}, "scale what control variates correct"),
]
OF_TEXTS = [
    ({"task": "next_token", "loss": "focal"}, "cross-entropy of each place"),
    ({"class_weights": [1, 2]}, "class_weights need classes of a label"),
]


@pytest.mark.parametrize(
    ("recipe", "params", "said"),
    [*((tabular.RECIPE, *each) for each in REFUSED), *((text.RECIPE, *each) for each in OF_TEXTS)],
)
def test_what_is_refused_together_is_named(recipe: Any, params: dict[str, Any], said: str) -> None:
    found = [
        error.schema["description"] for error in Draft202012Validator(recipe.spec.params_schema).iter_errors(params)
    ]
    assert any(said in sentence for sentence in found)
    with pytest.raises(RecipeError, match=said):
        recipe.settings(params)


def test_every_combination_is_tried_above() -> None:
    said = [each for _, each in (*REFUSED, *OF_TEXTS)]
    assert all(any(each in rule.sentence for each in said) for rule in COMBINATIONS)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"optimiser": "adam", "learning_rate": 0.1},
        {"momentum": 0.5},
        {"validation_fraction": 0.2},
        {"patience": 0},
        {"task": "regression", "loss": "quantile", "quantile": 0.1},
        {"task": "survival", "event": "came"},
        {"loss": "focal", "focal_gamma": 1, "class_weights": [1, 3.5]},
    ],
)
def test_what_goes_together_is_taken(params: dict[str, Any]) -> None:
    assert Draft202012Validator(tabular.RECIPE.spec.params_schema).is_valid(params)
    assert tabular.RECIPE.settings(params)["epochs"] == 1


@pytest.mark.parametrize("recipe", [tabular.RECIPE, image.RECIPE])
def test_noise_for_records_needs_exactly_what_it_can_protect(recipe: Any) -> None:
    validator = Draft202012Validator(recipe.spec.record_params)
    fine = recipe.settings({"normalisation": "group"})
    assert validator.is_valid(fine)
    times, *others = WITH_NOISE
    if recipe is tabular.RECIPE:
        (error,) = validator.iter_errors(fine | {"task": "survival"})
        assert error.schema["description"] == times.sentence
    for rule, odd in zip(
        others,
        [
            {"validation_fraction": 0.1}, {"precision": "bfloat16"}, {"clip_gradient": 1.0},
            {"local_layers": ["0"]}, {"personal_weight": 1.0}, {"control_variates": True},
            {"scaled_by": "steps"},
        ],
        strict=True,
    ):  # fmt: skip
        (error,) = validator.iter_errors(fine | odd)
        assert error.schema["description"] == rule.sentence
    assert not validator.is_valid(fine | {"normalisation": "batch"})


def test_rates_rise_and_fall_over_all_rounds_of_a_job() -> None:
    def rates(**kwargs: Any) -> list[float]:
        options = LocalTraining(learning_rate=2.0, **kwargs)
        return [options.rate({TRAINING_ROUND: [float(at), 10.0]}, step, 4) for at in range(10) for step in range(4)]

    assert set(rates()) == {2.0}
    linear, cosine, warm = rates(schedule="linear"), rates(schedule="cosine"), rates(schedule="linear", warmup=0.25)
    assert np.diff(linear) == pytest.approx(-2 / 40)
    assert cosine[:20] == pytest.approx([2.0 - rate for rate in reversed(cosine[20:])])
    assert (0 < warm[0] < 0.2, max(warm) == pytest.approx(2.0, rel=0.05), 0 < warm[-1] < 0.1) == (True, True, True)
    assert int(np.argmax(warm)) in (9, 10)
    assert LocalTraining(schedule="cosine").rate({}, 0, 1) == pytest.approx(0.05)


def rows(count: int = 400, task: str = "binary") -> Dataset:
    random = np.random.default_rng(5)
    x = random.normal(size=(count, 6))
    score = x @ [1.0, -1, 0.5, 0, 0, 0] + random.normal(size=count)
    label = (score > 0).astype(float) if task == "binary" else np.exp(score)
    columns = tuple(Column(name=name, type="number") for name in "abcdef")
    return Dataset("d", columns, x, label, np.arange(count), np.arange(count), "y")


def trained(params: dict[str, Any], data: Dataset, seed: int = 0) -> Any:
    context = {"statistics": list(tabular.RECIPE.statistics(data, params, 0))}
    model = tabular.RECIPE.initial(data.shape, params, context, 0).tensors
    return tabular.RECIPE.train(model, data, params, context, seed, lambda _: None)


def test_a_clipped_step_has_the_norm_asked_for() -> None:
    step = {"batch_size": 0, "learning_rate": 1.0}
    free, held = trained(step, rows()), trained({**step, "clip_gradient": 0.01}, rows())

    def norm(made: Any) -> float:
        return float(np.hypot(np.linalg.norm(made.tensors["0.weight"]), np.linalg.norm(made.tensors["0.bias"])))

    assert norm(free) > 0.1
    assert norm(held) == pytest.approx(0.01, rel=1e-3)


def test_adam_and_adamw_step_as_they_are_known() -> None:
    """The first step of Adam is the learning rate against the gradient's sign; weights that are zero do not decay."""
    made = trained({"batch_size": 0, "optimiser": "adam", "learning_rate": 0.01}, rows()).tensors["0.weight"][0]
    assert np.abs(made[::2]) == pytest.approx(0.01, rel=1e-3)
    decayed = trained({"batch_size": 0, "optimiser": "adamw", "learning_rate": 0.01, "weight_decay": 1.0}, rows())
    assert np.array_equal(decayed.tensors["0.weight"][0], made)


def test_a_site_stops_where_its_held_back_rows_gain_no_more_and_keeps_the_best_epoch() -> None:
    params = {"model": "mlp", "hidden": [64], "learning_rate": 0.5, "batch_size": 8, "epochs": 40}
    told: list[float] = []
    data, watched = rows(120), {**params, "validation_fraction": 0.25, "patience": 3}
    context: dict[str, list[float]] = {}
    model = tabular.RECIPE.initial(data.shape, params, context, 0).tensors
    stopped = tabular.RECIPE.train(model, data, watched, context, 1, told.append)
    assert stopped.examples == 90
    assert max(told) < 0.9, "it stopped early"
    again = tabular.RECIPE.train(model, data, {**watched, "epochs": 39, "patience": 3}, context, 1, lambda _: None)
    assert all(np.array_equal(stopped.tensors[name], again.tensors[name]) for name in model)
    with pytest.raises(RecipeError, match="set it to 0"):
        tabular.RECIPE.train(model, rows(1), watched, context, 1, lambda _: None)


def test_bfloat16_learns_and_parameters_stay_float32() -> None:
    made = trained(
        {"precision": "bfloat16", "epochs": 5, "model": "mlp", "dropout": 0.2, "normalisation": "batch"}, rows()
    )
    assert {value.dtype.name for name, value in made.tensors.items() if name[0].isdigit()} == {"float32", "int64"}
    exact = trained({"epochs": 5, "model": "mlp", "dropout": 0.2, "normalisation": "batch"}, rows())
    assert made.loss == pytest.approx(exact.loss, rel=0.05)
    assert made.loss != exact.loss
