"""Files of data sets: what is written comes back, and what is odd is refused with its place."""

import csv
import gzip
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.effort import examples
from tests.recipes.declaring import Y, declared, refused
from undersong.recipes.datasets import load_dataset
from undersong.recipes.files import MOST_ROW
from undersong.recipes.reading import parts

LEVELS = ["None", "NA", "nan", "no", "yes", "null", "1", "1.5", "-", "a b", "x,y", "ü", 'say "hi"', "007"]


# ------------------------------------------------------------------ what is written comes back

OPTIONS = st.fixed_dictionaries({
    "separator": st.sampled_from([",", ";", "\t", "|"]),
    "decimal": st.sampled_from([".", ","]),
    "thousands": st.sampled_from(["", "'", " "]),
    "encoding": st.sampled_from(["utf-8", "latin-1", "cp1252", "utf-16"]),
    "quote": st.sampled_from(['"', "'"]),
    "header": st.integers(0, 3),
})  # fmt: skip
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**7), 10**7)


def spelt(number: float | None, options: dict[str, Any]) -> str:
    if number is None:
        return ""
    text = f"{number:,}" if options["thousands"] and isinstance(number, int) else repr(number)
    return text.replace(",", options["thousands"]).replace(".", options["decimal"])


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.none() | st.sampled_from(LEVELS), st.integers(0, 1)), min_size=1), OPTIONS,
       st.booleans())  # fmt: skip
