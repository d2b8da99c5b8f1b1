"""Task survival: the loss against the formula written out, what sites add up, and labels of time and event."""

import numpy as np
import pytest

from undersong.recipes.numpy_recipe import NumpyRecipe
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.recipes.reference import pool, score, train_in_one_place
from undersong.recipes.survival import cox_loss, ranked, survival_sums, with_events
from undersong.recipes.tabular import RECIPE
from undersong.recipes.torch_recipe import TorchRecipe
from undersong.shared.learning.metrics import Unmeasurable, metrics_of
from undersong.shared.statistics import likelihood
from undersong.shared.wire.profiles import Column

COLUMNS = tuple(Column(name=name, type="number") for name in ("a", "came", "b"))
COX = {"task": "survival", "event": "came", "model": "logistic", "batch_size": 0, "learning_rate": 1.0, "epochs": 10}


def patients(rows: int, seed: int, baseline: float = 1.0, ties: int | None = None) -> Dataset:
    """Return rows whose hazard is baseline x exp(a - b / 2), a third of them cut short; times 1 to `ties` if given."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, rows))
    time = random.exponential(1 / (baseline * np.exp(a - b / 2)))
    cut = random.exponential(2 / baseline, rows)
    came, time = (time <= cut).astype(float), np.minimum(time, cut)
    if ties is not None:
        time = np.floor(ties * np.argsort(np.argsort(time)) / rows) + 1
    train = np.arange(rows * 3 // 4)
    return Dataset("made", COLUMNS, np.stack([a, came, b], 1), time, train, np.arange(train.size, rows), "time")


def loss_and_gradient(eta: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    import torch  # not at the top: each worker collects this file

    said = torch.tensor(eta[:, None], dtype=torch.float64, requires_grad=True)
    loss = cox_loss(said, torch.from_numpy(ranked(labels)))
    loss.backward()
    return float(loss.detach()), said.grad[:, 0].numpy()


def written_out(eta: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
    """Efron's partial log-likelihood, sum by sum."""
    value = 0.0
    for moment in np.unique(time[event > 0]):
        dead = (time == moment) & (event > 0)
        risk, own, d = np.exp(eta[time >= moment]).sum(), np.exp(eta[dead]).sum(), int(dead.sum())
        value += eta[dead].sum() - sum(np.log(risk - place / d * own) for place in range(d))
    return float(value)


@pytest.mark.parametrize("ties", [None, 1, 7])
def test_the_loss_is_efrons_partial_likelihood_over_the_rows(ties: int | None) -> None:
    data = patients(80, 0, ties=ties)
    eta, labels = np.random.default_rng(1).normal(0, 2, 80), np.stack([data.label, data.features[:, 1]], 1)
    loss, gradient = loss_and_gradient(eta, labels)
    wanted = written_out(eta, *labels.T)
    assert loss == pytest.approx(-wanted / 80, rel=1e-9)
    step = np.eye(80)[3] * 1e-5
    slope = (written_out(eta + step, *labels.T) - written_out(eta - step, *labels.T)) / 2e-5
    assert gradient[3] == pytest.approx(-slope / 80, rel=1e-4)
    assert loss_and_gradient(eta + 700, labels)[0] == pytest.approx(loss, rel=1e-9), "no constant changes it"


@pytest.mark.parametrize("eta", [[900.0, 1, 2], [1, 900, -10], [-900, -1, 0], [1e30, -1e30, 0]])
def test_hazards_that_differ_beyond_all_measure_give_a_finite_loss(eta: list[float]) -> None:
    labels = np.array([[1, 1], [2, 1], [2, 1]], float)
    loss, gradient = loss_and_gradient(np.array(eta), labels)
    assert np.isfinite(loss)
    first, tied = np.logaddexp.reduce(eta) - eta[0], np.logaddexp(eta[1], eta[2])
    assert loss == pytest.approx((first + 2 * tied - np.log(2) - eta[1] - eta[2]) / 3)
    assert np.isfinite(gradient).all()


def test_a_step_without_events_changes_nothing() -> None:
    loss, gradient = loss_and_gradient(np.arange(3.0), np.array([[1, 0], [2, 0], [3, 0]], float))
    assert loss == 0
    assert not gradient.any()


def test_losses_weighed_by_rows_add_up_to_the_likelihood_stratified_by_site() -> None:
    sites = [patients(40, 0), patients(100, 1, baseline=5.0)]
    total, stratified = 0.0, 0.0
    for site in sites:
        eta, labels = site.features[:, 0], np.stack([site.label, site.features[:, 1]], 1)
        total += len(eta) * loss_and_gradient(eta, labels)[0]
        stratified += likelihood.cox(eta[:, None], labels[:, 1], np.ones(1), labels[:, 0]).value
    assert total == pytest.approx(-stratified, rel=1e-9)


