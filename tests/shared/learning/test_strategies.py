"""Server strategies against their published formulas, computed by hand."""

import math

import numpy as np
import pytest

from undersong.shared.learning.safetensors import BadModelFile
from undersong.shared.learning.strategies import (
    STRATEGIES,
    StrategyUnknown,
    load_state,
    save_state,
    step_into,
    step_model,
    strategy_named,
)

W0 = np.array([1.0, -2.0, 0.5], np.float32)
D1 = np.array([0.4, -0.2, 0.0], np.float32)
D2 = np.array([-0.1, 0.3, 0.2], np.float32)


def run(name: str, deltas: list[np.ndarray], **params: float) -> np.ndarray:
    model, state = W0, {}
    for delta in deltas:
        model, state = strategy_named(name).step(model, delta, state, params)
        assert model.dtype == np.float32
    return model


def test_fedavg_adds_the_mean_change() -> None:
    assert run("fedavg", [D1, D2]) == pytest.approx(W0 + D1 + D2)
    assert run("fedavg", [D1], eta=0.5) == pytest.approx(W0 + D1 / 2)


def test_fedavgm_follows_hsu_qi_brown() -> None:
    """v <- beta v + Delta; w <- w + eta v."""
    v1 = D1
    v2 = 0.9 * v1 + D2
    assert run("fedavgm", [D1, D2], eta=0.5) == pytest.approx(W0 + 0.5 * v1 + 0.5 * v2, rel=1e-6)
    assert run("fedavgm", [D1, D2], momentum=0) == pytest.approx(W0 + D1 + D2)


def by_the_paper(deltas: list[np.ndarray], second, eta: float, beta_1: float, beta_2: float, tau: float) -> np.ndarray:
    """Algorithm 2 of Reddi et al., coordinate by coordinate in float64, with v_-1 = tau^2."""
    w, m, v = W0.astype(float), np.zeros(3), np.full(3, tau**2)
    for delta in deltas:
        for i in range(3):
            m[i] = beta_1 * m[i] + (1 - beta_1) * delta[i]
            v[i] = second(v[i], float(delta[i]) ** 2, beta_2)
            w[i] += eta * m[i] / (v[i] ** 0.5 + tau)
    return w


SECOND = {
    "fedadagrad": lambda v, square, _: v + square,
    "fedyogi": lambda v, square, beta: v - (1 - beta) * square * np.sign(v - square),
    "fedadam": lambda v, square, beta: beta * v + (1 - beta) * square,
}


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.parametrize("params", [{}, {"eta": 0.03, "beta_1": 0.5, "tau": 0.1}])
def test_adaptive_strategies_follow_reddi_et_al(name, params) -> None:
    settings = {**STRATEGIES[name].defaults, **params}
    wanted = by_the_paper(
        [D1, D2, D1], SECOND[name], settings["eta"], settings["beta_1"], settings.get("beta_2", 0.0), settings["tau"]
    )
    assert run(name, [D1, D2, D1], **params) == pytest.approx(wanted, rel=1e-5)


def test_fedadams_first_step_by_hand() -> None:
    """beta 0.9 and 0.99, tau 0.1, eta 1, Delta 0.4: m = .04, v = .99 * .01 + .01 * .16 = .0115."""
    model, _ = strategy_named("fedadam").step(
        np.zeros(1, np.float32), np.array([0.4], np.float32), {}, {"eta": 1.0, "tau": 0.1}
    )
    assert float(model[0]) == pytest.approx(0.04 / (0.0115**0.5 + 0.1), rel=1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_state_survives_its_file(name) -> None:
    """Stopping between rounds changes nothing."""
    strategy = strategy_named(name)
    model, state = strategy.step(W0, D1, {})
    assert set(state) == set(strategy.moments)
    straight = strategy.step(model, D2, state)
    resumed = strategy.step(model, D2, load_state(save_state(state))[0])
    assert np.array_equal(straight[0], resumed[0])
    with pytest.raises(BadModelFile):
        load_state(b"noise")


@pytest.mark.parametrize("name", STRATEGIES)
def test_buffers_take_the_mean_whatever_the_optimiser(name) -> None:
    model, state = step_model(strategy_named(name), W0, D1, {}, {}, 2, scale_at=2)  # of which D1 says: as it was
    assert model[2] == W0[2] + D1[2]
    assert model[:2] == pytest.approx(strategy_named(name).step(W0[:2], D1[:2], {})[0])
    assert all(moment.shape == (2,) for moment in state.values())


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_by_parts_in_the_place_of_the_change_is_the_same_step(name) -> None:
    random, strategy = np.random.default_rng(1), strategy_named(name)
    whole, state = random.normal(size=11).astype(np.float32), {}
    parts, kept = whole.copy(), {}
    for _ in range(3):
        change = random.normal(size=11).astype(np.float32) / 8
        whole, state = step_model(strategy, whole, change, state, {}, 9, scale_at=10)
        pieces = [(at, parts[at : min(at + 4, 9)]) for at in range(0, 9, 4)] + [(9, parts[9:])]
        kept = step_into(change, strategy, pieces, change, kept, {}, 9, scale_at=10)
        parts = change
        assert np.array_equal(whole, parts)
        assert state.keys() == kept.keys()
        assert all(np.array_equal(state[moment], kept[moment]) for moment in state)
    if strategy.moments:
        with pytest.raises(StrategyUnknown, match="another strategy or model"):
            step_model(strategy, whole, change, state, {}, 8, scale_at=10)


@pytest.mark.parametrize(("name", "factor"), [("fednova", 3.0), ("qfedavg", 1 / 3)])
def test_a_step_is_rescaled_by_the_ratio_of_two_means(name, factor) -> None:
    """Sites knew the scale 5 and say 15 on the average: (15 / 5 - 1) / 16 in the place of ln 5."""
    model = np.array([1.0, -2.0, math.log(5)], np.float32)
    after, _ = step_model(strategy_named(name), model, np.array([0.4, 0.2, 2 / 16], np.float32), {}, {}, 2, scale_at=2)
    assert after == pytest.approx([1 + 0.4 * factor, -2 + 0.2 * factor, math.log(15)], rel=1e-6)
    with pytest.raises(StrategyUnknown, match=r"leave model\.version_id out"):
        step_model(strategy_named(name), model, D1, {}, {}, 2)


def test_no_change_leaves_the_model() -> None:
    for name in STRATEGIES:
        assert run(name, [np.zeros(3, np.float32)] * 3) == pytest.approx(W0)


def test_all_bad_parameters_are_told_at_once() -> None:
    with pytest.raises(StrategyUnknown) as caught:
        strategy_named("fedadam").settings({"eta": -1, "beta_1": 1, "beta_2": "x", "speed": 3, "tau": float("nan")})
    assert {fault.path for fault in caught.value.errors} == {"/eta", "/beta_1", "/beta_2", "/speed", "/tau"}
    with pytest.raises(StrategyUnknown, match="fedavg"):
        strategy_named("sgd")


def test_a_state_of_another_model_is_refused() -> None:
    _, state = strategy_named("fedadam").step(W0, D1, {})
    with pytest.raises(StrategyUnknown):
        strategy_named("fedadam").step(W0[:2], D1[:2], state)
    with pytest.raises(StrategyUnknown):
        strategy_named("fedavgm").step(W0, D1, state)