def test_csv_round_trip(tmp_path_factory: Any, rows: list[Any], options: dict[str, Any], packed: bool) -> None:
    """Numbers, levels that other readers guess about, and missing cells, however the file is written."""
    folder = tmp_path_factory.mktemp("csv")
    text = io.StringIO()
    writer = csv.writer(text, delimiter=options["separator"], quotechar=options["quote"])
    for line in range(options["header"] - 1):
        text.write(f"note {line}\n")
    if options["header"]:
        writer.writerow(["x", "c", "y"])
    for number, level, label in rows:
        writer.writerow([spelt(number, options), level or "", label])
    content = text.getvalue().encode(options["encoding"])
    (folder / "data.csv").write_bytes(gzip.compress(content) if packed else content)
    how = options if options["header"] else {**options, "names": ["x", "c", "y"]}
    columns = [{"name": "x", "type": "number"}, {"name": "c", "type": "category", "categories": LEVELS}, Y]
    data = load_dataset(declared(folder, columns, csv=how, label="y"))
    for (number, level, _), (x, c) in zip(rows, data.features.tolist(), strict=True):
        assert math.isnan(x) if number is None else x == float(number)
        assert math.isnan(c) if level is None else LEVELS[int(c)] == level
    assert data.label.tolist() == [label for _, _, label in rows]


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.none() | st.sampled_from(LEVELS), st.none() | st.integers(-5, 5)), min_size=1))
def test_parquet_and_npz_round_trip(tmp_path_factory: Any, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("typed")
    x = [None if row[0] is None else float(row[0]) for row in rows]
    c, n = [row[1] for row in rows], [row[2] for row in rows]
    table = pa.table({
        "x": pa.array(x, pa.float64()), "c": pa.array(c, pa.string()).dictionary_encode(), "n": pa.array(n, pa.int16())
    })  # fmt: skip
    parquet.write_table(table, folder / "data.parquet", row_group_size=2)
    np.savez(
        folder / "data.npz",
        x=np.array(x, np.float64), c=np.array([text or "" for text in c]), n=np.array(n, np.float32),
    )  # fmt: skip
    columns = [
        {"name": "x", "type": "number"},
        {"name": "c", "type": "category", "categories": LEVELS},
        {"name": "n", "type": "category", "categories": [str(code) for code in range(-5, 6)]},
    ]
    read = [
        load_dataset(declared(folder, columns, kind=kind, path=f"data.{kind}", label=None)).features
        for kind in ("parquet", "npz")
    ]
    assert np.array_equal(read[0], read[1], equal_nan=True)
    for row, (number, level, code) in zip(rows, read[0].tolist(), strict=True):
        assert math.isnan(number) if row[0] is None else number == float(row[0])
        assert math.isnan(level) if row[1] is None else LEVELS[int(level)] == row[1]
        assert math.isnan(code) if row[2] is None else code - 5 == row[2]


# ------------------------------------------------------------------ CSV: places and hints

AGE = [{"name": "age", "type": "number"}, Y]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("age,y\n50,1,\n", ["line 2 has 4 fields"]),
        ("age,y\n50,1\n60\n", ["line 3 has 1 fields, the header has 2: age, y"]),
        ("age,y\n50,1\n\n\n60,1,0\n", ["line 5 has 3 fields"]),
        ('age,y\n"5\n0",1\n60\n', ["line 4 has 1 fields"]),
        ("age,y,age\n50,1,2\n", ["names a column twice"]),
        ("age, age ,y\n50,1,2\n", ["names a column twice"]),
        ("Age,y\n50,1\n", ["no column age", "Age, y", "did you mean 'Age'"]),
        ("age;y\n50;1\n", ["no column age, y", "age;y", 'separator: ";"']),
        ("age\ty\n50\t1\n", ['separator: "tab"']),
        ("made by lab 7\n\nage,y\n50,1\n", ["header: 3"]),
        ("made by lab 7\nage;y\n50;1\n", ['separator: ";", header: 2']),
        ("50,1\n60,0\n", ["header: 0, names"]),
        ("age,y\n1'234,1\n", ['thousands: "\'"']),
        ('age,y\n"1,5",1\n', ["line 2, column age: '1,5' is not a number", 'decimal: ","']),
        ('age,y\n"1,234.5",1\n', ['thousands: ","']),
        ('age,y\n"1.234,5",1\n', ['decimal: ",", thousands: "."']),
        ("age,y\n5,1\n,0\nNA,1\n", ["line 4, column age: 'NA' is not a number", 'missing: {age: ["NA"]}']),
        ("age,y\n01.02.2020,1\n", ['dates: {age: "%d.%m.%Y"}']),
        ("age,y\nyes,1\n", ["values: {age"]),
        ("age,y\n−5,1\n", ["not a number", "looks like '-5' but has U+2212 (MINUS SIGN)"]),
        ("age,y\n5\u200b,1\n", ["not a number", "looks like '5' but has U+200B (ZERO WIDTH SPACE)"]),
        ("a\u200bge,y\n5,1\n", ["no column age", "U+200B (ZERO WIDTH SPACE)"]),
        ("age,y\n5,1\n1e999,1\n", ["line 3", "infinite"]),
        ("age,y\ninf,1\n", ["line 2", "not a number"]),
        ("age,y\nnan,1\n", ["line 2", "not a number"]),
        ("age,y\n1_000,1\n", ["line 2", "not a number"]),
        ("age,y\n１２,1\n", ["line 2", "not a number"]),
        ("age,y\n0x10,1\n", ["line 2", "not a number"]),
        ("age,y\n5,1\n6,yes\nold,1\n", ["line 3, column y: 'yes'", "line 4, column age: 'old'"]),
        ('age,y\n5,"1\n6,1\n', ["inside a quoted cell", "never closed"]),
        ('age,y\n5,"1"1\n', ["line 2", "no CSV"]),
        ("age,y\n5\0,1\n", ["NUL"]),
        ("age,y\n", ["holds no rows"]),
        ("", ["no line 1"]),
    ],
)
def test_a_csv_file_is_refused_with_the_place_and_the_likeliest_option(
    tmp_path: Path, text: str, told: list[str]
) -> None:
    (tmp_path / "data.csv").write_bytes(text.encode())
    entry = declared(tmp_path, AGE, label="y")
    said = refused(entry).explain()
    if told == ["line 2 has 4 fields"]:
        told = ["line 2 has 3 fields, the header has 2", "ends with a separator"]
    for words in told:
        assert words in said, said


