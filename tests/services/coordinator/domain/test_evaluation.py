"""What the coordinator makes of sites' own metrics."""

import json

import pytest

from undersong.services.coordinator.domain.evaluation import spread


@pytest.mark.parametrize("told", [1e200, -1.7e308, 1.7e308, 5e-324, 0.0])
def test_a_site_that_tells_absurd_numbers_leaves_a_result_that_can_be_kept(told: float) -> None:
    found = spread({"a": {"loss": told}, "b": {"loss": 0.5}, "c": {"loss": 1.5}})
    json.dumps(found, allow_nan=False)
    assert found["loss"]["worst_site"] == ("a" if told > 1.5 else "c")


def test_mean_and_deviation_count_each_site_once() -> None:
    found = spread({"a": {"auc": 0.7, "examples": 9.0}, "b": {"auc": 0.9, "examples": 90.0}, "c": {"mae": 1.0}})
    assert found["auc"] == {
        "mean": pytest.approx(0.8), "deviation": pytest.approx(0.1), "worst": 0.7, "worst_site": "a",
    }  # fmt: skip
    assert "mae" not in found, "one site has no spread"
