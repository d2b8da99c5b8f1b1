"""Windows of series, as recipes get them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.recipes.declaring import declared, refused
from undersong.recipes.datasets import BadDataset, describe_dataset, load_dataset, read_declarations, window_groups
from undersong.shared.wire.manifest import Fold

COLUMNS = [{"name": "speed", "type": "number"}, {"name": "rain", "type": "number"}]
SERIES = {"time": "at", "target": "speed", "lags": 2}
BY_TIME = {"by": "time", "column": "at", "validation_from": 6, "test_from": 8}


def entry(folder: Path, rows: str, series: dict[str, Any] | None = None, **more: Any) -> Any:
    (folder / "data.csv").write_text(rows)
    return declared(folder, COLUMNS, **{"series": SERIES | (series or {}), "split": BY_TIME, **more})


def straight(count: int = 10) -> str:
    return "at,speed,rain\n" + "".join(f"{at},{at * 10},{at}\n" for at in range(count))


def test_a_window_is_the_last_values_and_the_later_target(tmp_path: Path) -> None:
    data = load_dataset(entry(tmp_path, straight()))
    assert [column.name for column in data.columns] == ["speed@-1", "rain@-1", "speed@0", "rain@0"]
    assert (data.label_name, data.features[3].tolist(), data.label[3]) == ("speed@+1", [30, 3, 40, 4], 50)
    assert (data.train.tolist(), data.validation.tolist(), data.test.tolist()) == ([0, 1, 2, 3], [4, 5], [6, 7])
    assert not data.features.flags.owndata
    assert data.features.strides == (16, 8), "windows lie over each other: none is a copy"
    schema = describe_dataset(entry(tmp_path, straight()))
    assert (schema.label, schema.rows) == ("speed@+1", 8)
    assert [column.numbers for column in schema.columns] == ["whole"] * 5


def test_a_job_may_choose_steps_and_columns(tmp_path: Path) -> None:
    data = load_dataset(entry(tmp_path, straight()), ["rain@0", "speed@-1"])
    assert data.features[3].tolist() == [4, 30]


def test_what_is_known_in_advance_is_an_input_at_the_moment_of_the_label(tmp_path: Path) -> None:
    data = load_dataset(entry(tmp_path, straight().replace("7,70,7", "7,70,"), {"known": ["rain"], "horizon": 2}))
    assert [column.name for column in data.columns] == ["speed@-1", "rain@-1", "speed@0", "rain@0", "rain@+2"]
    assert (data.label_name, data.features[3].tolist(), data.label[3]) == ("speed@+2", [30, 3, 40, 4, 6], 60)
    used = [int(data.features[at][-1]) for at in [*data.train, *data.validation, *data.test]]
    assert used == [3, 4, 5, 6, 8, 9][: len(used)], "a window whose known value is missing is left out"
    assert load_dataset(entry(tmp_path, straight(), {"known": ["rain"]}), ["rain@+1", "speed@0"]).features[
        0
    ].tolist() == [2, 10]


def test_groups_gaps_and_missing_values_end_windows(tmp_path: Path) -> None:
    rows = "at,speed,rain,sensor\n" + "".join(
        f"{at},{'' if (sensor, at) == ('a', 7) else at * 10},{at},{sensor}\n" for at in range(10) for sensor in "ab"
    ).replace("4,40,4,b\n", "")
    series = {"group": "sensor", "every": "1"}
    data = load_dataset(entry(tmp_path, rows, series, split=BY_TIME | {"validation_from": None}))
    used = [(data.features[at].tolist(), data.label[at]) for at in [*data.train, *data.test]]
    assert all(label == last + 10 and last == first + 10 for (first, _, last, _), label in used)
    assert len(used) == 5 + 5, "of a those before the missing value, of b those on each side of the gap"


def test_each_window_has_its_group(tmp_path: Path) -> None:
    rows = "at,speed,rain,sensor\n" + "".join(f"{at},{n},0,{s}\n" for at in range(9) for n, s in ((1, "b"), (2, "a")))
    series = entry(tmp_path, rows, {"group": "sensor"})
    data, (groups, texts) = load_dataset(series), window_groups(series)
    used = [*data.train, *data.validation, *data.test]
    assert {(texts[groups[at]], data.label[at]) for at in used} == {("b", 1), ("a", 2)}
    with pytest.raises(BadDataset, match="no series with a group"):
        window_groups(entry(tmp_path, straight()))


@given(lags=st.integers(1, 4), horizon=st.integers(1, 3), step=st.integers(1, 3), cut=st.integers(5, 20))
@settings(max_examples=examples(15), deadline=None)
def test_no_window_of_training_holds_a_row_of_the_test(
    tmp_path_factory: Any, lags: int, horizon: int, step: int, cut: int
) -> None:
    series = {"lags": lags, "horizon": horizon, "step": step}
    split = {"by": "time", "column": "at", "test_from": cut}
    data = load_dataset(entry(tmp_path_factory.mktemp("s"), straight(24), series, split=split))
    assert data.train.size == 0 or data.label[data.train].max() < cut * 10
    assert data.label[data.test].min() >= cut * 10
    assert not (np.concatenate([data.train, data.test]) % step).any()
    whole = 24 - lags - horizon + 1
    assert data.train.size + data.test.size == -(-whole // step)
    assert data.evaluated_on("all").test.size == -(-whole // step)


def test_a_series_in_groups_has_folds_of_groups(tmp_path: Path) -> None:
    rows = "at,speed,rain,sensor\n" + "".join(f"{at},{s},0,p{s}\n" for s in range(12) for at in range(5))
    made = entry(tmp_path, rows, {"group": "sensor"}, split={"column": "sensor"}, test_fraction=0.2)
    data = load_dataset(made, fold=Fold(number=1, of=3))
    parts = [set(data.label[rows].tolist()) for rows in (data.train, data.validation, data.test)]
    assert all(parts)
    assert sum(map(len, parts)) == 12
    with pytest.raises(BadDataset, match="by hash of its group"):
        load_dataset(entry(tmp_path, straight()), fold=Fold(number=1, of=3))


@pytest.mark.parametrize(
    ("rows", "series", "says", "told"),
    [
        ("at,speed,rain\n1,1,1\n3,1,1\n2,1,1\n", {}, "is not sorted", "row 3"),
        ("at,speed,rain\n1,1,1\n2,1,1\n2,1,1\n", {}, "comes twice", "series: group"),
        ("at,speed,rain\n1,1,1\n,1,1\n3,1,1\n", {}, "no moment", "line 3"),
        ("at,speed,rain\n1,1,1\n2,1,1\n", {}, "too short", "a window takes 3"),
        ("at,speed,rain\n" + "8,,1\n9,1,1\n10,,1\n11,1,1\n", {}, "no window", "2 have a missing value"),
        ("at,speed,rain\n" + "8,1,1\n10,1,1\n12,1,1\n", {"every": "1"}, "no window", "after 1"),
        ("time,speed,rain\n1,1,1\n", {}, "no column at", "time, speed, rain"),
    ],
)
def test_rows_that_make_no_windows_are_refused(tmp_path: Path, rows: str, series: Any, says: str, told: str) -> None:
    split = {"by": "time", "column": "at", "test_from": 0}
    refusal = refused(entry(tmp_path, rows, series, split=split))
    assert says in refusal.detail
    assert told in refusal.explain()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": {}}, "overlap"),
        ({"split": {"by": "column", "column": "at", "test": ["1"]}}, "overlap"),
        ({"series": SERIES | {"target": "sped"}}, "did you mean 'speed'"),
        ({"series": SERIES | {"lags": 0}}, "lags"),
        ({"series": SERIES | {"every": "often"}}, "no distance"),
        ({"series": SERIES | {"known": ["rian"]}}, "did you mean 'rain'"),
        ({"series": SERIES | {"known": ["speed"]}}, "not known in advance"),
        ({"series": SERIES | {"known": ["rain", "rain"]}}, "listed twice"),
        ({"series": SERIES | {"every": "9" * 400}}, "no distance"),
        ({"series": SERIES | {"lags": 6000}}, "lags"),
        ({"label": "speed"}, "has its label from series"),
        ({"columns": [*COLUMNS, {"name": "w", "type": "text"}]}, "numbers"),
        ({"columns": [*COLUMNS, {"name": "at", "type": "number"}]}, "is not an input"),
        ({"kind": "none", "path": None}, "kind none"),
    ],
)
def test_a_series_that_cannot_be_meant_is_refused(tmp_path: Path, changes: Any, says: str) -> None:
    document = {"name": "d", "kind": "csv", "path": "data.csv", "columns": COLUMNS, "series": SERIES, "split": BY_TIME}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [document | changes]}))
    assert says in read_declarations(tmp_path / "datasets.yaml").reasons()["d"]
