"""Twins without real rows: drawn from what is declared, read like any data set, and no file with rows is opened."""

from pathlib import Path
from typing import Any

import numpy as np
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


def test_images_have_no_twin() -> None:
    images = {"kind": "npz", "columns": [{"name": "x", "type": "image"}], "label": None, "ranges": {}}
    with pytest.raises(BadDataset, match="no twin is made of images"):
        describe_entry(entry(**images))


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
