"""Membership inference: figures against counts by hand, and attacks on models whose memory is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.shared.privacy.membership import (
    BadScores,
    clopper_pearson,
    confidences,
    halves,
    membership_figures,
    offline_scores,
)


def test_clopper_pearson_is_the_published_interval() -> None:
    # Clopper and Pearson's own tables, as in Brown, Cai and DasGupta (2001), n = 20, x = 5
    share = clopper_pearson(5, 20)
    assert (share.low, share.high) == pytest.approx((0.0866, 0.4910), abs=1e-4)
    assert clopper_pearson(0, 10).low == 0.0
    assert clopper_pearson(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert clopper_pearson(10, 10).high == 1.0


def test_perfect_reversed_and_constant_scores() -> None:
    members = np.arange(400) < 200
    perfect = membership_figures(members.astype(float), members)
    assert (perfect.area.value, perfect.caught[0].members.value) == (1.0, 1.0)
    reversed_ = membership_figures(-members.astype(float), members)
    assert (reversed_.area.value, reversed_.caught[1].members.value) == (0.0, 0.0)
    constant = membership_figures(np.zeros(400), members)
    assert constant.area.value == 0.5
    assert constant.area.low < 0.5 < constant.area.high
    assert constant.caught[0].members.value == 0.0


@settings(max_examples=examples(100), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), members=st.integers(1, 60), others=st.integers(1, 300))
def test_rates_are_those_of_a_count_over_all_thresholds(seed: int, members: int, others: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 50, members + others).astype(float)  # with ties
    inside = np.arange(members + others) < members
    figures = membership_figures(scores, inside)
    for caught in figures.caught:
        best = 0.0
        for threshold in [-math.inf, *scores]:
            if np.mean(scores[~inside] > threshold) <= caught.rate:
                best = max(best, float(np.mean(scores[inside] > threshold)))
        assert caught.members.value == pytest.approx(best)
        assert caught.members.low <= caught.members.value <= caught.members.high
    pairs = scores[inside][:, None] - scores[~inside][None, :]
    assert figures.area.value == pytest.approx(np.mean(pairs > 0) + np.mean(pairs == 0) / 2)
    rates = [point[1] for point in figures.curve]
    assert rates == sorted(rates)
    assert figures.curve[-1] == (1.0, 1.0)


def test_scores_that_cannot_be_measured_are_refused() -> None:
    for scores, members in (
        (np.zeros(3), np.ones(3, bool)),
        (np.zeros(3), np.zeros(3, bool)),
        (np.zeros(3), np.zeros(4, bool)),
        (np.array([0.0, math.nan]), np.array([True, False])),
    ):
        with pytest.raises(BadScores):
            membership_figures(scores, members)
    with pytest.raises(BadScores):
        clopper_pearson(0, 0)


def test_confidence_is_the_logit_of_the_labels_probability_without_overflow() -> None:
    chances = np.array([0.01, 0.5, 0.9])
    assert confidences(-np.log(chances)) == pytest.approx(np.log(chances / (1 - chances)))
    assert np.isfinite(confidences(np.array([0.0, 1e-300, 40.0, 1e9, math.inf]))).all()
    assert (np.diff(confidences(np.linspace(1e-9, 100, 10_000))) < 0).all()


@pytest.mark.parametrize("shadows", [16, 64])
def test_lira_finds_members_where_a_common_threshold_does_not(shadows: int) -> None:
    """Rows differ in difficulty far more than membership moves them: only a fit for each row sees it."""
    random = np.random.default_rng(3)
    rows = 2000
    difficulty = random.normal(0, 5, rows)
    members = random.random(rows) < 0.5
    taught = halves(shadows, rows, random)
    assert set(taught.sum(axis=0)) == {shadows // 2}
    target = difficulty + 3.0 * members + random.normal(size=rows)
    others = difficulty + 3.0 * taught + random.normal(size=(shadows, rows))
    naive = membership_figures(target, members)
    fitted = membership_figures(offline_scores(target, others, taught), members)
    assert naive.area.value < 0.7
    assert fitted.area.low > 0.93
    assert fitted.caught[1].members.low > 5 * naive.caught[1].members.high
    chance = membership_figures(offline_scores(difficulty + random.normal(size=rows), others, taught), members)
    assert chance.area.low < 0.5 < chance.area.high


def test_lira_needs_two_models_that_did_not_see_a_row() -> None:
    with pytest.raises(BadScores):
        offline_scores(np.zeros(2), np.zeros((3, 2)), np.array([[True, True], [True, False], [False, False]]))
    with pytest.raises(BadScores):
        offline_scores(np.zeros(2), np.zeros((3, 3)), np.zeros((3, 3), bool))