def test_a_header_that_names_nothing_gives_no_index(tmp_path: Path) -> None:
    """A column without a name (pandas writes its index so) cannot be referred to, and shifts nothing."""
    (tmp_path / "data.csv").write_text(",age,y\n0,50,1\n1,60,0\n")
    assert load_dataset(declared(tmp_path, AGE, label="y")).features.tolist() == [[50], [60]]


def test_values_go_to_the_owner_only(tmp_path: Path) -> None:
    """The sentence that may be reported names columns; the value and its line are in the evidence."""
    (tmp_path / "data.csv").write_text("age,y\n50,1\nsecret-77,0\n")
    refusal = refused(declared(tmp_path, AGE, label="y"))
    assert "secret-77" not in refusal.detail
    assert "secret-77" not in str(refusal)
    assert "line 3, column age: 'secret-77'" in refusal.explain()


@pytest.mark.parametrize(
    ("encoding", "told"), [("utf-16", "encoding: utf-16"), ("latin-1", "encoding: cp1252"), ("utf-16-le", "utf-16")]
)
def test_another_encoding_is_named(tmp_path: Path, encoding: str, told: str) -> None:
    (tmp_path / "data.csv").write_bytes("age,y,stadt\n5,1,Köln\n".encode(encoding))
    assert told in refused(declared(tmp_path, AGE, label="y")).explain()


