"""Which rows are for training, for validation and for the test."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.effort import examples
from tests.recipes.declaring import Y, declared, refused
from undersong.recipes.datasets import load_dataset, read_declarations
from undersong.shared.wire.manifest import Fold

X = {"name": "x", "type": "number"}
TIME = {"name": "at", "type": "number"}
ROWS = "x,part,who,at,y\n" + "".join(
    f"{i},{('train', 'train', 'dev', 'test')[i % 4]},p{i // 5},{2000 + i},{i % 2}\n" for i in range(200)
)


def entry(folder: Path, split: dict[str, Any], **more: Any) -> Any:
    (folder / "data.csv").write_text(ROWS)
    return declared(folder, [X, Y], label="y", split=split, **{"test_fraction": 0.2, **more})


def xs(data: Any, part: str) -> list[float]:
    return data.features[getattr(data, part), 0].tolist()


def everything(data: Any) -> list[float]:
    return sorted([*xs(data, "train"), *xs(data, "validation"), *xs(data, "test")])


def test_a_column_says_which_rows_are_for_what(tmp_path: Path) -> None:
    data = load_dataset(entry(tmp_path, {"by": "column", "column": "part", "test": "test", "validation": ["dev"]}))
    assert xs(data, "test") == list(range(3, 200, 4))
    assert xs(data, "validation") == list(range(2, 200, 4))
    assert everything(data) == list(range(200))
    assert [column.name for column in data.columns] == ["x"], "what divides the rows need not be declared"


def test_a_moment_divides_what_was_before_from_what_came_later(tmp_path: Path) -> None:
    split = {"by": "time", "column": "at", "validation_from": 2100, "test_from": 2150}
    data = load_dataset(entry(tmp_path, split))
    assert (xs(data, "validation"), xs(data, "test")) == (list(range(100, 150)), list(range(150, 200)))


def test_moments_are_read_in_the_form_of_their_dates(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("day,y\n30.12.2019,0\n31.12.2019,1\n01.01.2020,0\n02.01.2020,1\n")
    split = {"by": "time", "column": "day", "test_from": "01.01.2020"}
    data = load_dataset(declared(tmp_path, [Y], label="y", split=split, dates={"day": "%d.%m.%Y"}))
    assert (data.train.tolist(), data.test.tolist()) == ([0, 1], [2, 3])


def test_moments_of_a_parquet_file_are_compared_in_utc(tmp_path: Path) -> None:
    first = datetime(2020, 1, 1, tzinfo=UTC)
    at = pa.array([first + timedelta(hours=h) for h in range(4)], pa.timestamp("ms", tz="Asia/Shanghai"))
    parquet.write_table(pa.table({"at": at, "y": [0, 1, 0, 1]}), tmp_path / "data.parquet")
    split = {"by": "time", "column": "at", "test_from": "2020-01-01T10:00:00+08:00"}
    more = {"kind": "parquet", "path": "data.parquet", "label": "y"}
    assert load_dataset(declared(tmp_path, [TIME, Y], split=split, **more)).test.tolist() == [2, 3]


def test_other_files_hold_the_other_parts(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("y,x\n1,-1\n0,-2\n,-3\n")
    (tmp_path / "dev.csv").write_text("x,y\n-4,1\n")
    made = entry(tmp_path, {"by": "file", "test_file": "test.csv", "validation_file": "dev.csv"})
    data = load_dataset(made)
    assert (xs(data, "test"), xs(data, "validation"), len(xs(data, "train"))) == ([-1, -2], [-4], 200)
    assert made.sources == tuple(tmp_path / name for name in ("data.csv", "dev.csv", "test.csv"))
    (tmp_path / "test.csv").write_text("x\n1\n")
    assert "no column y (the file of its test rows)" in refused(made).detail
    (tmp_path / "test.csv").unlink()
    assert "its file is not there (the file of its test rows)" in refused(made).detail


@pytest.mark.parametrize(
    ("split", "more", "place"),
    [
        ({"test_file": "data.csv"}, {}, "/split/test_file"),
        ({"test_file": "nowhere/../link.csv"}, {}, "/split/test_file"),
        ({"test_file": "other.csv", "validation_file": "other.csv"}, {}, "/split/test_file"),
        ({"test_file": "other.csv"}, {"mock": "link.csv"}, "/mock"),
    ],
)
def test_parts_of_the_same_file_are_refused(tmp_path: Path, split: Any, more: Any, place: str) -> None:
    """Rows for the test would be trained on, and a site's rows be shown as mock."""
    (tmp_path / "nowhere").mkdir()
    for name in ("data.csv", "other.csv"):
        (tmp_path / name).write_text("x\n1\n")
    (tmp_path / "link.csv").symlink_to("data.csv")
    whole = {"name": "d", "kind": "csv", "path": "data.csv", "columns": [X], "split": {"by": "file"} | split} | more
    good = {**whole, "name": "good", "split": {"by": "file", "test_file": "other.csv"}, "mock": "made.csv"}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [whole, good]}))
    found = read_declarations(tmp_path / "datasets.yaml")
    assert [(fault.path, "the same file" in fault.message) for fault in found.faults["d"]] == [
        (f"/datasets/0{place}", True)
    ]
    assert list(found.entries) == ["good"]


