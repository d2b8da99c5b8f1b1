"""`datasets.yaml`: scalars are the text as written, and every name that refers to something is resolved."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from undersong.recipes.datasets import BadDataset, load_dataset, movable_document, read_datasets, read_declarations
from undersong.recipes.declaration import read_texts

ENTRY: dict[str, Any] = {
    "name": "ward",
    "kind": "csv",
    "path": "rows.csv",
    "label": "sick",
    "columns": [
        {"name": "arm", "type": "number"},
        {"name": "smoker", "type": "category", "categories": ["no", "yes"]},
        {"name": "admitted", "type": "number"},
        {"name": "sick", "type": "number"},
    ],
}


def declare(folder: Path, *entries: dict[str, Any]) -> Path:
    file = folder / "datasets.yaml"
    file.write_text(yaml.safe_dump({"datasets": list(entries)}))
    return file


@pytest.mark.parametrize(
    ("changes", "place", "near"),
    [
        ({"label": "sik"}, "/label", "sick"),
        ({"missing": {"amr": [-9]}}, "/missing/amr", "arm"),
        ({"values": {"smokr": {"N": "no"}}}, "/values/smokr", "smoker"),
        ({"values": {"smoker": {"N": "noo"}}}, "/values/smoker/N", "'no'"),
        ({"values": {"arm": {"left": "one"}}}, "/values/arm/left", "not a number"),
        ({"ranges": {"amr": [0, 1]}}, "/ranges/amr", "arm"),
        ({"ranges": {"smoker": [0, 1]}}, "/ranges/smoker", "category column"),
        ({"ranges": {"arm": [3, 1]}}, "/ranges/arm", "lowest"),
        ({"dates": {"admitted": "%d%d"}}, "/dates/admitted", "no form of dates"),
        ({"dates": {"admitted": "%Q"}}, "/dates/admitted", "no form of dates"),
        ({"dates": {"admitted": "%"}}, "/dates/admitted", "no form of dates"),
        ({"dates": {"admitted": "%H:%M"}}, "/dates/admitted", "no year"),
        ({"dates": {"admited": "%Y"}}, "/dates/admited", "admitted"),
        ({"filter": {"smoker": "yess"}}, "/filter/smoker", "'yes'"),
        ({"kind": "cvs"}, "/kind", "'csv'"),
        ({"lable": "sick"}, "/lable", "'label'"),
        ({"csv": {"seperator": ";"}}, "/csv/seperator", "'separator'"),
        ({"csv": {"encoding": "utf-9"}}, "/csv", "'utf-8'"),
        ({"csv": {"encoding": "base64"}}, "/csv", "unknown"),
        ({"csv": {"decimal": ",", "thousands": ","}}, "/csv", "same character"),
        ({"csv": {"header": 0}}, "/csv", "names"),
        ({"csv": {"header": 0, "names": ["arm", "smokr", "admitted", "sick"]}}, "/csv/names", "'smokr'"),
        ({"kind": "npz", "csv": {"separator": ";"}}, "/csv", "kind csv"),
        ({"channel_axis": "last"}, "/channel_axis", "npz"),
        ({"missing": {"smoker": ["no"]}}, "/missing", "category of smoker"),
        ({"missing": {"*": ["yes"]}}, "/missing", "category of smoker"),
        ({"columns": [{"name": "sick", "type": "numbr"}]}, "/columns/0/type", "'number'"),
        ({"columns": [{"name": "sick", "type": "number", "catgories": ["a"]}]}, "/columns/0/catgories", "'categories'"),
        ({"columns": [{"name": "sick", "type": "category", "categories": ["a", "a"]}]}, "/categories", "twice"),
        ({"columns": [{"name": "sick", "type": "category", "categories": ["a", ""]}]}, "/categories", "empty"),
        ({"columns": [{"name": "sick", "type": "number", "categories": ["a"]}]}, "/categories", "no category"),
        ({"columns": [{"name": "sick", "type": "image"}]}, "/type", "npz"),
        ({"kind": "none"}, "/path", "no path"),
        ({"label": "", "test_fraction": "much"}, "/test_fraction", "number"),
    ],
)
def test_each_reference_is_resolved(tmp_path: Path, changes: dict[str, Any], place: str, near: str) -> None:
    """The message holds the place in the file, and what was probably meant."""
    found = read_declarations(declare(tmp_path, {**ENTRY, **changes}, {**ENTRY, "name": "other"}))
    assert list(found.entries) == ["other"], "one bad entry never stops the others"
    (faults,) = found.faults.values()
    told = [f"{fault.path} {fault.message}" for fault in faults]
    assert any(place in line and near in line for line in told), told
    with pytest.raises(BadDataset):
        read_datasets(tmp_path / "datasets.yaml")


@given(st.data())
def test_a_name_with_one_letter_wrong_is_refused_with_the_right_one(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("typo")
    part, good, value = data.draw(
        st.sampled_from([
            ("missing", "smoker", ["?"]), ("missing", "admitted", [-1]), ("values", "smoker", {"N": "no"}),
            ("ranges", "admitted", [0, 9]), ("dates", "admitted", "%Y"),
        ])
    )  # fmt: skip
    at = data.draw(st.integers(0, len(good) - 1))
    letter = data.draw(st.sampled_from("abcdexyz"))
    bad = good[:at] + letter + good[at + 1 :]
    found = read_declarations(declare(folder, {**ENTRY, part: {bad: value}}))
    if bad == good:
        assert list(found.entries) == ["ward"]
    else:
        assert f"did you mean '{good}'" in found.reasons()["ward"]


@pytest.mark.parametrize(
    "text",
    ["no", "yes", "on", "None", "null", "NA", "1", "1.0", "007", "1e3", "2020-01-31", "12:30", "0x1F", "1_000", "true",
     ".5", "é"],
)  # fmt: skip
def test_yaml_guesses_nothing(tmp_path: Path, text: str) -> None:
    """An unquoted scalar is the text that its author sees, as a category and as the name of a data set."""
    file = tmp_path / "datasets.yaml"
    file.write_text(
        f"datasets:\n- name: {text}\n  kind: csv\n  path: rows.csv\n  label: y\n  columns:\n"
        f"  - {{name: x, type: category, categories: [{text}, other]}}\n  - {{name: y, type: number}}\n"
    )
    (tmp_path / "rows.csv").write_text(f"x,y\n{text},1\nother,0\n")
    entry = read_datasets(file)[text]
    assert entry.columns[0].categories == (text, "other")
    assert load_dataset(entry).features[:, 0].tolist() == [0, 1]
    moved = tmp_path / "moved.yaml"
    moved.write_text(yaml.safe_dump(movable_document(file)))
    assert read_datasets(moved)[text] == entry


def test_a_url_in_place_of_its_file_is_not_repeated(tmp_path: Path) -> None:
    secret = "postgresql://me:hunter2@db/wards"
    sql = {"url_file": secret, "query": "SELECT 1 AS x"}
    entry = {"name": "d", "kind": "sql", "sql": sql, "columns": [{"name": "x", "type": "number"}]}
    others = [
        {**entry, "name": "e", "sql": secret},
        {**entry, "name": "f", "sql": {**sql, "url_file": "u", "url": secret}},
    ]
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [entry, *others]}))
    reasons = read_declarations(tmp_path / "datasets.yaml").reasons()
    assert reasons["d"].startswith("/datasets/0/sql/url_file is the path of a file that holds the URL")
    assert set(reasons) == {"d", "e", "f"}
    assert "hunter2" not in str(reasons)


def test_a_name_that_is_taken_twice_is_no_name(tmp_path: Path) -> None:
    found = read_declarations(declare(tmp_path, ENTRY, ENTRY, {**ENTRY, "name": "other"}))
    assert list(found.entries) == ["other"]
    assert "used twice" in found.reasons()["ward"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "datasets:\n- {name: a, kind: none}\n- 7\n- {kind: none}\n- {name: b, kind: none}\n",
            {"number 2", "number 3"},
        ),
        ("dataset: []\ndatasets: [{name: a, kind: none}, {name: b, kind: none}]\n", {"datasets.yaml"}),
    ],
)
def test_what_is_no_entry_is_named_by_its_place(tmp_path: Path, text: str, says: set[str]) -> None:
    file = tmp_path / "datasets.yaml"
    file.write_text(text)
    found = read_declarations(file)
    assert (set(found.entries), set(found.faults)) == ({"a", "b"}, says)


@pytest.mark.parametrize(
    "text",
    ["- a", "datasets: {a: b}", "datasets: 7", "seven", "datasets: [", "\x00", "a: 1\na: 2", "a: &a [*a", "[" * 5000,
     "datasets: [{name: a, name: b, kind: none}]", "!!python/object/apply:os.system [a]"],
)  # fmt: skip
def test_a_file_that_is_no_declaration_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "datasets.yaml"
    file.write_text(text)
    with pytest.raises(BadDataset, match=r"datasets\.yaml"):
        read_datasets(file)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path_factory: Any, content: bytes) -> None:
    file = tmp_path_factory.mktemp("any") / "datasets.yaml"
    file.write_bytes(content)
    try:
        read_declarations(file)
    except BadDataset:
        with pytest.raises(BadDataset):
            read_datasets(file)


def test_empty_values_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "datasets.yaml"
    file.write_text("datasets:\n- {name: a, kind: none, path: , label: null, mock: ~}\n")
    (entry,) = read_datasets(file).values()
    assert (entry.path, entry.label, entry.mock) == (None, None, None)
    file.write_text("datasets:\n")
    assert read_datasets(file) == {}
    assert read_texts(file) == {"datasets": ""}
