"""Twins without real rows: drawn from what is declared, read like any data set, and no file with rows is opened."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.recipes.datasets import BadDataset, DatasetEntry, load_dataset, read_datasets
from undersong.recipes.mock import (
    MockColumn,
    MockDescription,
    describe,
    describe_entry,
    description_document,
    read_description,
    with_ranges,
    write_mock,
)
from undersong.shared.wire.columns import Column

ENTRY: dict[str, Any] = {
    "name": "heart",
    "kind": "parquet",
    "path": "no-such-file.parquet",
    "label": "sick",
    "columns": [
        {"name": "age", "type": "number"},
        {"name": "weight", "type": "number"},
        {"name": "sex", "type": "category", "categories": ["f", "m", "a, \"b\""]},
        {"name": "note", "type": "text"},
        {"name": "sick", "type": "number"},
    ],
    "ranges": {"age": [18, 90], "weight": [None, 40]},
}  # fmt: skip


def entry(**changes: Any) -> DatasetEntry:
    return DatasetEntry.model_validate(ENTRY | changes)


def test_a_twin_follows_from_the_declaration_alone(tmp_path: Path) -> None:
    description = describe_entry(entry(), rows=300)
    file = write_mock(description, tmp_path / "twin", seed=1)
    data = load_dataset(read_datasets(file)["heart"])
    age, weight, sex = data.features.T
    assert data.label_name == "sick"
    assert set(np.unique(data.label)) == {0.0, 1.0}
    assert (age >= 18).all()
    assert (age <= 90).all()
    assert len(np.unique(age)) > 250
    assert (weight >= 0).all()
    assert (weight <= 40).all()
    assert set(np.unique(sex)) == {0.0, 1.0, 2.0}
    assert np.abs(np.corrcoef(np.column_stack([data.features, data.label]).T) - np.eye(4)).max() < 0.3
    again = write_mock(description, tmp_path / "again", seed=1)
    assert again.with_name("rows.csv").read_bytes() == file.with_name("rows.csv").read_bytes()
    ends = describe_entry(entry(ranges={"age": [None, -5], "weight": [7, None]})).columns
    assert (ends["age"].low, ends["age"].high, ends["weight"].low, ends["weight"].high) == (-6, -5, 7, 8)
    with pytest.raises(BadDataset, match="not empty"):
        write_mock(description, tmp_path / "twin", seed=1)


def test_a_description_changed_by_hand_is_drawn(tmp_path: Path) -> None:
    document = description_document(describe_entry(entry(), rows=200))
    document["columns"]["age"] |= {"whole": True, "missing": 0.5}
    del document["columns"]["weight"]
    assert "note" not in document["columns"], "recipes use no texts"
    file = write_mock(read_description(document), tmp_path / "twin", seed=2)
    age = load_dataset(read_datasets(file)["heart"]).features[:, 0]
    known = age[np.isfinite(age)]
    assert (known == np.rint(known)).all()
    assert 50 < known.size < 150


def test_ranges_can_be_given_for_columns_of_numbers() -> None:
    made = with_ranges(describe_entry(entry()), {"age": (20, 30), "sick": (0, 4)})
    assert (made.columns["age"].low, made.columns["age"].high, made.columns["sick"].whole) == (20, 30, True)
    for name, ends, said in (
        ("agee", (0, 1), "did you mean 'age'"),
        ("sex", (0, 1), "no column"),
        ("age", (2, 1), "the lowest value"),
        ("age", (float("nan"), 1), "the lowest value"),
    ):
        with pytest.raises(BadDataset, match=said):
            with_ranges(describe_entry(entry()), {name: ends})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": 2}, "/rows"),
        ({"label": "none"}, "none is not among the columns"),
        ({"columns": {}}, "/columns"),
        ({"columns": {"a": {"low": 2, "high": 1}}, "label": None}, "low is above high"),
        ({"columns": {"a": {"low": 0.2, "high": 0.8, "whole": True}}, "label": None}, "no whole number"),
        ({"columns": {"a": {"missing": 1.0}}, "label": None}, "/columns/a/missing"),
        ({"columns": {"a": {"weights": [0, 0]}}, "label": None}, "add up to nothing"),
        ({"columns": {"a": {"weights": [-1, 2]}}, "label": None}, "/columns/a/weights"),
        ({"columns": {"a": {"categories": ["x", "y"], "weights": [1]}}, "label": None}, "each category needs a weight"),
        ({"columns": {"a": {"shape": [1, 0, 4]}}, "label": None}, "/columns/a/shape"),
        ({"columns": {"a": {"shape": [1, 4, 4], "high": 300}}, "label": None}, "uint8 holds pixels from 0 to 255"),
        ({"columns": {"a": {"shape": [2, 4, 4], "channels": ["x"]}}, "label": None}, "channels name as many"),
        ({"columns": {"a": {"categories": []}}, "label": None}, "/columns/a/categories"),
        ({"columns": {"a": {"lo": 1}}, "label": None}, "/columns/a/lo"),
        ({"columns": {"a": {"high": float("inf")}}, "label": None}, "/columns/a/high"),
    ],
)
def test_a_description_that_cannot_be_drawn_is_refused(changes: dict[str, Any], said: str) -> None:
    document = description_document(describe_entry(entry()))
    with pytest.raises(BadDataset, match=said):
        read_description(document | changes)


@pytest.mark.parametrize(
    ("numbers", "drawn"),
    [(None, (0, 1, False)), ("real", (0, 1, False)), ("binary", (0, 1, True)), ("whole", (0, 9, True))],
)
def test_numbers_are_of_the_kind_that_sites_tell(numbers: str | None, drawn: tuple[float, float, bool]) -> None:
    column = Column.model_validate({"name": "a", "type": "number", "numbers": numbers})
    made = describe("d", [column], None, {}).columns["a"]
    assert (made.low, made.high, made.whole) == drawn


SCANS: dict[str, Any] = {
    "name": "scans",
    "kind": "npz",
    "path": "no-such-file.npz",
    "label": "finding",
    "columns": [
        {"name": "pixels", "type": "image", "channels": ["red", "green"]},
        {"name": "age", "type": "number"},
        {"name": "finding", "type": "category", "categories": ["none", "benign"]},
    ],
}


def scans(path: Path, pixels: npt.NDArray[Any], **changes: Any) -> DatasetEntry:
    np.savez(path, pixels=pixels, age=np.arange(len(pixels)), finding=np.array(["none"] * len(pixels)))
    return DatasetEntry.model_validate(SCANS | {"path": str(path)} | changes)


@pytest.mark.parametrize(
    ("dtype", "axis", "scale"),
    [
        ("uint8", "first", None),
        ("uint16", "last", [0, 4095]),
        ("float64", "first", None),
        ("int32", "last", [-9, 9]),
    ],
)
def test_images_are_drawn_in_the_form_of_the_files(
    tmp_path: Path, dtype: str, axis: str, scale: list[int] | None
) -> None:
    """And the twin is read as the data would be: the same shape, in 0..1, and other pixels than the file's."""
    shape = (3, 2, 5, 7) if axis == "first" else (3, 5, 7, 2)
    ranges = {} if scale is None else {"pixels": scale}
    own = scans(tmp_path / "own.npz", np.ones(shape, dtype), channel_axis=axis, ranges=ranges)
    description = describe_entry(own, rows=40)
    assert read_description(description_document(description)) == description
    file = write_mock(description, tmp_path / "twin", seed=3)
    data = load_dataset(read_datasets(file)["scans"], ["pixels"])
    images = data.features
    assert images.shape == (40, 2, 5, 7)
    assert 0.4 < images.mean() < 0.6
    assert (images.min() >= 0, images.max() <= 1, images.max() > 0.9) == (True, True, True)
    assert {column.channels for column in data.columns if column.type == "image"} == {("red", "green")}
    assert set(np.unique(data.label)) == {0.0, 1.0}