def test_rows_of_one_person_stay_together(tmp_path: Path) -> None:
    data = load_dataset(entry(tmp_path, {"column": "who", "validation_fraction": 0.3}))
    parts = [{int(x) // 5 for x in xs(data, part)} for part in ("train", "validation", "test")]
    assert all(parts)
    assert sum(map(len, parts)) == 40
    again = load_dataset(entry(tmp_path, {"column": "who"}))
    assert xs(again, "test") == xs(data, "test"), "a validation part takes no row from the test"


@given(folds=st.integers(2, 6), column=st.sampled_from([None, "who"]))
@settings(max_examples=examples(8), deadline=None)
def test_each_row_outside_of_the_test_is_validated_on_once(tmp_path_factory: Any, folds: int, column: Any) -> None:
    made = entry(tmp_path_factory.mktemp("folds"), {"column": column, "validation_fraction": 0.1})
    plain, seen = load_dataset(made), list[float]()
    for number in range(1, folds + 1):
        data = load_dataset(made, fold=Fold(number=number, of=folds))
        assert xs(data, "test") == xs(plain, "test")
        assert everything(data) == list(range(200))
        seen += xs(data, "validation")
        if column:
            assert not {x // 5 for x in xs(data, "train")} & {x // 5 for x in xs(data, "validation")}
    assert sorted([*seen, *xs(plain, "test")]) == list(range(200))


def test_what_is_evaluated_on_is_the_part_that_is_asked_for(tmp_path: Path) -> None:
    data = load_dataset(entry(tmp_path, {"validation_fraction": 0.3}))
    assert data.evaluated_on("test") is data
    assert np.array_equal(data.evaluated_on("validation").test, data.validation)
    assert data.evaluated_on("all").test.tolist() == list(range(200))


@pytest.mark.parametrize(
    ("split", "place", "says"),
    [
        ({"by": "column"}, "split", "needs the column"),
        ({"by": "column", "column": "part"}, "split", "neither validation nor test rows"),
        ({"by": "column", "column": "part", "test": ["a"], "train": ["a"]}, "split", "a is listed twice"),
        ({"by": "time", "column": "at", "test_from": "soon"}, "split/test_from", "such as 2024-12-31"),
        ({"by": "time", "column": "at", "test_from": 1, "validation_from": 2}, "split/validation_from", "before the"),
        ({"by": "time", "column": "at", "test_fraction": 1}, "split/test_fraction", "no such field"),
        ({"by": "time", "column": "at", "test": ["a"]}, "split", "test has no meaning with by: time"),
        ({"by": "time", "column": "c", "test_from": 1}, "split/column", "category column, which cannot decide by time"),
        ({"by": "column", "column": "c", "test": ["reed"]}, "split/test", "did you mean 'red'"),
        ({"by": "file"}, "split", "test_file"),
        ({"by": "weekday"}, "split/by", "hash"),
        ({"validation_fraction": 0.9}, "split/validation_fraction", "leaves no rows to train on"),
    ],
)
def test_a_split_that_cannot_be_meant_is_refused(tmp_path: Path, split: Any, place: str, says: str) -> None:
    columns = [X, {"name": "c", "type": "category", "categories": ["red", "blue"]}]
    document = {"name": "d", "kind": "csv", "path": "data.csv", "columns": columns, "split": split}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [document]}))
    found = read_declarations(tmp_path / "datasets.yaml")
    assert any(place in fault.path and says in f"{fault.path} {fault.message}" for fault in found.faults["d"]), (
        found.reasons()
    )


@pytest.mark.parametrize(
    ("split", "says", "told"),
    [
        ({"by": "column", "column": "part", "test": ["tset"]}, "leaves no rows for test", "did you mean 'test'"),
        ({"by": "column", "column": "prt", "test": ["test"]}, "no column prt", "did you mean 'part'"),
        ({"by": "column", "column": "part", "train": ["train"], "test": ["test"]}, "gives to no part", "'dev'"),
        ({"by": "time", "column": "at", "test_from": 3000}, "leaves no rows for test", "column at"),
        ({"by": "time", "column": "who", "test_from": 3000}, "is not a number", "'p0'"),
    ],
)
def test_rows_that_a_split_cannot_divide_are_refused(tmp_path: Path, split: Any, says: str, told: str) -> None:
    refusal = refused(entry(tmp_path, split))
    assert says in refusal.detail
    assert told in refusal.explain()
    assert "'p0'" not in refusal.detail, "what leaves the site names no value"


def test_a_row_without_a_moment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("at,y\n1,0\n,1\n")
    refusal = refused(declared(tmp_path, [Y], split={"by": "time", "column": "at", "test_from": 1}))
    assert "no moment" in refusal.detail
    assert "line 3" in refusal.explain()
