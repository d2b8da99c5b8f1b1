"""Cohorts: the coordinator's own choice where it can be made, tosses that are independent, dropouts at their rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.services.coordinator.domain.cohort import CohortRule, choose
from undersong.services.coordinator.domain.progress import Step
from undersong.shared.wire.manifest import RoundKind
from undersong.simulate.conditions import SampleRule, slow_of
from undersong.simulate.sampling import MOST_RANKED, Population, answering, cohort_of, slowness_of, timed


def step(number: int) -> Step:
    return Step(RoundKind.TRAIN, number, 1)


@pytest.mark.parametrize("clients", [Population(500), Population(3, ("north", "east", "south"))])
def test_up_to_ten_thousand_clients_the_coordinators_code_chooses(clients: Population) -> None:
    rule = CohortRule(2, None, 0.1, 7)
    for number in range(1, 5):
        cohort = cohort_of(SampleRule(), rule, clients, step(number))
        assert sorted(map(clients.id_of, cohort.tolist())) == list(choose(clients.ids(), rule, step(number).draw))


def test_beyond_that_as_many_are_drawn_without_replacement_and_evenly() -> None:
    clients, rule = Population(100 * MOST_RANKED), CohortRule(3, None, 0.001, 7)
    cohorts = [cohort_of(SampleRule(), rule, clients, step(number)) for number in range(30)]
    assert {cohort.size for cohort in cohorts} == {MOST_RANKED // 10}
    assert all((np.diff(cohort) > 0).all() for cohort in cohorts)
    mean = np.concatenate(cohorts).mean() / clients.count
    assert abs(mean - 0.5) < 5 * np.sqrt(1 / 12 / 30_000)
    assert np.array_equal(cohorts[0], cohort_of(SampleRule(), rule, clients, step(0)))


def test_too_few_clients_are_no_cohort() -> None:
    assert not cohort_of(SampleRule(), CohortRule(4), Population(3), step(1)).size


def test_each_client_is_tossed_for_whoever_else_is_in() -> None:
    clients, rule, share, rounds = Population(200), CohortRule(3, None, 1.0, 3), 0.3, 400
    rows = np.zeros((rounds, clients.count))
    for number in range(rounds):
        rows[number, cohort_of(SampleRule(share, tossed=True), rule, clients, step(number))] = 1
    sizes = rows.sum(axis=1)
    wanted = clients.count * share * (1 - share)
    assert abs(rows.mean() - share) < 5 * np.sqrt(share * (1 - share) / rows.size)
    assert 0.7 * wanted < sizes.var() < 1.35 * wanted, "binomial, not of a fixed size"
    assert abs(np.corrcoef(rows[:, 0], rows[:, 1])[0, 1]) < 5 / np.sqrt(rounds)


def test_dropouts_at_their_rate() -> None:
    cohort = np.arange(20_000)
    assert answering(cohort, 0.0, 1, step(1)).all()
    there = answering(cohort, 0.25, 1, step(1))
    assert abs(there.mean() - 0.75) < 0.02
    assert not np.array_equal(there, answering(cohort, 0.25, 1, step(2)))


def test_slow_clients_are_slow_in_every_round_and_as_many_as_was_said() -> None:
    times = slowness_of(slow_of("0.1:20"), 1000, 3)
    assert np.array_equal(times, slowness_of(slow_of("0.1:20"), 1000, 3))
    assert sorted(set(times.tolist())) == [1.0, 20.0]
    assert (times == 20).sum() == 100
    spread = np.log(slowness_of(slow_of("lognormal:0.5"), 20_000, 3))
    assert abs(np.median(spread)) < 0.02
    assert abs(spread.std() - 0.5) < 0.01
    assert (slowness_of(slow_of("lognormal:0"), 10, 3) == 1).all()


@given(st.lists(st.floats(0.01, 1000), max_size=30), st.integers(1, 30), st.floats(0.5, 500))
def test_a_round_ends_with_those_that_are_enough_or_at_its_deadline(
    took: list[float], target: int, deadline: float
) -> None:
    clients = np.arange(len(took)) + 5
    found = timed(clients, np.array(took), target, deadline)
    assert found.takes.size + found.late == len(took)
    assert found.takes.size <= target
    within = sorted(each for each in took if each <= deadline)
    times = sorted(took[client - 5] for client in found.takes)
    assert times == within[:target], "the fastest"
    assert found.seconds == (within[target - 1] if len(within) >= target else deadline)
    assert (np.diff(found.takes) > 0).all()
