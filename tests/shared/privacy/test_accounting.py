"""Epsilon is what is published for the same events, and calibrated noise costs what was asked."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.shared.privacy.accounting import Unaffordable, epsilon_of, merge, noise_for, noise_until
from undersong.shared.privacy.distributed import NoiseTooFine, site_sigma, sum_rho
from undersong.shared.wire.privacy import (
    GaussianEvent,
    NonPrivateEvent,
    PoissonGaussianEvent,
    PrivacyEvent,
    ZeroConcentratedEvent,
    privacy_event,
)


def gaussian(noise: float, count: int = 1) -> GaussianEvent:
    return GaussianEvent(noise_multiplier=noise, count=count)


@pytest.mark.parametrize(
    ("events", "delta", "epsilon"),
    [
        ([gaussian(1.0)], 1e-5, "4.37718"),  # Balle and Wang's formula
        ([gaussian(10.0, 100)], 1e-5, "4.37718"),
        ([gaussian(10.0, 100)], 1e-6, "4.8866"),
        ([PoissonGaussianEvent(noise_multiplier=1.0, probability=0.01, count=1000)], 1e-6, "2.1245"),
        ([PoissonGaussianEvent(noise_multiplier=1.1, probability=256 / 60_000, count=14_063)], 1e-5, "2.382"),
        ([ZeroConcentratedEvent(rho=0.81)], 1e-10, "8.92"),  # the deployment that was published with 8.9
    ],
)
def test_published_pairs(events: list[PrivacyEvent], delta: float, epsilon: str) -> None:
    digits = len(epsilon.partition(".")[2])
    assert f"{epsilon_of(events, delta):.{digits}f}" == epsilon


def test_an_exact_answer_is_without_bound() -> None:
    assert epsilon_of([], 1e-6) == 0.0
    assert epsilon_of([gaussian(5.0), NonPrivateEvent()], 1e-6) == math.inf


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 50), st.integers(1, 50)), min_size=1, max_size=6), st.floats(1e-9, 1e-3))
def test_gaussians_cost_the_same_in_any_grouping(parts: list[tuple[float, int]], delta: float) -> None:
    events: list[PrivacyEvent] = [gaussian(noise, count) for noise, count in parts]
    singly: list[PrivacyEvent] = [gaussian(noise) for noise, count in parts for _ in range(count)]
    assert epsilon_of(events, delta) == pytest.approx(epsilon_of(singly[::-1], delta), rel=1e-9)
    assert len(merge(events)) == 1


def test_mixed_events_cost_more_than_each_and_no_more_than_their_sum() -> None:
    one: PrivacyEvent = gaussian(4.0)
    other: PrivacyEvent = PoissonGaussianEvent(noise_multiplier=2.0, probability=0.05, count=10)
    third: PrivacyEvent = ZeroConcentratedEvent(rho=0.05)
    for events in ([one, other], [one, third], [one, other, third]):
        single = [epsilon_of([event], 1e-6) for event in events]
        assert max(single) < epsilon_of(events, 1e-6) < sum(single) * 1.05


@settings(max_examples=examples(30), deadline=None)
@given(st.floats(0.05, 20), st.sampled_from([1e-9, 1e-6, 1e-3]), st.integers(1, 500))
def test_calibrated_noise_costs_what_was_asked(epsilon: float, delta: float, rounds: int) -> None:
    noise = noise_for(epsilon, delta, rounds)
    assert epsilon * 0.999 < epsilon_of([gaussian(noise, rounds)], delta) <= epsilon


def test_noise_found_by_search_is_enough_and_hardly_more() -> None:
    noise = noise_until(2.0, lambda z: epsilon_of([gaussian(z, 40)], 1e-6))
    assert noise == pytest.approx(noise_for(2.0, 1e-6, 40), rel=2e-4)
    assert epsilon_of([gaussian(noise, 40)], 1e-6) <= 2.0


def test_very_many_noisy_steps_are_accounted_for_quickly_by_renyis_bound() -> None:
    """A distribution of a hundred million steps would take minutes."""
    started = time.process_time()
    many = [PoissonGaussianEvent(noise_multiplier=9000.0, probability=0.1, count=10**8)]
    assert epsilon_of(many, 1e-6) == epsilon_of(many, 1e-6, quick=True)
    assert time.process_time() - started < 5


def test_noise_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(Unaffordable, match="fewer rounds"):
        noise_for(1e-4, 1e-9, 100_000)
    with pytest.raises(Unaffordable, match="larger epsilon"):
        noise_until(1e-5, lambda z: epsilon_of([gaussian(z, 10_000)], 1e-9))


def test_events_are_read_back_as_they_were_written() -> None:
    for event in (gaussian(2.5, 3), ZeroConcentratedEvent(rho=0.5), NonPrivateEvent()):
        assert privacy_event(event.model_dump(mode="json")) == event


def test_noise_of_all_sites_costs_what_noise_of_one_server_would() -> None:
    sensitivity, sites, noise = 2.0**20, 10, 10.0
    sigma = site_sigma(noise, sensitivity, sites)
    rho = sum_rho(sigma, sensitivity, 1_000_000, sites)
    assert rho == pytest.approx(1 / (2 * noise**2), rel=1e-6)
    cost = epsilon_of([ZeroConcentratedEvent(rho=rho, count=100)], 1e-6)
    assert f"{cost:.3f}" == "5.222"


def test_noise_below_four_steps_is_refused() -> None:
    with pytest.raises(NoiseTooFine, match="modulus_bits"):
        site_sigma(0.5, 20.0, 10)
    assert sum_rho(1.0, 0.3, 1_000_000, 10) > 2 * sum_rho(1.0, 0.3, 1, 10)  # why: measured, 2.4 times


def test_many_kinds_of_steps_are_bounded_quickly() -> None:
    """Another party names the steps of its jobs: Rényi's bound stands where each would need a distribution."""
    kinds = [PoissonGaussianEvent(noise_multiplier=9 + at / 7, probability=0.01, count=9) for at in range(200)]
    started = time.process_time()
    assert epsilon_of(kinds[:100], 1e-6) < epsilon_of(kinds, 1e-6) < 3
    assert time.process_time() - started < 20
