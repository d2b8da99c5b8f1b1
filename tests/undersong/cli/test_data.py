"""`undersong data …`: a file becomes a declaration that its owner reads and corrects."""

import csv
import io
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.commands import Commands
from tests.effort import examples
from tests.shared.test_start_kit import kit
from undersong.cli.data import _print, _verdict
from undersong.client.types import Comparison
from undersong.recipes.datasets import DatasetEntry, describe_dataset, load_dataset, read_datasets
from undersong.recipes.declaration import BadDataset
from undersong.recipes.draft import draft_text
from undersong.services.agent.domain.rules import Detail
from undersong.services.agent.policy.file import load
from undersong.services.agent.policy.template import default_policy

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def undersong(commands: Commands, tmp_path: Path) -> Run:
    """Run a command in the test's folder."""
    return lambda *words: commands.run(*words, cwd=tmp_path, env=os.environ)


def drafted(file: Path, **options: Any) -> DatasetEntry:
    """The only entry of the draft for a file; it can be read as it is."""
    made = file.with_name("datasets.yaml")
    made.write_text(draft_text(file, **options))
    (entry,) = read_datasets(made).values()
    describe_dataset(entry)
    return entry


def test_a_draft_is_printed_or_added_and_can_be_loaded_as_it_is(undersong: Run, tmp_path: Path) -> None:
    (tmp_path / "ward.csv").write_text("age,sex,sick\n40,f,1\n,m,0\n61,f,1\n")
    (tmp_path / "other.csv").write_text("a;b\n1,5;no\n2,5;yes\n")
    done = undersong("data", "init", str(tmp_path / "ward.csv"))
    assert done.returncode == 0, done.stderr
    into = tmp_path / "datasets.yaml"
    into.write_text(done.stdout + "# a note of the owner's\n")
    entry = read_datasets(into)["ward"]
    assert [(c.name, c.type, c.categories) for c in entry.columns] == [
        ("age", "number", None),
        ("sex", "category", ("f", "m")),
        ("sick", "number", None),
    ]
    assert load_dataset(entry, ["age"], "sick").label.tolist() == [1, 0, 1]
    added = undersong("data", "init", str(tmp_path / "other.csv"), "--label", "b", "--into", str(into))
    assert added.returncode == 0, added.stderr
    assert "a site that has a policy.yaml already must name it there too" in added.stdout
    both = read_datasets(into)
    assert (set(both), both["other"].label) == ({"ward", "other"}, "b")
    assert load_dataset(both["other"]).features[:, 0].tolist() == [1.5, 2.5]
    assert "a note of the owner's" in into.read_text()
    before = into.read_text()
    twice = undersong("data", "init", str(tmp_path / "other.csv"), "--into", str(into))
    assert (twice.returncode, into.read_text()) == (1, before)
    assert "used twice" in twice.stderr
    assert "--name" in twice.stderr
    policy = tmp_path / "policy.yaml"
    policy.write_text(default_policy({}, {"ward": ["age"]}, min_cohort=3, reports=Detail.CODE))
    third = undersong("data", "init", str(tmp_path / "other.csv"), "--name", "no", "--into", str(into))
    told, _, lines = third.stdout.partition("add this under datasets")
    assert f"{policy} does not name it yet" in told
    policy.write_text(policy.read_text().replace("\ndatasets:\n", f"\ndatasets:\n{lines.partition(chr(10))[2]}"))
    assert {name: sorted(columns) for name, columns in load(policy)[0].datasets.items()} == {
        "ward": ["age"],
        "no": ["a", "b"],
    }
    into.write_text(into.read_text().partition("  - name: no")[0])
    fourth = undersong("data", "init", str(tmp_path / "other.csv"), "--name", "no", "--into", str(into))
    assert (fourth.returncode, "policy" in fourth.stdout) == (0, False), "the policy names it by now"


def test_an_entry_is_added_to_the_empty_list_of_a_start_kit(undersong: Run, tmp_path: Path) -> None:
    (tmp_path / "größe.csv").write_text("Größe;krank\n1,5;0\n2,5;1\n")
    into = tmp_path / "datasets.yaml"
    into.write_bytes(kit().files()["datasets.yaml"])
    done = undersong("data", "init", str(tmp_path / "größe.csv"), "--into", str(into))
    assert done.returncode == 0, done.stderr
    assert set(read_datasets(into)) == {"größe"}
    assert "For example" in into.read_text()
    flow = "datasets: [{name: a, kind: none, columns: []}]\n"
    into.write_text(flow)
    refused = undersong("data", "init", str(tmp_path / "größe.csv"), "--into", str(into))
    assert (refused.returncode, into.read_text()) == (1, flow)
    assert "on lines of its own" in refused.stderr


