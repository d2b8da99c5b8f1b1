"""Parallel coordinates: where lines and ticks are, which job is best."""

from tests.services.coordinator.dashboard.sweeps import make_sweep
from undersong.services.coordinator.dashboard.sweep_plot import ordered, parallel
from undersong.services.coordinator.domain.comparison import rises


def test_the_best_job_is_first_and_drawn_last() -> None:
    sweep = make_sweep()
    assert [job.place for job in ordered(sweep, "auc")][:2] == [1, 2]
    assert [job.place for job in ordered(sweep, "loss")][:1] == [3], "a small loss is good"
    assert [job.place for job in ordered(sweep, "auc")][-3:] == [10, 11, 12]
    drawn = parallel(sweep, "auc")
    assert (len(drawn.lines), drawn.missing) == (9, 3)
    assert drawn.lines[-1].job.place == 1
    assert (drawn.lines[-1].shade, drawn.lines[0].shade) == (4, 0)
    assert "lr 0.1, name fedadam, hidden [16]; auc 0.88" in drawn.lines[-1].text


def test_each_setting_has_an_axis_with_its_values() -> None:
    axes = parallel(make_sweep(), "auc").axes
    assert [each.title for each in axes] == ["lr", "name", "hidden", "auc"]
    assert [each.x for each in axes] == [0, 33.33, 66.67, 100]
    assert [(tick.text, round(tick.at)) for tick in axes[0].ticks] == [
        ("0.001", 0),
        ("0.01", 33),
        ("0.1", 67),
        ("1", 100),
    ]
    assert {tick.text for tick in axes[2].ticks} == {"[16]", "[32, 8]"}


def test_a_sweep_without_results_has_no_lines() -> None:
    sweep = make_sweep()
    bare = sweep.model_copy(
        update={"jobs": [job.model_copy(update={"metrics": {}}) for job in sweep.jobs], "metrics": []}
    )
    assert parallel(bare, "").lines == ()


def test_errors_are_better_small() -> None:
    assert [rises(name) for name in ("auc", "accuracy", "r2", "loss", "rmse", "mae", "bits_per_token")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip
