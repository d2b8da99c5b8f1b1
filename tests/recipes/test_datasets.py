"""Data sets as a site declares them."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from undersong.recipes.datasets import (
    BadDataset,
    describe_dataset,
    load_dataset,
    movable_document,
    numbers_of,
    read_datasets,
)
from undersong.shared.wire.profiles import Column

CSV = """ward,age,smoker,score,sick
north,40,yes,1.5,1
south,50,no,,0
north,,no,0,0
north,70,,2.5,
north,0,yes,3.5,1
"""
COLUMNS = [
    {"name": "age", "type": "number"},
    {"name": "smoker", "type": "category", "categories": ["no", "yes"]},
    {"name": "score", "type": "number"},
    {"name": "sick", "type": "number"},
]


def declare(folder: Path, **changes: object) -> Path:
    entry = {"name": "ward", "kind": "csv", "path": "rows.csv", "label": "sick", "columns": COLUMNS, **changes}
    (folder / "rows.csv").write_text(CSV)
    path = folder / "datasets.yaml"
    path.write_text(yaml.safe_dump({"datasets": [{k: v for k, v in entry.items() if v is not None}]}))
    return path


def test_rows_are_filtered_coded_and_marked_missing(tmp_path: Path) -> None:
    entry = read_datasets(declare(tmp_path, filter={"ward": "north"}, missing={"age": [0]}))["ward"]
    data = load_dataset(entry)
    nan = np.nan
    assert np.array_equal(data.features, [[40, 1, 1.5], [nan, 0, 0], [nan, 1, 3.5]], equal_nan=True)
    assert data.label.tolist() == [1, 0, 1]
    assert [column.name for column in data.columns] == ["age", "smoker", "score"]
    assert sorted([*data.train, *data.test]) == [0, 1, 2]
    assert data.shape.label == "sick"


def test_features_come_in_the_order_of_the_job(tmp_path: Path) -> None:
    entry = read_datasets(declare(tmp_path))["ward"]
    data = load_dataset(entry, ["score", "age"])
    assert data.features[0].tolist() == [1.5, 40]
    other = load_dataset(entry, ["age"], "smoker")
    assert other.label.tolist() == [1, 0, 0, 1]


def test_the_split_is_fixed_and_follows_the_seed(tmp_path: Path) -> None:
    rows = "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(2000))
    columns = [{"name": "x", "type": "number"}, {"name": "y", "type": "number"}]
    path = declare(tmp_path, columns=columns, label="y", test_fraction=0.25)
    (tmp_path / "rows.csv").write_text(rows)
    entry = read_datasets(path)["ward"]
    first, again = load_dataset(entry), load_dataset(entry)
    assert np.array_equal(first.test, again.test)
    assert 430 < first.test.size < 570
    assert not set(first.train) & set(first.test)
    moved = load_dataset(entry.model_copy(update={"split_seed": 1}))
    assert not np.array_equal(first.test, moved.test)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "pickle"}, "/datasets/0/kind"),
        ({"colour": "red"}, "colour"),
        ({"path": None}, "path"),
        ({"label": "height"}, "label"),
        ({"columns": [*COLUMNS, COLUMNS[0]]}, "twice"),
        ({"columns": [{"name": "sick", "type": "category"}]}, "categories"),
        ({"test_fraction": 1}, "test_fraction"),
    ],
)
def test_a_bad_declaration_is_refused_with_its_place(tmp_path: Path, changes, says) -> None:
    with pytest.raises(BadDataset, match=says):
        read_datasets(declare(tmp_path, **changes))


def test_what_is_not_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text("datasets: [")
    with pytest.raises(BadDataset):
        read_datasets(path)
    path.write_text("")
    assert read_datasets(path) == {}
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(BadDataset):
        read_datasets(path)


@pytest.mark.parametrize(
    ("changes", "features", "says"),
    [
        ({}, ["height"], "height"),
        ({}, ["sick"], "label"),
        ({"path": "other.csv"}, [], "no file"),
        ({"filter": {"ward": "east"}}, [], "filter"),
        ({"filter": {"street": "x"}}, [], "street"),
        ({"columns": [{"name": "ward", "type": "number"}, COLUMNS[3]]}, [], "not a number"),
        ({"columns": [{"name": "ward", "type": "category", "categories": ["north"]}, COLUMNS[3]]}, [], "south"),
        ({"columns": [{"name": "height", "type": "number"}, COLUMNS[3]]}, [], "height"),
        ({"columns": [{"name": "ward", "type": "text"}, COLUMNS[0], COLUMNS[3]]}, [], "ward"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(tmp_path: Path, changes, features, says) -> None:
    with pytest.raises(BadDataset, match=says):
        load_dataset(read_datasets(declare(tmp_path, **changes))["ward"], features)


def test_an_infinite_number_is_refused() -> None:
    with pytest.raises(BadDataset, match="infinite"):
        numbers_of(Column(name="x", type="number"), [1.0, float("inf")])


def test_categories_are_known_however_they_are_written() -> None:
    column = Column(name="cp", type="category", categories=("1", "2"))
    assert np.array_equal(
        numbers_of(column, [1, "2", 2.0, None, " 1 ", ""]), [0, 1, 1, np.nan, 0, np.nan], equal_nan=True
    )


def test_npz_holds_images_or_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=np.full((6, 4, 5), 255, np.uint8), y=np.arange(6) % 3)
    columns = [{"name": "x", "type": "image"}, {"name": "y", "type": "number"}]
    path = declare(tmp_path, kind="npz", path="images.npz", columns=columns, label="y")
    data = load_dataset(read_datasets(path)["ward"])
    assert data.features.shape == (6, 1, 4, 5)
    assert data.features.dtype == np.float32
    assert data.features.max() == 1
    assert data.shape.sample == (1, 4, 5)
    np.savez(tmp_path / "images.npz", x=np.zeros(6, np.uint8), y=np.arange(6) % 3)
    with pytest.raises(BadDataset, match="images must be"):
        load_dataset(read_datasets(path)["ward"])


def test_pickled_arrays_are_never_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=np.array([{"a": 1}], object), y=np.zeros(1))
    columns = [{"name": "x", "type": "number"}, {"name": "y", "type": "number"}]
    path = declare(tmp_path, kind="npz", path="images.npz", columns=columns, label="y")
    with pytest.raises(BadDataset, match="pickle"):
        load_dataset(read_datasets(path)["ward"])


def test_none_has_no_rows(tmp_path: Path) -> None:
    data = load_dataset(read_datasets(declare(tmp_path, kind="none", path=None, columns=[], label=None))["ward"])
    assert data.train.size == data.test.size == 0


def test_the_mock_twin_stands_in(tmp_path: Path) -> None:
    path = declare(tmp_path, mock="mock.csv")
    (tmp_path / "mock.csv").write_text("age,smoker,score,sick\n1,no,1,0\n")
    assert load_dataset(read_datasets(path)["ward"], mock=True).label.tolist() == [0]
    with pytest.raises(BadDataset, match="no file"):
        load_dataset(read_datasets(declare(tmp_path))["ward"], mock=True)


def test_a_document_can_be_moved(tmp_path: Path) -> None:
    document = movable_document(declare(tmp_path, missing={"age": [0]}))
    other = tmp_path / "elsewhere" / "datasets.yaml"
    other.parent.mkdir()
    other.write_text(yaml.safe_dump(document))
    assert load_dataset(read_datasets(other)["ward"]).label.size == 4


def test_only_the_schema_leaves(tmp_path: Path) -> None:
    schema = read_datasets(declare(tmp_path))["ward"].schema_document(rows=5)
    assert schema.model_dump(mode="json", exclude_none=True).keys() == {
        "name",
        "kind",
        "columns",
        "label",
        "rows",
        "parts",
    }


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["0", "1", "", "1.0"], "binary"),
        (["1"], "binary"),
        (["0", "1", "2"], "whole"),
        (["999", "0"], "whole"),
        (["1000", "0"], "real"),
        (["-1", "0"], "real"),
        (["0.5", "1"], "real"),
        (["", ""], None),
    ],
)
def test_a_site_tells_which_numbers_a_column_holds(tmp_path: Path, cells: list[str], kind: str | None) -> None:
    """As far as a label's task depends on it; and no declaration says it, so that jobs agree on types alone."""
    (tmp_path / "rows.csv").write_text("x,t\n" + "".join(f"{cell},.\n" for cell in cells))
    entry = {"name": "d", "kind": "csv", "path": "rows.csv", "columns": [{"name": "x", "type": "number"}]}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [entry]}))
    made = read_datasets(tmp_path / "datasets.yaml")["d"]
    assert describe_dataset(made).columns[0].numbers == kind
    assert (made.schema_document().columns[0].numbers, load_dataset(made).columns[0].numbers) == (None, None)