@pytest.mark.parametrize(
    ("text", "told"), [("age,sick\n40,1,\n", "line 2 has 3 fields"), ("", "empty"), ("a,a\n1,2\n", "a column twice")]
)
def test_a_file_that_cannot_be_declared_is_refused(undersong: Run, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "ward.csv").write_text(text)
    done = undersong("data", "init", str(tmp_path / "ward.csv"))
    assert (done.returncode, done.stdout) == (1, "")
    assert told in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "ward.csv has no value in the column sick: a label needs rows with one"),
        (["40,"], "ward.csv has no value in the column sick"),
        ([f"40,note {place}" for place in range(60)], "the column sick holds 60 different texts, and a label is"),
    ],
)
def test_a_column_that_cannot_be_a_label_is_refused(tmp_path: Path, rows: list[str], told: str) -> None:
    (tmp_path / "ward.csv").write_text("\n".join(["age,sick", *rows]) + "\n")
    with pytest.raises(BadDataset, match=told):
        draft_text(tmp_path / "ward.csv", label="sick")


def test_what_was_guessed_is_said(tmp_path: Path) -> None:
    (tmp_path / "ward.csv").write_bytes(
        "Bericht 7\nalter;größe;aufnahme;stufe;Outcome;notiz\n"
        "40;1,80;01.02.2020;1;no;\n?;1,75;02.02.2020;2;yes;\n1.040;1,6;;3;NA;\n".encode("cp1252")
    )
    entry = drafted(tmp_path / "ward.csv")
    assert entry.csv.model_dump(exclude_defaults=True) == {
        "separator": ";", "decimal": ",", "thousands": ".", "encoding": "cp1252", "header": 2
    }  # fmt: skip
    assert (entry.missing, entry.dates) == ({"alter": ("?",)}, {"aufnahme": "%d.%m.%Y"})
    assert [(c.name, c.type) for c in entry.columns] == [
        ("alter", "number"), ("größe", "number"), ("aufnahme", "number"), ("stufe", "number"), ("Outcome", "category"),
        ("notiz", "text"),
    ]  # fmt: skip
    assert entry.label == "Outcome"
    text = (tmp_path / "datasets.yaml").read_text()
    for note in (
        "a guess, by its name",
        "holds 1, 2, 3: a category?",
        "NA: a category, or missing?",
        "only empty cells",
    ):
        assert note in text
    assert load_dataset(entry, ["alter", "größe"]).features[:, 1].tolist() == [1.8, 1.75, 1.6]


def test_a_draft_holds_any_text_that_a_file_can_hold(tmp_path: Path) -> None:
    """YAML forbids some characters that CSV allows, and a survey's questions are longer than any name."""
    file, odd = tmp_path / "rows.csv", ["\x7f", "\x85b", "\u2028c", "\u200bd", "\U000e0001", "e\u00a0f", 'q"\\']
    with file.open("w", newline="") as raw:
        csv.writer(raw).writerows([["y", *odd, "q" * 201], *[["z" * 150 + str(row), *odd, "1"] for row in range(60)]])
    entry = drafted(file)
    assert [column.name for column in entry.columns] == ["y", *(text.strip() for text in odd)]
    assert [column.categories for column in entry.columns[1:]] == [(text.strip(),) for text in odd]
    assert entry.label is None, "a column of texts is no label"
    assert "more than 200 characters: 1 columns" in (tmp_path / "datasets.yaml").read_text()


@pytest.mark.parametrize("text", ['"\\"|"1,5"\n' + '|"2,5"\n' * 5, "q" * 201 + "\n1\n"])
def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ward.csv").write_text(text)
    with pytest.raises(BadDataset, match=r"cannot be read|no name of 1 to 200"):
        draft_text(tmp_path / "ward.csv")


