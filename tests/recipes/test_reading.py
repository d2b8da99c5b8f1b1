"""Data sets of kind own: a recipe's `load` reads the file, and what it returns is checked as other columns are."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from undersong.recipes.datasets import BadDataset, DatasetEntry, describe_dataset, load_dataset, read_datasets

COLUMNS = [
    {"name": "dose", "type": "number"},
    {"name": "sex", "type": "category", "categories": ["f", "m"]},
    {"name": "sick", "type": "number"},
]


def entry(folder: Path, **changes: Any) -> DatasetEntry:
    (folder / "rows.bin").write_bytes(b"4")
    document = {"name": "d", "kind": "own", "path": "rows.bin", "label": "sick", "columns": COLUMNS, **changes}
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [document]}))
    return read_datasets(folder / "datasets.yaml")["d"]


def load(path: Path, columns: list[str]) -> dict[str, Any]:
    count = int(path.read_text())
    made = {"dose": np.arange(count) / 2, "sex": ["f", "m"] * (count // 2), "sick": np.arange(count) % 2}
    return {name: made[name] for name in columns}


def test_what_a_recipe_loads_are_rows_like_others(tmp_path: Path) -> None:
    found = load_dataset(entry(tmp_path, test_fraction=0), load=load)
    assert found.features.tolist() == [[0, 0], [0.5, 1], [1, 0], [1.5, 1]]
    assert found.label.tolist() == [0, 1, 0, 1]
    assert found.train.tolist() == [0, 1, 2, 3]
    described = describe_dataset(entry(tmp_path))
    assert described.rows is None, "only the recipe can count them"
    assert [column.name for column in described.columns] == ["dose", "sex", "sick"]


def test_declared_limits_missing_values_splits_and_further_files_hold_for_them(tmp_path: Path) -> None:
    (tmp_path / "later.bin").write_text("2")
    split = {"by": "file", "test_file": "later.bin"}
    made = load_dataset(entry(tmp_path, missing={"dose": ["1.5"]}, split=split), load=load)
    assert np.isnan(made.features[3, 0])
    assert (made.train.size, made.test.size) == (4, 2)
    with pytest.raises(BadDataset, match="column dose holds a value that is outside its range"):
        load_dataset(entry(tmp_path, ranges={"dose": [0, 1]}), load=load)


def test_images_of_a_folder_are_scaled_as_declared(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    columns = [{"name": "scan", "type": "image"}]
    own = entry(tmp_path, path="scans", columns=columns, label=None, ranges={"scan": [0, 4095]})
    found = load_dataset(own, load=lambda path, _: {"scan": np.full((3, 5, 6), 4095 if path.is_dir() else 0)})
    assert (found.features.shape, found.features.dtype, found.features.max()) == ((3, 1, 5, 6), np.float32, 1.0)


def spoilt(**changes: Any) -> Any:
    return lambda path, columns: {**load(path, columns), **changes}


@pytest.mark.parametrize(
    ("loader", "said", "evidence"),
    [
        (None, "is read by a recipe's own load, and this recipe has none", ""),
        (lambda path, columns: None, "load returned NoneType, and a mapping", ""),
        (lambda path, columns: 1 / 0, "load failed with ZeroDivisionError", "division by zero"),
        (lambda path, columns: {"dose": [1.0]}, "has no column sex, sick", "the columns found are: dose"),
        (spoilt(dose=[1.0]), "arrays have different numbers of rows", "dose: 1"),
        (spoilt(dose=1.0), "a single value where an array of rows", ""),
        (spoilt(dose=np.ones((4, 2))), "column dose is an array of 4x2", ""),
        (spoilt(dose=[[1], [2, 3], [], [4]]), "rows of different shapes", ""),
        (spoilt(dose=[1.0, np.inf, 2, 3]), "column dose holds a value that is an infinite number", "row 2"),
        (spoilt(dose=np.array([1j, 2, 3, 4])), "column dose is of type complex128", ""),
        (spoilt(dose=[object()] * 4), "column dose is of type object", ""),
        (spoilt(dose=["1", "two", "3", "4"]), "column dose holds a value that is not a number", "'two'"),
        (spoilt(sex=["f", "x", "f", "f"]), "column sex holds a value that is outside its categories", "'x'"),
        (spoilt(sick=[np.nan] * 4), "", ""),
    ],
)
def test_what_is_no_table_is_refused_without_a_value(tmp_path: Path, loader: Any, said: str, evidence: str) -> None:
    if not said:  # rows without a label are no rows, as in any file
        assert load_dataset(entry(tmp_path), load=loader).label.size == 0
        return
    with pytest.raises(BadDataset) as refused:
        load_dataset(entry(tmp_path), load=loader)
    assert said in refused.value.detail
    assert evidence in refused.value.explain()
    assert "two" not in refused.value.detail


def test_a_file_that_is_gone_and_options_without_meaning_are_refused(tmp_path: Path) -> None:
    gone = entry(tmp_path)
    (tmp_path / "rows.bin").unlink()
    with pytest.raises(BadDataset, match="its file is not there"):
        load_dataset(gone, load=load)
    with pytest.raises(BadDataset, match="has no rows that windows could be made of"):
        entry(
            tmp_path,
            label=None,
            series={"time": "at", "target": "dose", "lags": 2},
            split={"by": "time", "column": "at", "test_from": "3"},
            columns=COLUMNS[:1],
        )
    with pytest.raises(BadDataset, match="path is missing"):
        entry(tmp_path, path=None)


class NoArray:
    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("on another device")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.ma.masked_array([1.0, 2.0], [False, True]), "whose mask would be lost"),
        (NoArray(), "which gives no array"),
        ([1, None], "of type object"),
        ([1, 10**400], "of type object"),
        ([[1], [1, 2]], "rows of different shapes"),
    ],
)
def test_values_that_are_no_column_are_refused(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(BadDataset, match=said):
        load_dataset(entry(tmp_path), load=lambda *_: {"dose": values, "sex": ["f", "m"], "sick": [0, 1]})


def test_a_pipe_is_not_given_to_a_load_that_would_wait_for_it(tmp_path: Path) -> None:
    own = entry(tmp_path, path="pipe")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadDataset, match="no file and no folder"):
        load_dataset(own, load=load)