def test_without_its_file_an_image_is_small_and_of_the_declared_channels(tmp_path: Path) -> None:
    description = describe_entry(DatasetEntry.model_validate(SCANS), rows=20)
    assert description.columns["pixels"].shape == (2, 28, 28)
    told = [Column.model_validate({"name": "x", "type": "image", "shape": (1, 4, 4), "dtype": "uint8"})]
    file = write_mock(describe("seen", told, None, {}, 20), tmp_path / "seen", seed=1)
    images = load_dataset(read_datasets(file)["seen"]).features
    assert images.shape == (20, 1, 4, 4)
    with pytest.raises(BadDataset, match="leave room for 3 rows"):
        describe("large", [told[0].model_copy(update={"shape": (3, 5000, 5000)})], None, {}, 20)
    with pytest.raises(BadDataset, match="no columns"):
        describe("texts", [Column.model_validate({"name": "note", "type": "text"})], None, {}, 20)


def test_weights_say_how_likely_each_part_is(tmp_path: Path) -> None:
    columns = {
        "level": MockColumn(categories=("a", "b"), weights=(0, 1)),
        "age": MockColumn(low=0, high=100, weights=(1, 0, 0, 1)),
        "count": MockColumn(low=1, high=3, whole=True, weights=(0, 3, 0)),
        "dose": MockColumn(low=0, high=9, whole=True, weights=(0, 1)),
    }
    description = MockDescription(name="d", rows=400, columns=columns)
    assert read_description(description_document(description)) == description
    level, age, count, dose = load_dataset(read_datasets(write_mock(description, tmp_path / "t", 1))["d"]).features.T
    assert set(level) == {1.0}
    assert ((age <= 25) | (age >= 75)).all()
    assert 150 < (age <= 25).sum() < 250
    assert set(count) == {2.0}
    assert (set(dose) <= set(range(4, 10)), dose.max()) == (True, 9.0)


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=20)


@settings(max_examples=examples(60), deadline=None)
@given(
    levels=st.lists(names.filter(lambda text: text == text.strip()), min_size=1, max_size=6, unique=True),
    low=st.floats(-1e6, 1e6),
    span=st.floats(0, 1e6),
    missing=st.floats(0, 0.9),
    seed=st.integers(0, 2**32),
)
def test_every_twin_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, levels: list[str], low: float, span: float, missing: float, seed: int
) -> None:
    columns = {
        "level": MockColumn(categories=tuple(levels), missing=missing),
        "number": MockColumn(low=low, high=low + span, missing=missing),
    }
    folder = tmp_path_factory.mktemp("twins") / "twin"
    file = write_mock(MockDescription(name="d", rows=20, columns=columns), folder, seed)
    assert load_dataset(read_datasets(file)["d"]).features.shape == (20, 2)