WORDS = st.sampled_from(["no", "yes", "None", "NA", "1.0", "null", "~", "a: b", "#c", "ü", "{x}", "'q'", "- z", "0x1"])


@settings(max_examples=examples(50), deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(-5, 99_999), WORDS), min_size=3, max_size=20),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-16"]),
    st.booleans(),
)
def test_drafts_of_csv_files_read_what_was_written(
    tmp_path_factory: Any, rows: list[Any], separator: str, encoding: str, named: bool
) -> None:
    file = tmp_path_factory.mktemp("draft") / "rows.csv"
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerows(
        [["x: 1", "n", "no"], *rows] if named else [[row[0], row[1], index] for index, row in enumerate(rows)]
    )
    file.write_bytes(text.getvalue().encode(encoding))
    entry = drafted(file)
    assert [column.name for column in entry.columns] == (["x: 1", "n", "no"] if named else
                                                         ["column_1", "column_2", "column_3"])  # fmt: skip
    numbers = load_dataset(entry, [column.name for column in entry.columns[:2]], "").features
    assert numbers.tolist() == [[row[0], row[1]] for row in rows]
    third = entry.columns[2]
    if named and third.type == "category":
        found = load_dataset(entry, ["no"], "").features[:, 0].astype(int).tolist()
        assert [(third.categories or ())[place] for place in found] == [word for _, _, word in rows]


NOT_KNOWN = [
    "k.A.",
    "n.b.",
    "NA",
    "n/a",
    "-",
    "?",
    "unbekannt",
    "missing",
    "Keine Angabe",
    "NaN",
    "null",
    "未知",
    "unlesbar",
]


@settings(max_examples=examples(25), deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4).map(lambda number: round(number, 3)), min_size=30, max_size=60),
    st.lists(st.sampled_from(NOT_KNOWN), min_size=1, max_size=3),
    st.sampled_from([".", ","]),
    st.randoms(),
)
def test_words_between_numbers_are_proposed_as_missing(
    tmp_path_factory: Any, numbers: list[float], words: list[str], decimal: str, random: Any
) -> None:
    """For the owner to confirm: the column is a number column, and the words are read as not known."""
    cells: list[Any] = [*numbers, *words]
    random.shuffle(cells)
    file = tmp_path_factory.mktemp("words") / "rows.csv"
    file.write_text(
        "x;y\n" + "".join(f"{str(cell).replace('.', decimal) if cell not in words else cell};1\n" for cell in cells)
    )
    entry = drafted(file)
    assert (entry.columns[0].type, set(entry.missing["x"])) == ("number", set(words))
    assert "taken for missing, is that right?" in file.with_name("datasets.yaml").read_text()
    read = load_dataset(entry, ["x"]).features[:, 0].tolist()
    assert all(
        math.isnan(number) if cell in words else number == cell for number, cell in zip(read, cells, strict=True)
    )


@pytest.mark.parametrize(
    ("cells", "kind", "notes"),
    [
        (["<0.5"] + ["1.5", "2"] * 20, "category", ["numbers but for <0.5: correct these"]),
        (["5 mg", "7mg"] + [str(row / 7) for row in range(99)], "text", ["numbers but for 5 mg, 7mg"]),
        (["a", "b", "c", "d"] + ["1"] * 99, "category", ["numbers but for a, b, c and 1 more"]),
        (["<0.5", "-9"] + ["1.5", "2"] * 20, "category", ["numbers but for <0.5", "-9 far outside the rest"]),
        (["-99", ">9"] + [str(row / 7) for row in range(99)], "text", ["numbers but for >9", "-99 far outside"]),
        (["a", "b", "c", "d", "999"] + ["1"] * 99, "category", ["numbers but for a, b, c", "999 far outside"]),
        (["<0,5", "-9"] + [f"{row},5" for row in range(99)], "text", ["numbers but for <0,5", "-9 far outside"]),
        (["<0.5"] + ["9"] + [str(row) for row in range(30)], "category", ["numbers but for <0.5"]),
        (["low", "high"] * 10 + ["1", "2"] * 10, "category", []),
        (["-999"] + ["18", "90"] * 9, "number", ["-999 far outside the rest (18 to 90)", "missing: {x: [-999]}"]),
        (["-9", "-99", "9999"] + ["1.5"] * 9, "number", ["-99, -9, 9999 far outside", "missing: {x: [-99, -9, 9999]}"]),
        (["999.0"] + [str(row) for row in range(5000)], "number", []),
        (["9999"] + [str(row / 8) for row in range(5000)], "number", ["9999 far outside the rest (0 to 624.875)"]),
        (["-9", "9", "99"] + [str(row) for row in range(-50, 120)], "number", []),
        (["0", "1", "9"] * 9, "number", ["holds 0, 1, 9: a category?", "9 far outside the rest (0 to 1)"]),
        (["9007199254740993"] + [str(row) for row in range(99)], "text", ["have more digits, than a number column"]),
        (["1e999", "1"], "category", []),
        ([f"p{row}.JPG" for row in range(60)], "text", ["files of images? kind: images reads them"]),
        (["x" * 300_000] + [str(row) for row in range(99)], "text", ["99 or more different texts"]),
    ],
)  # fmt: skip
def test_what_looks_odd_in_a_column_is_noted(tmp_path: Path, cells: list[str], kind: str, notes: list[str]) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("x;t\n" + "".join(f"{cell};w\n" for cell in cells))
    entry = drafted(file)
    assert (entry.columns[0].type, entry.missing) == (kind, {})
    (line,) = [line for line in (tmp_path / "datasets.yaml").read_text().splitlines() if "{name: x," in line]
    for note in notes:
        assert note in line
    for note in ("numbers but for", "far outside", "a category?"):
        assert (note in line) == any(note in each for each in notes)


