"""Files of one record a line: JSON objects, and plain texts."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.recipes.declaring import declared, refused
from undersong.recipes.datasets import load_dataset, read_declarations
from undersong.recipes.draft import draft_text

TEXT = {"name": "text", "type": "text"}
MOOD = {"name": "mood", "type": "category", "categories": ["bad", "good"]}
AGE = {"name": "age", "type": "number"}


def jsonl(folder: Path, lines: str | bytes, columns: list[dict[str, Any]], **more: Any) -> Any:
    (folder / "data.jsonl").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    return declared(folder, columns, kind="jsonl", path="data.jsonl", **more)


def test_texts_reach_recipes_as_they_are_beside_their_label(tmp_path: Path) -> None:
    lines = [{"text": "Ünder\nthe song", "mood": "good"}, {"mood": "bad", "text": " x "}, {"text": "lost"}]
    packed = gzip.compress("\n\n".join(map(json.dumps, lines)).encode())
    data = load_dataset(jsonl(tmp_path, packed, [TEXT, MOOD], label="mood"))
    assert data.features.tolist() == ["Ünder\nthe song", " x "]
    assert data.label.tolist() == [1, 0]


def test_numbers_truth_and_null_are_cells_as_written(tmp_path: Path) -> None:
    lines = '{"age": 1.50, "ok": true}\n{"age": null, "ok": false}\n{"ok": true}\n{"age": "7", "ok": 1e2}\n'
    data = load_dataset(jsonl(tmp_path, lines, [AGE], filter={"ok": "true"}))
    assert str(data.features.tolist()) == "[[1.5], [nan]]"


@given(texts=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1, max_size=5))
@settings(max_examples=examples(30), deadline=None)
def test_any_text_comes_back(tmp_path_factory: Any, texts: list[str]) -> None:
    lines = "\n".join(json.dumps({"text": text, "n": place}) for place, text in enumerate(texts))
    assert load_dataset(jsonl(tmp_path_factory.mktemp("t"), lines, [TEXT])).features.tolist() == texts


def test_lines_of_text_are_rows(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_bytes("To be, or not\r\n\r\n  caf\xe9\n".encode("latin-1"))
    more = {"kind": "lines", "path": "play.txt", "csv": {"encoding": "latin-1"}}
    assert load_dataset(declared(tmp_path, [TEXT], **more)).features.tolist() == ["To be, or not", "  café"]
    refusal = refused(declared(tmp_path, [TEXT], kind="lines", path="play.txt"))
    assert "not in the declared encoding" in refusal.detail
    refusal = refused(declared(tmp_path, [{"name": "line", "type": "text"}], **more))
    assert "the one column text" in refusal.explain()


@pytest.mark.parametrize(
    ("lines", "says", "told"),
    [
        ('{"age": 1}\n[1]\n', "no JSON object", "line 2"),
        ('{"age": 1}\n{"age": }\n', "no JSON object", "line 2: is no JSON"),
        ('{"age": 1, "age": 2}\n', "no JSON object", "names age twice"),
        ('{"age": NaN}\n', "no JSON object", "NaN"),
        ('{"age": [1]}\n', "a list or an object", "line 1"),
        ('{"agee": 1}\n', "no column age", "did you mean 'agee'"),
        ('{"age": "old"}\n', "not a number", "'old'"),
        ("[" * 100_000 + "\n", "no JSON object", "line 1"),
        (b'{"age": "\xff"}\n', "not in the declared encoding", "cp1252"),
        ('{"age": "\0"}\n', "no text", "line 1"),
        ("", "holds no rows", ""),
        (b"PAR1xxxx", "no CSV", "Parquet"),
    ],
)
def test_lines_that_are_no_records_are_refused(tmp_path: Path, lines: str | bytes, says: str, told: str) -> None:
    refusal = refused(jsonl(tmp_path, lines, [AGE]))
    assert says in refusal.detail
    assert told in refusal.explain()


def test_a_draft_is_made_of_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"age": at, "mood": ("bad", "good")[at % 2]}) + "\n" for at in range(20)))
    (tmp_path / "datasets.yaml").write_text(draft_text(file, "rows", "mood"))
    entry = read_declarations(tmp_path / "datasets.yaml").entries["rows"]
    assert (entry.kind, [column.type for column in entry.columns]) == ("jsonl", ["number", "category"])
    assert load_dataset(entry).label.size == 20


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["To be, or not to be", "that is the question", "whether tis nobler, in the mind, to suffer"] * 4, "lines"),
        (["we had a good room"], "lines"),
        (["Zimmer schön", "Bett gut"], "lines"),
        (["age\tsick", *["40\t1", "50\t0"] * 10], "csv"),
        (["a table of ward 7", "age;sick", *["40;1", "50;0"] * 10], "csv"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_a_file_of_texts_is_drafted_as_one(tmp_path: Path, lines: list[str], kind: str, encoding: str) -> None:
    """Its first line was taken for a column's name before, which leaves the site, and few lines for categories."""
    (file := tmp_path / "notes.txt").write_text("\n".join(lines) + "\n", encoding)
    (tmp_path / "datasets.yaml").write_text(text := draft_text(file))
    entry = read_declarations(tmp_path / "datasets.yaml").entries["notes"]
    assert entry.kind == kind
    if kind == "lines":
        assert [(column.name, column.type) for column in entry.columns] == [("text", "text")]
        assert not any(line in text for line in lines)
        assert load_dataset(entry) is not None


def test_options_of_csv_are_refused(tmp_path: Path) -> None:
    document = {"name": "d", "kind": "jsonl", "path": "d", "columns": [AGE], "csv": {"separator": ";"}}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [document]}))
    assert "for kind csv" in read_declarations(tmp_path / "datasets.yaml").reasons()["d"]
