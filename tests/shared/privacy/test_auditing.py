"""Lower bounds on epsilon: the published numbers, and what they find in mechanisms whose epsilon is known."""

import math
from typing import Final

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from tests.effort import examples
from undersong.shared.privacy.auditing import (
    BadGuesses,
    Guesses,
    epsilon_lower_bound,
    guess,
    p_value,
    plan_one_run,
)

SEEDS: Final = 200
DELTA: Final = 1e-5


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "epsilon"), [(1000, 100, 95, 2.17), (1000, 100, 75, 0.70), (1000, 400, 300, 0.90)]
)
def test_bounds_of_known_counts(canaries: int, guesses: int, right: int, epsilon: float) -> None:
    assert epsilon_lower_bound(Guesses(canaries, guesses, right), 0.0) == pytest.approx(epsilon, abs=0.005)


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data(), epsilon=st.floats(0, 6), delta=st.sampled_from([0.0, 1e-6, 1e-4, 1e-2]))
def test_p_value_is_that_of_the_published_loop(data: st.DataObject, epsilon: float, delta: float) -> None:
    guesses = data.draw(st.integers(1, 80))
    made = Guesses(data.draw(st.integers(guesses, 1000)), guesses, data.draw(st.integers(0, guesses)))
    chance = 1 / (1 + math.exp(-epsilon))
    worst = total = 0.0
    for fewer in range(1, made.right + 1):
        total += binom.pmf(made.right - fewer, guesses, chance)
        worst = max(worst, total / fewer)
    published = min(1.0, binom.sf(made.right - 1, guesses, chance) + worst * delta * 2 * made.canaries)
    assert p_value(made, epsilon, delta) == pytest.approx(published, abs=1e-12)


@settings(max_examples=examples(50), deadline=None)
@given(guesses=st.integers(1, 500), wrong=st.integers(0, 499), delta=st.sampled_from([0.0, 1e-6, 1e-3]))
def test_a_further_wrong_guess_raises_no_bound(guesses: int, wrong: int, delta: float) -> None:
    right = max(1, guesses - wrong)
    more = epsilon_lower_bound(Guesses(1000, guesses, right), delta)
    assert epsilon_lower_bound(Guesses(1000, guesses, right - 1), delta) <= more


def test_scores_that_say_nothing_give_no_bound() -> None:
    coins = np.random.default_rng(1).random(1000) < 0.5
    assert epsilon_lower_bound(guess(np.zeros(1000), coins, 200), 0.0) < 0.5
    assert epsilon_lower_bound(guess(-coins.astype(float), coins, 200), 0.0) == 0.0


@pytest.mark.parametrize("counts", [(10, 0, 0), (10, 5, 6), (10, 11, 5), (10, 5, -1)])
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(BadGuesses):
        Guesses(*counts)
    with pytest.raises(BadGuesses):
        guess(np.zeros(4), np.zeros(5, bool), 2)
    with pytest.raises(BadGuesses):
        guess(np.zeros(4), np.zeros(4, bool), 1)


@pytest.mark.parametrize("rounds", [1, 100])
def test_gaussian_mechanisms_keep_their_claim_and_halved_noise_does_not(rounds: int) -> None:
    signal = 1.0  # sqrt(rounds) / z
    claim = float(get_epsilon_gaussian(1 / signal, DELTA))
    plan = plan_one_run(signal, DELTA)
    assert plan.expected_at_half > claim
    seeds = examples(SEEDS)
    above = {factor: sum(_bound(seed, plan.canaries, plan.guesses, factor) > claim for seed in range(seeds))
             for factor in (1, 2)}  # fmt: skip
    assert above[1] <= 0.05 * seeds
    assert above[2] >= 0.9 * seeds


def _bound(seed: int, canaries: int, guesses: int, signal: float) -> float:
    random = np.random.default_rng(seed)
    coins = random.random(canaries) < 0.5
    return epsilon_lower_bound(guess(random.normal(size=canaries) + signal * coins, coins, guesses), DELTA)


def test_a_bound_below_the_claim_of_an_optimal_attack_is_nearly_reached_only_by_less_noise() -> None:
    """The tightest pure mechanism there is, randomised response, is exceeded as rarely as the confidence says."""
    epsilon, canaries, seeds = 1.0, 1000, examples(SEEDS)
    chance = 1 / (1 + math.exp(-epsilon))
    random = np.random.default_rng(7)
    bounds = [epsilon_lower_bound(Guesses(canaries, canaries, int(random.binomial(canaries, chance))), 0.0)
              for _ in range(seeds)]  # fmt: skip
    assert sum(bound > epsilon for bound in bounds) <= math.ceil(0.05 * seeds) + 4
    assert max(bounds) > 0.9 * epsilon