def test_drafts_of_typed_files(tmp_path: Path) -> None:
    table = {"age": [1.5, None], "sex": ["f", "m"], "sick": [True, False]}
    parquet.write_table(pa.table(table), tmp_path / "rows.parquet")
    entry = drafted(tmp_path / "rows.parquet", label="sex")
    assert [(c.type, c.categories) for c in entry.columns] == [
        ("number", None), ("category", ("f", "m")), ("category", ("false", "true"))
    ]  # fmt: skip
    assert math.isnan(load_dataset(entry).features[1, 0])
    held = {"x": np.array([-999.0, 20, 30]), "i": [2**53 + 1, 2**53, 7]}
    np.savez(tmp_path / "odd.npz", **held)
    parquet.write_table(pa.table(held), tmp_path / "odd.parquet")
    for name in ("odd.npz", "odd.parquet"):
        assert [column.type for column in drafted(tmp_path / name).columns] == ["number", "category"]
        assert "-999 far outside the rest (20 to 30)" in (tmp_path / "datasets.yaml").read_text()
    np.savez(tmp_path / "scans.npz", x=np.full((3, 8, 9, 3), 7), y=np.array([0, 1, 1]))
    entry = drafted(tmp_path / "scans.npz")
    assert (entry.channel_axis, entry.label, entry.ranges) == ("last", "y", {"x": (0, 7)})
    np.savez(tmp_path / "scans.npz", x=np.arange(27).reshape(3, 3, 3), y=np.array([0, 1, 1]))
    assert load_dataset(drafted(tmp_path / "scans.npz")).features.max() == 1


@pytest.mark.parametrize(
    ("states", "labels", "said"),
    [
        (["same", "matched"], ["y", "y"], "the sites match"),
        (["same", "partial"], ["y", "y"], "not all sites have c1: jobs leave that out unless they list it"),
        (["different", "partial"], ["y", "y"], "the sites do not match"),
        (["same", "partial"], ["y", "z"], "the sites do not match"),
    ],
)
def test_a_comparison_ends_with_what_it_means_for_a_job(states: list[str], labels: list[str], said: str) -> None:
    columns = [{"name": f"c{place}", "state": state} for place, state in enumerate(states)]
    matches = said == "the sites match"
    found = {"dataset": "d", "sites": ["a", "b"], "labels": dict(zip("ab", labels, strict=True)), "matches": matches}
    assert _verdict(Comparison.model_validate(found | {"columns": columns})).startswith(said)


def test_a_comparison_names_the_sites_without_the_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"dataset": "d", "sites": ["a"], "labels": {"a": "y"}, "matches": True, "columns": []}
    _print(Comparison.model_validate(found | {"absent": {"b": "its agent has not reported yet"}}))
    said = capsys.readouterr().out
    assert "d at a" in said
    assert "not at b: its agent has not reported yet" in said
