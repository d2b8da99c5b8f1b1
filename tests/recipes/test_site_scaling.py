"""FedNova and q-FedAvg over sites of very different sizes, against the papers' formulas in plain numpy."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from undersong.recipes import table
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.fitting import Fitted
from undersong.recipes.protocol import Dataset, RecipeError, TrainResult
from undersong.recipes.site_scaling import scaled
from undersong.shared.learning.steps import next_model
from undersong.shared.learning.strategies import SCALE, params_at_sites
from undersong.shared.learning.tensors import Model, flatten, load
from undersong.shared.wire.profiles import Column

TABULAR = load_recipe("tabular")
COLUMNS = (Column(name="x0", type="number"), Column(name="x1", type="number"))
Floats = npt.NDArray[np.float64]
PARAMS: dict[str, Any] = {"task": "regression", "learning_rate": 0.01, "batch_size": 8}
SLOPES = (([3.0, 0.0], 16), ([0.0, -2.0], 40), ([-1.0, 1.0], 160))


def site(slope: list[float], rows: int, seed: int, noise: float = 0.0) -> Dataset:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 2))
    y = x @ np.array(slope) + noise * random.normal(size=rows)
    places = np.arange(rows)
    return Dataset("d", COLUMNS, x, y, places, places[:0], "y")


SITES = [site(slope, rows, place) for place, (slope, rows) in enumerate(SLOPES)]


def begin(params: dict[str, Any], sites: list[Dataset]) -> Model:
    sums = sum(TABULAR.statistics(data, params, 0) for data in sites)
    return TABULAR.initial(sites[0].shape, params, {"statistics": sums}, 0)  # type: ignore[dict-item]


def train(model: Model, data: Dataset, params: dict[str, Any], seed: int) -> TrainResult:
    return TABULAR.train(model.tensors, data, params, {}, seed, lambda _: None)


def federate(
    strategy: str, rounds: int, given: dict[str, float] | None = None, sites: list[Dataset] = SITES, **more: Any
) -> Model:
    """Rounds of equal weights over all sites, as an aggregator steps from their mean."""
    own = {**PARAMS, **more, **params_at_sites(strategy, given or {})}
    model, state = begin(own, sites), None
    for number in range(rounds):
        before = flatten(model.schema, model.tensors)
        made = [train(model, data, own, number).tensors for data in sites]
        mean = np.mean([flatten(model.schema, one) - before for one in made], axis=0).astype(np.float32)
        stepped = next_model(model, state, mean, strategy=strategy, params=given or {}, metadata={})
        model, state = load(stepped.content), stepped.state
    return model


def weights(model: Model) -> Floats:
    return np.concatenate([model.tensors["0.weight"].ravel(), model.tensors["0.bias"].ravel()]).astype(float)


def optimum(sites: list[Dataset]) -> Floats:
    """The least of the mean of the sites' own mean squared errors, in the model's scaling."""
    fixed = begin(PARAMS, sites).tensors
    label_mean, label_scale = (float(fixed[name][0]) for name in ("label.mean", "label.scale"))
    left, right = 0.0, 0.0
    for data in sites:
        scaled = table.inputs(fixed, data.columns, data.features).astype(float)
        x, y = np.column_stack([scaled, np.ones(len(scaled))]), (data.label - label_mean) / label_scale
        left, right = left + x.T @ x / len(y), right + x.T @ y / len(y)
    return np.linalg.lstsq(left, right)[0]  # columns of values that are missing are all 0, and so is their weight


def test_fednova_reaches_the_optimum_that_averaging_misses_where_sites_take_other_numbers_of_steps() -> None:
    """2, 5 and 20 steps a round, all sites of one weight: averaging solves the problem of the largest site."""
    wanted = optimum(SITES)
    averaged = np.abs(weights(federate("fedavg", 60)) - wanted).max()
    normalised = np.abs(weights(federate("fednova", 60)) - wanted).max()
    assert averaged > 0.5
    assert normalised < 0.1


@pytest.mark.parametrize("more", [{}, {"momentum": 0.9}, {"proximal_mu": 0.5}])
def test_a_round_of_fednova_is_that_of_its_paper(more: dict[str, Any]) -> None:
    """w + (mean of a_i) * mean of (change_i / a_i), with a_i as the paper gives it for each way of local steps."""
    params = {**PARAMS, **more}
    rate, momentum, mu = params["learning_rate"], params.get("momentum", 0.0), params.get("proximal_mu", 0.0)
    model = begin({**params, "scaled_by": "steps"}, SITES)
    changes, norms = [], []
    for data in SITES:
        made = train(replace(model), data, {**params, "scaled_by": "nothing"}, 0).tensors
        changes.append(weights(replace(model, tensors=made)) - weights(model))
        steps = len(data.label) // 8
        if momentum:
            norms.append((steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum))
        elif mu:
            norms.append(sum((1 - rate * mu) ** (steps - 1 - k) for k in range(steps)))
        else:
            norms.append(float(steps))
    direction = np.mean([change / norm for change, norm in zip(changes, norms, strict=True)], axis=0)
    wanted = weights(model) + np.mean(norms) * direction
    after = federate("fednova", 1, **more)
    assert weights(after) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert float(np.exp(after.tensors[SCALE][0])) == pytest.approx(np.mean(norms), rel=1e-4)


def test_a_round_of_qfedavg_is_that_of_its_paper() -> None:
    """w - sum(Delta_k) / sum(h_k), Delta_k = F^q L (w - w_k), h_k = q F^(q-1) |L (w - w_k)|^2 + L F^q."""
    q, step = 2.0, 1 / PARAMS["learning_rate"]
    params = {**PARAMS, "scaled_by": "loss", "fairness": q}
    model = begin(params, SITES)
    deltas, divisors = [], []
    for data in SITES:
        made = train(model, data, {**params, "scaled_by": "nothing"}, 0).tensors
        moved = step * (weights(model) - weights(replace(model, tensors=made)))
        all_at_once = {**params, "scaled_by": "nothing", "batch_size": 0}
        loss = train(model, data, all_at_once, 0).loss  # of the one step that begins at the common model
        deltas.append(loss**q * moved)
        divisors.append(q * loss ** (q - 1) * moved @ moved + step * loss**q)
    wanted = weights(model) - np.sum(deltas, axis=0) / np.sum(divisors)
    assert weights(federate("qfedavg", 1, {"q": q})) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_with_q_0_qfedavg_is_averaging() -> None:
    fair, plain = federate("qfedavg", 3, {"q": 0.0}), federate("fedavg", 3)
    assert weights(fair) == pytest.approx(weights(plain), rel=1e-4, abs=1e-6)


def test_the_spread_of_losses_over_sites_falls_as_q_rises() -> None:
    sites = [site([1.0, 0.0], 160, 0), site([1.0, 0.2], 160, 1), site([-1.0, 1.0], 160, 2)]

    def spread(q: float) -> float:
        model = federate("qfedavg", 30, {"q": q}, sites, learning_rate=0.1, batch_size=0)
        losses = [TABULAR.evaluate(model.tensors, replace(data, test=data.train), PARAMS, {}) for data in sites]
        return float(np.std([sums[1] / sums[0] for sums in losses]))

    spreads = [spread(q) for q in (0.0, 1.0, 4.0)]
    assert spreads[0] > 1.2 * spreads[1] > 1.4 * spreads[2]


def test_a_model_begun_without_a_scale_is_refused_with_what_to_do_and_one_with_it_goes_on_under_any_strategy() -> None:
    plain = begin(PARAMS, SITES)
    with pytest.raises(RecipeError, match=r"strategy fednova needs: leave model\.version_id out"):
        train(plain, SITES[0], {**PARAMS, "scaled_by": "steps"}, 0)
    begun = begin({**PARAMS, "scaled_by": "loss"}, SITES)
    made = train(begun, SITES[0], PARAMS, 0)
    assert np.array_equal(made.tensors[SCALE], begun.tensors[SCALE])
    begun.schema.result(made.tensors)


@pytest.mark.parametrize(
    ("by", "log_scale", "fitted"),
    [
        ("loss", 0.0, Fitted(10, 1.0, path=1.0, first_loss=1e200)),
        ("loss", -1e3, Fitted(10, 1.0, path=1.0, first_loss=1.0)),
        ("steps", 1e3, Fitted(10, 1.0, path=1.0)),
        ("steps", -1e3, Fitted(10, 1.0, path=1.0)),
        ("steps", 0.0, Fitted(10, 1.0, path=0.0)),
        ("steps", 0.0, Fitted(10, 1.0, path=np.nan)),
    ],
)
def test_scales_and_losses_of_which_no_number_follows_are_told(by: str, log_scale: float, fitted: Fitted) -> None:
    before = {"w": np.zeros(2), SCALE: np.array([log_scale], np.float32)}
    settings = {"learning_rate": 0.01, "scaled_by": by, "fairness": 2.0}
    with pytest.raises(RecipeError, match="diverged"):
        scaled(before, {"w": np.ones(2)}, ["w"], fitted, settings, {})


def test_a_loss_below_0_has_no_power() -> None:
    from undersong.recipes.torch_recipe import TorchRecipe

    def build(shape: Any) -> Any:
        import torch

        return torch.nn.Linear(shape.inputs, 1)

    recipe = TorchRecipe(__file__, build=build, loss=lambda out, y: -(out.squeeze(1) * y).mean() - 1, task="regression")
    params = {"scaled_by": "loss"}
    model = recipe.initial(SITES[0].shape, params, {"statistics": recipe.statistics(SITES[0], params, 0)}, 0)  # type: ignore[dict-item]
    with pytest.raises(RecipeError, match="never below 0"):
        recipe.train(model.tensors, SITES[0], params, {}, 0, lambda _: None)
