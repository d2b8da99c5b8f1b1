"""The AUC from bins against that of the rows: rare positives, narrow, tied and extreme scores, many sites."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.effort import examples
from undersong.shared.learning.metrics import binary_sums, metrics_of
from undersong.shared.secagg.quantise import decode_sums, encode_sums, plan_sums

ALLOWED = 0.002


def measured(truth: np.ndarray, scores: np.ndarray, sites: int = 3) -> tuple[float, float]:
    """The AUC and its bound after each site's sums went through the encoding of a round."""
    encoding = plan_sums(summands=sites)
    parts = np.array_split(np.random.default_rng(0).permutation(truth.size), sites)
    total = sum(encode_sums(binary_sums(truth[rows], scores[rows]), encoding) for rows in parts)
    found = metrics_of("binary", decode_sums(np.asarray(total), encoding))
    return found["auc"], found["auc_error"]


def rare(ratio: int, random: np.random.Generator) -> np.ndarray:
    """Truths of which one in `ratio` is positive, and at least 50."""
    rows = max(100_000, 60 * ratio)
    truth = np.zeros(rows)
    truth[random.choice(rows, max(60, rows // ratio), replace=False)] = 1
    return truth


@pytest.mark.parametrize("ratio", [2, 10, 100, 1000, 10_000])
@pytest.mark.parametrize(("spread", "apart"), [(0.8, 1.6), (0.1, 0.2), (3.0, 3.0), (0.5, 0.0)])
@pytest.mark.parametrize("calibrated", [True, False])
def test_the_error_is_small_down_to_one_in_ten_thousand(
    ratio: int, spread: float, apart: float, calibrated: bool
) -> None:
    random = np.random.default_rng(ratio)
    truth = rare(ratio, random)
    centre = np.log(1 / ratio) if calibrated else 0.0
    scores = 1 / (1 + np.exp(-(centre + spread * random.normal(size=truth.size) + apart * truth)))
    auc, bound = measured(truth, scores)
    error = abs(auc - roc_auc_score(truth, scores))
    assert error <= min(ALLOWED, bound)
    assert bound < 0.02


def test_a_model_that_has_hardly_learnt_is_measured_too() -> None:
    """All scores lie within one or two bins, and the places within them tell the order."""
    random = np.random.default_rng(5)
    truth = rare(100, random)
    scores = 1 / (1 + np.exp(-1e-3 * (random.normal(size=truth.size) + truth)))
    auc, bound = measured(truth, scores)
    assert abs(auc - roc_auc_score(truth, scores)) <= 0.005
    assert 0.05 < bound <= 1, "and the bound says how little the bins prove"


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-4, 0.1234567, 0.5, 1 - 1e-7, 1.0])
def test_equal_scores_are_half_and_that_is_exact(value: float) -> None:
    assert measured(np.arange(3001) % 7 == 0, np.full(3001, value)) == (0.5, 0.0)


def test_scores_of_exactly_0_and_1() -> None:
    truth, scores = np.array([0, 0, 1, 1, 0, 1]), np.array([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    assert measured(truth, scores) == (pytest.approx(roc_auc_score(truth, scores)), 0.0)
    assert measured(truth, truth.astype(float)) == (1.0, 0.0)
    assert measured(truth, 1.0 - truth) == (0.0, 0.0)


def test_without_positives_or_negatives_there_is_none() -> None:
    for truth in (np.zeros(5), np.ones(5)):
        assert not {"auc", "auc_error"} & set(metrics_of("binary", binary_sums(truth, np.full(5, 0.3))))


levels = st.lists(st.integers(-3500, 3500).map(lambda z: 1 / (1 + np.exp(-z / 100))), min_size=1, max_size=5)


@settings(deadline=None, max_examples=examples(60))
@given(st.integers(0, 2**32), st.sampled_from(["logits", "beta", "levels", "uniform"]), st.floats(-12, 4), levels)
def test_the_bound_holds_for_any_scores(seed: int, kind: str, centre: float, some: list[float]) -> None:
    random = np.random.default_rng(seed)
    truth = (random.random(2000) < random.uniform(0.02, 0.9)).astype(float)
    truth[:2] = 0, 1
    spread = 10 ** random.uniform(-5, 1.5)
    scores = {
        "logits": 1 / (1 + np.exp(-(centre + spread * (random.normal(size=2000) + truth)))),
        "beta": np.clip(random.beta(*(10 ** random.uniform(-1, 2, 2)), 2000), 1e-15, 1),
        "levels": random.choice(np.array(some), 2000),
        "uniform": np.clip(0.3 + spread * random.random(2000), 0, 1),
    }[kind]
    auc, bound = measured(truth, scores, sites=1 + seed % 9)
    apart = np.abs(scores[truth == 1][:, None] - scores[truth == 0])
    equal = np.mean((apart > 0) & (apart <= 1e-6)) / 2  # of the AUC: such pairs count as equal
    assert abs(auc - roc_auc_score(truth, scores)) <= bound + equal + 1e-5
