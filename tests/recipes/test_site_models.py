"""Layers of one's own, personal models and control variates: what each is said to do, over sites that differ."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from undersong.recipes.catalogue import load_recipe
from undersong.recipes.protocol import Dataset, RecipeError, Tensors, TrainResult
from undersong.shared.wire.profiles import Column

TABULAR = load_recipe("tabular")
COLUMNS = tuple(Column(name=f"x{place}", type="number") for place in range(4))
SHIFTS = ([3, 0, 0, 0], [0, 3, 0, -2], [-3, 0, 2, 0])
PARAMS: dict[str, Any] = {"learning_rate": 0.2, "batch_size": 0, "epochs": 20}


def site(shift: list[int], seed: int, rows: int = 200) -> Dataset:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 4))
    y = random.random(rows) < 1 / (1 + np.exp(-x @ (np.array([1, -1, 0.5, 0]) + shift)))
    places = np.arange(rows)
    return Dataset("d", COLUMNS, x, y.astype(float), places[:-50], places[-50:], "y")


SITES = [site(shift, place) for place, shift in enumerate(SHIFTS)]


def begin(params: dict[str, Any]) -> Tensors:
    sums = sum(TABULAR.statistics(data, params, 0) for data in SITES)
    return TABULAR.initial(SITES[0].shape, params, {"statistics": sums}, 0).tensors  # type: ignore[dict-item]


def federate(params: dict[str, Any], rounds: int) -> tuple[Tensors, list[TrainResult]]:
    """Rounds of equal weights over all sites, each with what it kept."""
    model, made = begin(params), [TrainResult({}, 0, 0.0)] * len(SITES)
    for number in range(rounds):
        given = [replace(data, local=last.local) for data, last in zip(SITES, made, strict=True)]
        made = [TABULAR.train(model, data, params, {}, number, lambda _: None) for data in given]
        model = {
            name: np.mean([one.tensors[name] for one in made], axis=0).astype(value.dtype)
            for name, value in model.items()
        }
    return model, made


def accuracy(model: Tensors, made: list[TrainResult], params: dict[str, Any]) -> list[float]:
    sums = [
        TABULAR.evaluate(model, replace(data, local=one.local), params, {})
        for data, one in zip(SITES, made, strict=True)
    ]
    return [float((one[2] + one[4]) / one[0]) for one in sums]


def test_control_variates_lead_to_the_optimum_of_all_rows_which_averaging_alone_misses() -> None:
    params = {**PARAMS, "control_variates": True}
    pool = replace(
        SITES[0],
        features=np.concatenate([data.features[data.train] for data in SITES]),
        label=np.concatenate([data.label[data.train] for data in SITES]),
        train=np.arange(sum(data.train.size for data in SITES)),
    )
    wanted = TABULAR.train(begin(PARAMS), pool, {**PARAMS, "epochs": 1000}, {}, 0, lambda _: None).tensors
    corrected, made = federate(params, 30)
    averaged, _ = federate(PARAMS, 30)
    assert np.abs(corrected["0.weight"] - wanted["0.weight"]).max() < 5e-3
    assert np.abs(averaged["0.weight"] - wanted["0.weight"]).max() > 5e-2
    assert np.abs(corrected["control.0.weight"]).max() < 1e-3, "the mean gradient where all rows are at rest"
    assert np.abs(made[0].local["control.0.weight"]).max() > 0.1


def test_one_step_of_scaffold_is_that_of_its_paper() -> None:
    params = {"learning_rate": 0.3, "batch_size": 0, "epochs": 2, "control_variates": True}
    model = begin(params)
    random = np.random.default_rng(0)
    for name in ("control.0.weight", "control.0.bias"):
        model[name] = random.normal(size=model[name].shape).astype(np.float32) / 10
    own = {name: random.normal(size=model[name].shape).astype(np.float32) / 10 for name in model if "control" in name}
    made = TABULAR.train(model, replace(SITES[0], local=own), params, {}, 0, lambda _: None)
    c, c_i = model["control.0.weight"], own["control.0.weight"]
    after = c_i - c + (model["0.weight"] - made.tensors["0.weight"]) / (2 * 0.3)
    assert made.local["control.0.weight"] == pytest.approx(after, abs=1e-6)
    assert made.tensors["control.0.weight"] - c == pytest.approx(after - c_i, abs=1e-6)
    short = {**params, "epochs": 1}
    plain = TABULAR.train(begin(PARAMS), SITES[0], {**short, "control_variates": False}, {}, 0, lambda _: None)
    one = TABULAR.train(model, replace(SITES[0], local=own), short, {}, 0, lambda _: None)
    assert one.tensors["0.weight"] == pytest.approx(plain.tensors["0.weight"] - 0.3 * (c - c_i), abs=1e-6)


def test_a_personal_model_fits_its_site_and_leaves_the_common_one_alone() -> None:
    personal = {**PARAMS, "personal_weight": 0.05}
    model, made = federate(personal, 10)
    plain, none = federate(PARAMS, 10)
    assert all(np.array_equal(model[name], plain[name]) for name in plain)
    own, common = accuracy(model, made, personal), accuracy(plain, none, PARAMS)
    assert np.mean(own) > np.mean(common) + 0.05
    near = federate({**PARAMS, "personal_weight": 1.0}, 10)[1]
    apart = [np.abs(one.local["0.weight"] - model["0.weight"]).max() for one in (made[0], near[0])]
    assert apart[1] < apart[0], "the more weight, the nearer"


def test_what_is_kept_is_finite_or_nothing_is() -> None:
    """Kept, a number that is none would end all later rounds at its site."""
    small = {"control_variates": True, "learning_rate": 1e-300}  # which float32 rounds to 0
    made = TABULAR.train(begin(small), SITES[0], small, {}, 0, lambda _: None)
    assert all(np.isfinite(value).all() for value in (*made.tensors.values(), *made.local.values()))
    params = {"control_variates": True}
    spoilt = {name: np.full(value.shape, np.nan, np.float32) for name, value in made.local.items()}
    with pytest.raises(RecipeError, match="diverged"):
        TABULAR.train(
            begin(params), replace(SITES[0], local=spoilt), {**params, "batch_size": 0}, {}, 0, lambda _: None
        )


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"control_variates": True}, "control.0.weight"),
        ({"personal_weight": 1.0}, "0.weight"),
        ({"local_layers": ["0.bias"]}, "0.bias"),
    ],
)
def test_what_is_kept_of_another_model_is_a_sentence(params: dict[str, Any], name: str) -> None:
    data = replace(SITES[0], local={name: np.zeros((7, 3), np.float32)})
    with pytest.raises(RecipeError, match="does not fit its model"):
        TABULAR.train(begin(params), data, params, {}, 0, lambda _: None)


def test_layers_of_ones_own_are_trained_kept_and_never_sent() -> None:
    params = {**PARAMS, "model": "mlp", "hidden": [4], "local_layers": ["2"]}
    first = begin(params)
    model, made = federate(params, 5)
    assert np.allclose(model["2.weight"], first["2.weight"], rtol=1e-6)
    assert not np.allclose(model["0.weight"], first["0.weight"], rtol=1e-3)
    assert set(made[0].local) == {"2.weight", "2.bias"}
    assert not np.array_equal(made[0].local["2.weight"], made[1].local["2.weight"])
    roles = TABULAR.initial(SITES[0].shape, params, {}, 0).schema
    assert {spec.name for spec in roles.trained} == {"0.weight", "0.bias"}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"local_layers": ["7"]}, "no such layer"),
        ({"local_layers": ["0"]}, "nothing would be sent"),
        ({"control_variates": True, "momentum": 0.9}, "plain steps"),
        ({"control_variates": True, "optimiser": "adam", "learning_rate": 0.01}, "plain steps"),
        ({"personal_weight": 0.1, "local_layers": ["0"]}, "not both"),
    ],
)
def test_what_has_no_meaning_is_a_sentence(params: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        TABULAR.initial(SITES[0].shape, params, {}, 0)
