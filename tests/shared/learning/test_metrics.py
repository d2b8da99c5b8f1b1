"""Metrics from sums against scikit-learn on the rows."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as sklearn

from undersong.shared.learning.metrics import (
    MOST_GROUPS,
    LayoutUnknown,
    Reading,
    Unmeasurable,
    binary_sums,
    by_groups,
    cautions_of,
    check_sums,
    curves_of,
    evaluation_layout,
    layout_length,
    layout_of,
    metric_names,
    metrics_of,
    multiclass_sums,
    of_all,
    regression_sums,
    sums_of_groups,
)
from undersong.shared.wire.profiles import RecipeSpec, Task

RANDOM = np.random.default_rng(3)
Y = (RANDOM.random(3000) < 0.3).astype(float)
P = np.clip(0.35 * Y + RANDOM.normal(0.3, 0.2, 3000), 0.001, 0.999)


def test_binary_metrics_are_those_of_the_rows() -> None:
    found, said = metrics_of("binary", binary_sums(Y, P)), P >= 0.5
    assert found["examples"] == 3000
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(Y, said))
    assert found["loss"] == pytest.approx(sklearn.log_loss(Y, P))
    assert found["precision"] == pytest.approx(sklearn.precision_score(Y, said))
    assert found["recall"] == pytest.approx(sklearn.recall_score(Y, said))
    assert found["specificity"] == pytest.approx(sklearn.recall_score(1 - Y, ~said))
    assert found["f1"] == pytest.approx(sklearn.f1_score(Y, said))
    assert found["auc"] == pytest.approx(sklearn.roc_auc_score(Y, P), abs=1e-4)


def test_sites_sums_add_up_to_the_whole() -> None:
    parts = [binary_sums(Y[rows], P[rows]) for rows in np.array_split(np.arange(3000), 7)]
    assert metrics_of("binary", sum(parts[1:], parts[0])) == pytest.approx(metrics_of("binary", binary_sums(Y, P)))


def test_scores_at_the_ends() -> None:
    sums = binary_sums(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert sums.size == layout_length("binary")
    assert metrics_of("binary", sums)["auc"] == 1
    assert np.isfinite(binary_sums(np.array([1.0, 0.0]), np.array([0.0, 1.0]))).all()


def test_what_is_not_defined_is_left_out() -> None:
    only_negatives = metrics_of("binary", binary_sums(np.zeros(3), np.full(3, 0.1)))
    assert "auc" not in only_negatives
    assert "recall" not in only_negatives
    assert only_negatives["accuracy"] == 1
    assert metrics_of("binary", binary_sums(np.zeros(0), np.zeros(0))) == {"examples": 0}
    assert "r2" not in metrics_of("regression", regression_sums(np.ones(3), np.ones(3)))


def test_multiclass_metrics_are_those_of_the_rows() -> None:
    truth = RANDOM.integers(0, 4, 500)
    logits = RANDOM.normal(size=(500, 4)) + 2 * np.eye(4)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = metrics_of("multiclass:4", multiclass_sums(truth, probabilities))
    said = probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, said))
    assert found["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(truth, said))
    assert found["loss"] == pytest.approx(sklearn.log_loss(truth, probabilities))


def test_regression_metrics_are_those_of_the_rows() -> None:
    y, said = RANDOM.normal(5, 2, 400), RANDOM.normal(5, 2, 400)
    found = metrics_of("regression", regression_sums(y, said))
    assert found["mse"] == pytest.approx(sklearn.mean_squared_error(y, said))
    assert found["rmse"] == pytest.approx(sklearn.mean_squared_error(y, said) ** 0.5)
    assert found["mae"] == pytest.approx(sklearn.mean_absolute_error(y, said))
    assert found["r2"] == pytest.approx(sklearn.r2_score(y, said))


def test_groups_have_their_own_sums_behind_those_of_all_rows() -> None:
    layout = by_groups("regression", 2)
    assert (layout, of_all(layout), layout_length(layout)) == ("regression by 2", ("regression", 2), 24)
    assert by_groups("regression", 0) == "regression"
    every, group = regression_sums(np.array([1.0, 2, 3]), np.zeros(3)), regression_sums(np.array([3.0]), np.zeros(1))
    sums = np.concatenate([every, group, np.zeros(8)])
    assert metrics_of(layout, sums) == metrics_of("regression", every)
    assert sums_of_groups(layout, sums)[0].tolist() == group.tolist()
    for wrong in ("regression by 0", "regression by x", f"regression by {MOST_GROUPS + 1}", "by 2"):
        with pytest.raises(LayoutUnknown):
            layout_length(wrong)


def test_a_recipe_may_name_its_own_means() -> None:
    named = RecipeSpec(name="own", version="1", digest="0" * 64, task=Task.BINARY, metrics=("eval_loss", "dice"))
    layout = evaluation_layout(named, {"task": "regression"})
    assert (layout, layout_length(layout)) == ("means:eval_loss,dice", 3)
    one, two = np.array([4, 2.0, 3.0]), np.array([1, 1.0, 0.5])
    assert metrics_of(layout, one + two) == {"examples": 5, "eval_loss": 0.6, "dice": 0.7}
    assert metric_names(layout) == ["dice", "eval_loss", "examples"]
    assert sums_of_groups("means:a by 2", np.arange(6.0)).tolist() == [[2, 3], [4, 5]]
    for wrong in (("a", "a"), ("examples",), ("a b",), ("a" * 33,), ("a" * 30, "b" * 30)):
        with pytest.raises(LayoutUnknown):
            evaluation_layout(named.model_copy(update={"metrics": wrong}), {})


def test_layouts_have_names() -> None:
    assert [layout_of(Task.BINARY), layout_of(Task.REGRESSION)] == ["binary", "regression"]
    assert layout_of(Task.MULTICLASS, 10) == "multiclass:10"
    assert [layout_length(name) for name in ("binary", "regression", "multiclass:10")] == [6 + 6 * 2048, 8, 103]
    for name in ("", "ordinal", "multiclass:", "multiclass:1", "multiclass:1001", "multiclass:x"):
        with pytest.raises(LayoutUnknown):
            layout_length(name)
    with pytest.raises(LayoutUnknown):
        layout_of(Task.MULTICLASS)
    with pytest.raises(LayoutUnknown):
        metrics_of("binary", np.zeros(5))


def spec(task: Task, classes: int | None = None, /, **properties: object) -> RecipeSpec:
    return RecipeSpec(
        name="own", version="1", digest="0" * 64, task=task, classes=classes, params_schema={"properties": properties}
    )


def test_a_job_decides_the_layout_where_the_recipe_lets_it() -> None:
    fixed = spec(Task.MULTICLASS, 4)
    assert evaluation_layout(fixed, {"classes": 9}) == "multiclass:4", "it has no such parameter"
    assert evaluation_layout(spec(Task.BINARY), {}) == "binary"
    free = spec(Task.BINARY, 2, task={"type": "string"}, classes={"type": "integer"})
    assert evaluation_layout(free, {}) == "binary"
    assert evaluation_layout(free, {"task": "regression"}) == "regression"
    for classes in range(2, 51):
        assert evaluation_layout(free, {"task": "multiclass", "classes": classes}) == f"multiclass:{classes}"
    assert evaluation_layout(spec(Task.MULTICLASS, classes={"default": 7}), {}) == "multiclass:7"


@pytest.mark.parametrize(
    ("known", "params", "says"),
    [
        (spec(Task.MULTICLASS), {}, "how many classes"),
        (spec(Task.SUMMARY), {}, "no evaluation"),
        (spec(Task.BINARY, task={}), {"task": "ranking"}, "no evaluation"),
        (spec(Task.BINARY, task={}), {"task": ["binary"]}, "no evaluation"),
        *[
            (spec(Task.MULTICLASS, classes={}), {"classes": wrong}, "2 to 1000")
            for wrong in (1, 1001, True, "3", 3.0, [], {})
        ],
    ],
)
def test_a_layout_that_there_is_not_is_refused(known: RecipeSpec, params: dict[str, object], says: str) -> None:
    with pytest.raises(LayoutUnknown, match=says):
        evaluation_layout(known, params)


def test_sums_of_another_length_or_that_are_not_finite_are_refused() -> None:
    check_sums("regression", np.ones(8))
    with pytest.raises(LayoutUnknown, match=r"6 sums, and its layout regression 8"):
        check_sums("regression", np.ones(6))
    with pytest.raises(LayoutUnknown, match="finite"):
        check_sums("regression", np.array([1.0, np.nan, 0, 0, 0, 0, 0, 0]))


NAN = float("nan")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: binary_sums(np.array([0, 1]), np.array([NAN, 0.5])),
        lambda: binary_sums(np.array([0, 1]), np.array([np.inf, 0.5])),
        lambda: binary_sums(np.array([0, 1]), np.array([0.5, 1.5])),
        lambda: binary_sums(np.array([0, 1]), np.array([0.5, -0.5])),
        lambda: binary_sums(np.array([0, 2]), np.array([0.5, 0.5])),
        lambda: binary_sums(np.array([0, NAN]), np.array([0.5, 0.5])),
        lambda: binary_sums(np.array([0, 1]), np.array([[0.5, 0.5]])),
        lambda: binary_sums(np.array([0, 1]), np.array([0.5])),
        lambda: multiclass_sums(np.array([0, 3]), np.full((2, 3), 1 / 3)),
        lambda: multiclass_sums(np.array([0, 0.5]), np.full((2, 3), 1 / 3)),
        lambda: multiclass_sums(np.array([0, -1]), np.full((2, 3), 1 / 3)),
        lambda: multiclass_sums(np.array([0, 1]), np.array([[NAN, 1.0], [0, 1]])),
        lambda: multiclass_sums(np.array([0, 1]), np.full((3, 3), 1 / 3)),
        lambda: regression_sums(np.array([0.0, NAN]), np.zeros(2)),
        lambda: regression_sums(np.zeros(2), np.array([0.0, np.inf])),
        lambda: regression_sums(np.zeros(2), np.array([0.0, 1e200])),
        lambda: regression_sums(np.zeros(2), np.zeros((2, 1))),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(Unmeasurable):
        wrong()


def test_scores_that_are_off_by_rounding_are_taken() -> None:
    assert np.isfinite(binary_sums(np.array([0, 1]), np.array([-1e-9, 1 + 1e-9]))).all()


@pytest.mark.parametrize(
    ("positives", "negatives", "said"),
    [
        (50, 50, None),
        (49, 5000, "of the 5049 rows evaluated 49 are positives: with fewer than 50 the auc can be off by chance"),
        (5000, 3, "3 are negatives"),
        (0, 300, "of the 300 rows evaluated 0 are positives: there is no auc"),
        (1, 1, "1 are positives"),
    ],
)
def test_an_auc_from_few_rows_of_a_class_is_told_with_its_error_by_chance(
    positives: int, negatives: int, said: str | None
) -> None:
    truth = np.repeat([1, 0], [positives, negatives])
    metrics = metrics_of("binary", binary_sums(truth, RANDOM.uniform(0, 1, truth.size)))
    assert metrics["positives"] == positives
    found = cautions_of(metrics)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_the_error_by_chance_is_the_spread_of_the_auc() -> None:
    """Over many draws of 12 positives and 300 negatives from one pair of distributions."""
    drawn = []
    for _ in range(400):
        truth = np.repeat([1, 0], [12, 300])
        scores = 1 / (1 + np.exp(-(RANDOM.normal(size=312) + 1.2 * truth)))
        drawn.append(metrics_of("binary", binary_sums(truth, scores)))
    spread = 1.96 * np.std([metrics["auc"] for metrics in drawn])
    (said,) = cautions_of(drawn[0] | {"auc": float(np.mean([metrics["auc"] for metrics in drawn]))})
    told = re.search(r"by about ([0-9.]+), with 95 %", said)
    assert told is not None
    assert float(told[1]) == pytest.approx(spread, rel=0.25)


def test_rare_classes_and_rows_that_are_not_there_are_told() -> None:
    truth = np.repeat([0, 1, 2], [40, 19, 0])
    metrics = metrics_of("multiclass:3", multiclass_sums(truth, np.full((59, 3), 1 / 3)))
    assert metrics["rare_classes"] == 2
    assert "2 classes have fewer than 20 of the 59 rows evaluated" in cautions_of(metrics)[0]
    assert cautions_of(metrics_of("regression", regression_sums(np.ones(3), np.ones(3)))) == []
    assert "hold out none" in cautions_of(metrics_of("binary", binary_sums(np.zeros(0), np.zeros(0))))[0]
    assert cautions_of({}) == []
    assert not {"positives", "rare_classes"} & {*metric_names("binary"), *metric_names("multiclass:3")}


@pytest.mark.parametrize(("share", "noise", "rows"), [(0.3, 1.0, 3000), (0.02, 0.5, 20_000), (0.5, 3.0, 400)])
def test_average_precision_is_within_its_error_of_that_of_the_rows(share: float, noise: float, rows: int) -> None:
    y = (RANDOM.random(rows) < share).astype(float)
    p = 1 / (1 + np.exp(-(2 * y - 2 + RANDOM.normal(0, noise, rows))))
    found, true = metrics_of("binary", binary_sums(y, p)), sklearn.average_precision_score(y, p)
    assert abs(found["pr_auc"] - true) <= found["pr_auc_error"] + 1e-9
    assert abs(found["pr_auc"] - true) < 0.003
    assert found["pr_auc_error"] < 0.06


@pytest.mark.parametrize("places", [1, 2, 3])
def test_equal_scores_are_one_step_of_precision(places: int) -> None:
    p = np.round(P, places).clip(0.001, 0.999)
    found = metrics_of("binary", binary_sums(Y, p))
    assert abs(found["pr_auc"] - sklearn.average_precision_score(Y, p)) <= found["pr_auc_error"] + 1e-9


def test_decisions_at_a_threshold_are_those_of_the_rows() -> None:
    found = metrics_of("binary", binary_sums(Y, P), Reading(threshold=0.3))
    said = found["threshold"] <= P
    assert found["threshold"] == pytest.approx(0.3, abs=0.002)
    assert found["f1"] == pytest.approx(sklearn.f1_score(Y, said), abs=1e-3)  # scores on the grid of places
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(Y, said), abs=1e-3)
    assert found["positives"] == Y.sum()


def test_the_best_threshold_is_told_on_request_and_found_again() -> None:
    sums = binary_sums(Y, P)
    assert "best_f1" not in metrics_of("binary", sums)
    found = metrics_of("binary", sums, Reading(best_threshold=True))
    of_rows = max(sklearn.f1_score(Y, edge <= P) for edge in np.unique(P))
    assert found["best_f1"] == pytest.approx(of_rows, abs=3e-3)
    again = metrics_of("binary", sums, Reading(threshold=found["best_threshold"]))
    assert (again["f1"], again["threshold"]) == (found["best_f1"], found["best_threshold"])


def test_the_calibration_error_is_that_of_ten_bins() -> None:
    bins = np.minimum((P * 10).astype(int), 9)
    true = sum(abs((P[bins == b] - Y[bins == b]).sum()) for b in range(10)) / len(Y)
    assert metrics_of("binary", binary_sums(Y, P))["ece"] == pytest.approx(true, abs=0.005)


def test_points_of_curves_rest_on_enough_rows() -> None:
    curves = curves_of("binary", binary_sums(Y, P), 100)
    assert sum(rows for _, _, rows in curves["calibration"]) == 3000
    assert min(rows for _, _, rows in curves["calibration"]) >= 100
    points = curves["precision_recall"]
    assert 10 < len(points) <= 20
    for threshold, recall, precision in points:
        assert recall == pytest.approx(sklearn.recall_score(Y, threshold <= P), abs=0.01)
        assert precision == pytest.approx(sklearn.precision_score(Y, threshold <= P), abs=0.01)
    assert curves_of("binary", binary_sums(Y[:50], P[:50]), 100) == {}
    assert curves_of("regression", regression_sums(Y, P), 20) == {}
    grouped = np.concatenate([binary_sums(Y, P), binary_sums(Y, P)])
    assert curves_of("binary by 1", grouped, 100) == curves


def test_errors_of_numbers_are_those_of_the_rows() -> None:
    y, said = RANDOM.normal(50, 9, 400), RANDOM.normal(52, 9, 400)
    found = metrics_of("regression", regression_sums(y, said), Reading(quantile=0.9))
    assert found["mape"] == pytest.approx(sklearn.mean_absolute_percentage_error(y, said))
    assert found["quantile_loss"] == pytest.approx(sklearn.mean_pinball_loss(y, said, alpha=0.9))
    assert "mape_rows" not in found
    some = metrics_of("regression", regression_sums(np.array([0.0, 2.0]), np.array([1.0, 3.0])))
    assert (some["mape"], some["mape_rows"]) == (0.5, 1)