def test_a_linear_model_over_all_rows_has_the_coefficients_of_coxs() -> None:
    data = patients(400, 2, ties=50)
    model = train_in_one_place(RECIPE, data, COX, rounds=30)
    x = data.features[data.train][:, [0, 2]]
    at = np.zeros(2)
    for _ in range(8):
        found = likelihood.cox(x, data.features[data.train, 1], at, data.label[data.train])
        at = at + np.linalg.solve(found.information, found.gradient)
    weights = model["0.weight"][0, ::2] / x.std(axis=0)  # each column has an input that says whether it is missing
    assert weights == pytest.approx(at, abs=1e-4)
    said = RECIPE.predict(model, {"a": x[:, 0], "b": x[:, 1]}, COX)
    assert np.diff(said - x @ at) == pytest.approx(0, abs=1e-3), "predictions are log hazards, up to a constant"


def test_both_models_learn_where_sites_have_other_baselines() -> None:
    sites = [patients(600, 0), patients(600, 1, baseline=20.0)]
    a, came, b = sites[1].features[sites[1].test].T
    concordant, pairs = likelihood.concordance(a - b / 2, came, sites[1].label[sites[1].test])
    for changes in ({}, {"model": "mlp", "hidden": [16], "batch_size": 64, "learning_rate": 0.05}):
        params = COX | changes
        found = score(RECIPE, train_in_one_place(RECIPE, sites[0], params, rounds=4), sites[1], params)
        assert found["concordance"] > concordant / pairs - 0.03, changes
        assert 0 < found["events"] < found["examples"] == 150
        assert found["pairs"] == pairs


@pytest.mark.parametrize("ties", [None, 5])
def test_sums_count_pairs_as_they_are_counted_one_by_one(ties: int | None) -> None:
    data = patients(60, 4, ties=ties)
    time, event, eta = data.label, data.features[:, 1], np.round(data.features[:, 0], 1)
    concordant = compared = 0.0
    for i in range(60):
        for j in range(60):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                compared += 1
                concordant += (eta[i] > eta[j]) + (eta[i] == eta[j]) / 2
    sums = survival_sums(np.stack([time, event], 1), eta)
    assert sums.tolist() == pytest.approx([60, -written_out(eta, time, event), event.sum(), concordant, compared])
    assert metrics_of("survival", sums)["concordance"] == concordant / compared


def test_without_events_there_is_no_concordance() -> None:
    sums = survival_sums(np.array([[1, 0], [2, 0]], float), np.zeros(2))
    assert metrics_of("survival", sums) == {"examples": 2, "loss": 0, "events": 0, "pairs": 0}
    assert not survival_sums(np.zeros((0, 2)), np.zeros(0)).any()
    with pytest.raises(Unmeasurable, match="diverged"):
        survival_sums(np.array([[1, 1]], float), np.array([np.inf]))


def test_rows_that_do_not_say_whether_the_event_came_are_in_no_part() -> None:
    data = patients(40, 0)
    data.features[[0, 35], 1] = np.nan
    made = with_events(data, "came")
    assert [column.name for column in made.columns] == ["a", "b"]
    assert made.features.shape == (40, 2)
    assert (made.train.size, made.test.size) == (29, 9)
    assert score(RECIPE, train_in_one_place(RECIPE, data, COX, rounds=1), data, COX)["examples"] == 9


def test_other_values_and_columns_are_refused_in_a_sentence() -> None:
    data = patients(40, 0)
    with pytest.raises(RecipeError, match=r"needs the column 'cane'.*came"):
        RECIPE.statistics(data, COX | {"event": "cane"}, 0)
    with pytest.raises(RecipeError, match="needs the column 'event'"):
        RECIPE.initial(data.shape, {"task": "survival"}, {}, 0)
    data.features[3, 1] = 2
    with pytest.raises(RecipeError, match="came says whether the event came, 1,"):
        RECIPE.statistics(data, COX, 0)


def test_own_recipes_may_learn_times_too() -> None:
    def build(shape, width: int = 4):
        from torch import nn

        return nn.Sequential(nn.Linear(shape.inputs, width), nn.Tanh(), nn.Linear(width, shape.outputs))

    own = TorchRecipe(__file__, build=build, task="survival")
    params = {"event": "came", "learning_rate": 0.1}
    sites = [patients(120, 0), patients(120, 1)]
    assert score(own, train_in_one_place(own, pool(sites), params, rounds=5), sites[0], params)["concordance"] > 0.7
    assert "survival" in TorchRecipe(__file__, build=build, task=None).spec.params_schema["properties"]["task"]["enum"]
    squared = TorchRecipe(__file__, build=build, task=None, loss=lambda said, y: ((said[:, 0] - y) ** 2).mean())
    assert "event" not in squared.spec.params_schema["properties"]
    with pytest.raises(RecipeError, match="no images"):
        TorchRecipe(__file__, build=build, task="survival", inputs=("image",))
    with pytest.raises(RecipeError, match="'survival' is unknown here"):
        NumpyRecipe(__file__, fit=lambda model, x, y: model, predict=lambda model, x: x[:, 0], task="survival")
