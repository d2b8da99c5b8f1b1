"""What a site tells of its own metrics, and what never."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.services.agent.domain.test_rules import changed
from undersong.services.agent.domain.rules import SiteMetricsRule
from undersong.services.agent.rounds.site_metrics import own_metrics
from undersong.services.agent.runner.protocol import RunOutcome
from undersong.shared.learning.metrics import binary_sums, by_groups, metrics_of, multiclass_sums, regression_sums

ASKED = changed(kind="evaluate", metrics_layout="binary", length=9, site_metrics=True)
RANDOM = np.random.default_rng(5)
Y = (RANDOM.random(300) < 0.4).astype(float)
SUMS = binary_sums(Y, np.clip(0.3 * Y + RANDOM.random(300) / 2, 0, 1))


@pytest.fixture
def outcome(tmp_path: Path) -> RunOutcome:
    path = tmp_path / "sums"
    np.asarray(np.concatenate([SUMS, SUMS]), "<f8").tofile(path)
    return RunOutcome(sums=path, metrics_layout=by_groups("binary", 1))


def test_metrics_are_told_as_they_are_without_counts_of_classes(outcome: RunOutcome) -> None:
    told = own_metrics(SiteMetricsRule(100, 0.0), ASKED, outcome)
    exact = metrics_of("binary", SUMS)
    assert told == {name: exact[name] for name in told}
    assert {"examples", "accuracy", "auc", "pr_auc", "loss"} <= set(told)
    assert not {"positives", "auc_error"} & set(told)


def test_nothing_is_told_unless_the_policy_and_the_round_want_it(outcome: RunOutcome) -> None:
    assert own_metrics(None, ASKED, outcome) == {}
    assert own_metrics(SiteMetricsRule(100, 0.0), ASKED.model_copy(update={"site_metrics": False}), outcome) == {}
    assert own_metrics(SiteMetricsRule(301, 0.0), ASKED, outcome) == {}


def test_few_rows_of_a_class_are_not_told(outcome: RunOutcome, tmp_path: Path) -> None:
    few = tmp_path / "few"
    np.asarray(binary_sums(np.arange(300) < 9, np.full(300, 0.5)), "<f8").tofile(few)
    assert own_metrics(SiteMetricsRule(20, 0.0), ASKED, replace(outcome, sums=few, metrics_layout="binary")) == {}


def test_the_concordance_of_few_events_is_not_told(outcome: RunOutcome, tmp_path: Path) -> None:
    path, rule = tmp_path / "times", SiteMetricsRule(20, 0.0)
    for events, told in ((9, False), (10, True)):
        np.array([300, 40.0, events, 500, 900], "<f8").tofile(path)
        found = own_metrics(rule, ASKED, replace(outcome, sums=path, metrics_layout="survival"))
        assert ("concordance" in found) is told
        assert not {"events", "pairs"} & set(found)


def test_a_metric_of_few_rows_is_left_out_where_the_others_are_told(tmp_path: Path) -> None:
    rule, path = SiteMetricsRule(20, 0.0), tmp_path / "sums"
    for rare, told in ((0, True), (1, False), (9, False), (10, True)):
        labels = np.repeat([0, 1, 2], [60, 60, rare])
        np.asarray(multiclass_sums(labels, np.full((labels.size, 3), 1 / 3)), "<f8").tofile(path)
        found = own_metrics(rule, ASKED, RunOutcome(sums=path, metrics_layout="multiclass:3"))
        assert "accuracy" in found
        assert ("balanced_accuracy" in found) is told
        labels = np.repeat([0.0, 5.0], [60, rare])
        np.asarray(regression_sums(labels, labels + 1), "<f8").tofile(path)
        found = own_metrics(rule, ASKED, RunOutcome(sums=path, metrics_layout="regression"))
        assert "mae" in found
        assert ("mape" in found) is (rare >= 10)


def test_noise_blurs_shares_and_errors(outcome: RunOutcome, tmp_path: Path) -> None:
    rule = SiteMetricsRule(20, 0.05)
    found = [own_metrics(rule, ASKED, outcome) for _ in range(200)]
    auc = np.array([each["auc"] for each in found])
    assert auc.std() == pytest.approx(0.05, rel=0.35)
    assert auc.max() <= 1
    assert all(each["examples"] == 300 for each in found)
    numbers = tmp_path / "numbers"
    np.asarray(regression_sums(np.arange(100.0), np.arange(100.0) + 40), "<f8").tofile(numbers)
    errors = [
        own_metrics(rule, ASKED, RunOutcome(sums=numbers, metrics_layout="regression"))["mae"] for _ in range(200)
    ]
    assert np.std(errors) == pytest.approx(40 * 0.05, rel=0.35)