def test_a_whole_number_with_a_fraction_of_zeros_is_that_number(tmp_path: Path) -> None:
    """`1.0` is the level 1 where no level is called 1.0, and -9.0 the missing -9; `01` and `1e0` are neither."""
    columns = [{"name": "c", "type": "category", "categories": ["1", "2"]}, {"name": "n", "type": "number"}]
    entry = declared(tmp_path, columns, missing={"c": [-9], "n": [-9]})
    (tmp_path / "data.csv").write_text("c,n\n1.0,-9.0\n2,-9\n-9.00,-9.00\n-9,7\n")
    assert np.array_equal(load_dataset(entry).features, [[0, np.nan], [1, np.nan], [np.nan, np.nan], [np.nan, 7]],
                          equal_nan=True)  # fmt: skip
    for cell in ("01", "1e0", "1.5", "-9.5"):
        (tmp_path / "data.csv").write_text(f"c,n\n1,0\n{cell},0\n")
        assert f"line 3, column c: '{cell}'" in refused(entry).explain()
    both = declared(tmp_path, [{"name": "c", "type": "category", "categories": ["1", "1.0"]}, Y])
    (tmp_path / "data.csv").write_text("c,y\n1.0,0\n1,0\n")
    assert load_dataset(both).features[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize("cell", ["Ko\u0308ln", "K\u00f6ln\u200b", "New\u00a0York", "\u0410"])
def test_a_cell_that_only_looks_like_a_category_is_refused_with_its_code_points(tmp_path: Path, cell: str) -> None:
    levels = ["K\u00f6ln", "New York", "A"]
    entry = declared(tmp_path, [{"name": "c", "type": "category", "categories": levels}, Y])
    (tmp_path / "data.csv").write_text(f"c,y\nA,1\n{cell},0\n")
    said = refused(entry).explain()
    assert "line 3, column c" in said
    assert " but has U+" in said
    assert ascii(cell) not in ascii(refused(entry).detail), "the platform is told no value"


def test_values_ranges_and_dates(tmp_path: Path) -> None:
    columns = [
        {"name": "sex", "type": "category", "categories": ["0", "1"]},
        {"name": "age", "type": "number"},
        {"name": "admitted", "type": "number"},
        Y,
    ]
    options: dict[str, Any] = {
        "values": {"sex": {"M": 1, "Male": 1, "F": 0}, "y": {"sick": 1, "well": 0}},
        "ranges": {"age": [0, 120]},
        "dates": {"admitted": "%d.%m.%Y"},
        "missing": {"*": ["?"], "age": [999]},
    }
    entry = declared(tmp_path, columns, label="y", **options)
    (tmp_path / "data.csv").write_text("sex,age,admitted,y\nM,40,02.01.1970,sick\nMale,999,?,well\n0,?,01.01.1970,1\n")
    data = load_dataset(entry)
    nan = math.nan
    assert np.array_equal(data.features, [[1, 40, 1], [1, nan, nan], [0, nan, 0]], equal_nan=True)
    assert data.label.tolist() == [1, 0, 1]
    for row, told in (
        ("M,121,,1", "'121' is outside its range 0 to 120"),
        ("male,1,,1", "did you mean 'Male'"),
        ("M,1,1970-01-01,1", "not a date of the form %d.%m.%Y"),
    ):
        (tmp_path / "data.csv").write_text(f"sex,age,admitted,y\n{row}\n")
        said = refused(entry).explain()
        assert told in said, said


@pytest.mark.parametrize(
    ("kind", "wanted", "rows"), [("number", "1.0", [0, 2]), ("category", "1", [0, 2]), (None, "1", [0, 2])]
)
def test_a_filter_compares_as_the_column_is_declared(
    tmp_path: Path, kind: str | None, wanted: str, rows: list[int]
) -> None:
    levels = {"categories": ["1", "2"]} if kind == "category" else {}
    extra = [] if kind is None else [{"name": "w", "type": kind, **levels}]
    (tmp_path / "data.csv").write_text("x,w\n0,1\n1,2\n2,1.0\n")
    entry = declared(tmp_path, [{"name": "x", "type": "number"}, *extra], filter={"w": wanted})
    assert load_dataset(entry, ["x"]).features[:, 0].tolist() == rows
    if kind is None:
        (tmp_path / "data.csv").write_text("x,w\n0,north\n1,south\n")
        said = refused(declared(tmp_path, [{"name": "x", "type": "number"}], filter={"w": "nort"})).explain()
        assert "never 'nort'; it holds north, south" in said


# ------------------------------------------------------------------ very wide, very long, very large


def test_thirty_thousand_columns_are_read_and_told_in_few_words(tmp_path: Path) -> None:
    names = [f"g{place}" for place in range(30_000)]
    (tmp_path / "data.csv").write_text(",".join([*names, "y"]) + "\n" + "\n".join(["1," * 30_000 + "2"] * 80) + "\n")
    assert load_dataset(declared(tmp_path, [Y])).features[:, 0].tolist() == [2.0] * 80
    fault = refused(declared(tmp_path, [{"name": "g30001", "type": "number"}]))
    assert len(fault.explain()) < 2000


def test_a_cut_utf_16_file_is_not_told_to_be_utf_16(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("y\n1\n".encode("utf-16")[:-1])
    assert "is cut or damaged" in refused(declared(tmp_path, [Y], csv={"encoding": "utf-16"})).detail


# ten digits and more around the bound, and whole numbers of any size that float64 holds or does not hold
LARGE = st.integers(2**53 - 3, 2**53 + 9) | st.integers(0, 2**80) | st.integers(0, 40).map(lambda power: 10**power)


@settings(max_examples=examples(40), deadline=None)
@given(LARGE, st.sampled_from(["", "-"]), st.sampled_from(["{}", "{}.0", "{}e0", "00{}"]), st.booleans())
def test_a_whole_number_is_read_exactly_or_refused(
    tmp_path_factory: Any, size: int, sign: str, form: str, thousands: bool
) -> None:
    """Whatever the file's kind; with an exponent it is a measurement, and rounded."""
    folder, number = tmp_path_factory.mktemp("large"), int(f"{sign}{size}")
    text = sign + form.format(f"{size:,}" if thousands and form == "{}" else size)
    (folder / "data.csv").write_text(f'x,y\n1,0\n"{text}",1\n')
    csv_entry = declared(folder, [{"name": "x", "type": "number"}, Y], csv={"thousands": ","})
    entries = [csv_entry]
    if abs(number) < 2**63:
        np.savez(folder / "data.npz", x=np.array([1, number]), y=np.arange(2))
        entries.append(declared(folder, [{"name": "x", "type": "number"}, Y], kind="npz", path="data.npz"))
        for name, column in (("data.parquet", [1, number]), ("nulls.parquet", [None, number])):
            parquet.write_table(pa.table({"x": pa.array(column, pa.int64()), "y": [0, 1]}), folder / name)
            entries.append(declared(folder, [{"name": "x", "type": "number"}, Y], kind="parquet", path=name))
    for entry in entries:
        if int(float(number)) == number or (entry is csv_entry and "e" in form):
            assert load_dataset(entry).features[1, 0] == float(number)
        else:
            said = refused(entry).explain()
            assert "2, column x" in said or "3, column x" in said
            assert "has more digits than a number column keeps" in said
            assert "declare x as text" in said


def test_a_number_that_is_too_long_can_be_an_identifier_or_missing(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("x,y\n9007199254740993,0\n9007199254740992,1\n")
    entry = declared(tmp_path, [{"name": "x", "type": "number"}, Y], missing={"x": [9007199254740993]})
    assert np.isnan(load_dataset(entry).features[:, 0]).tolist() == [True, False], "and its neighbour is not missing"
    np.savez(tmp_path / "data.npz", x=np.array([2**63 - 1, 2**53]), y=np.arange(2))
    entry = declared(
        tmp_path, [{"name": "x", "type": "number"}, Y], kind="npz", path="data.npz", missing={"x": [2**63 - 1]}
    )
    assert np.isnan(load_dataset(entry).features[:, 0]).tolist() == [True, False]
    levels = ["9007199254740992", "9007199254740993"]
    coded = declared(tmp_path, [{"name": "x", "type": "category", "categories": levels}, Y])
    assert load_dataset(coded).features[:, 0].tolist() == [1, 0]
    (tmp_path / "data.csv").write_text("x,y\n1e300,0\n0.12345678901234567890,1\n")
    assert load_dataset(declared(tmp_path, [{"name": "x", "type": "number"}, Y])).features[0, 0] == 1e300


@pytest.mark.parametrize("head", [b"y\n1\n", b""])
def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path: Path, head: bytes) -> None:
    """64 GiB that hold no end of a line."""
    with (tmp_path / "data.csv").open("wb") as file:
        file.write(head)
        file.truncate(2**36)
    said = refused(declared(tmp_path, [Y])).explain()
    assert f"a line of more than {MOST_ROW:,} characters" in said
    assert f"line {3 if head else 1}" in said


def test_a_row_whose_quotes_hide_its_end_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undersong.recipes.files.MOST_ROW", 100_000)
    (tmp_path / "data.csv").write_text("y\n1\n" + '"a\nb",' * 20_000 + "\n2\n")
    assert "a row of more than 100,000 characters" in refused(declared(tmp_path, [Y])).explain()


def test_long_rows_come_in_parts_of_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undersong.recipes.files.PART_CHARACTERS", 10_000)
    (tmp_path / "data.csv").write_text("y,t\n" + "".join(f"{row},{'x' * 3000}\n" for row in range(50)))
    entry = declared(tmp_path, [Y, {"name": "t", "type": "text"}])
    found = list(parts(entry, entry.path, ["y", "t"]))
    assert max(len(part.places) for part in found) == 4
    assert [place for part in found for place in part.places] == list(range(2, 52))
    assert load_dataset(entry, ["y"]).features[:, 0].tolist() == list(range(50))
