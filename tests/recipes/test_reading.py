"""Files of data sets: what is written comes back, and what is odd is refused with its place."""

import csv
import gzip
import io
import math
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from recipes.datasets import BadDataset, Dataset, describe_dataset, load_dataset, read_datasets

LEVELS = ["None", "NA", "nan", "no", "yes", "null", "1", "1.5", "-", "a b", "x,y", "ü", 'say "hi"', "007"]
Y = {"name": "y", "type": "number"}


def declared(folder: Path, columns: list[dict[str, Any]], **entry: Any) -> Any:
    """The entry `d` of a datasets.yaml in the folder."""
    document = {"name": "d", "kind": "csv", "path": "data.csv", "columns": columns, "test_fraction": 0, **entry}
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [document]}))
    return read_datasets(folder / "datasets.yaml")["d"]


def refused(entry: Any) -> BadDataset:
    with pytest.raises(BadDataset) as caught:
        describe_dataset(entry)
    with pytest.raises(BadDataset) as again:
        load_dataset(entry)
    assert again.value.explain() == caught.value.explain(), "a job is told what the description is told"
    assert caught.value.detail.startswith("data set d: ")
    return caught.value


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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=30, deadline=None)
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


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "npz"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read(tmp_path_factory: Any, kind: str, data: st.DataObject) -> None:
    """Cut anywhere, some bytes changed, or foreign: a data set is read or refused by name, and nothing else happens."""
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / f"data.{kind}"
    good = written(path)
    how = data.draw(st.sampled_from(["cut", "changed", "foreign"]))
    if how == "cut":
        path.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    elif how == "changed":
        at, byte = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 255))
        path.write_bytes(good[:at] + bytes([byte]) + good[at + 1 :])
    else:
        path.write_bytes(data.draw(st.binary(max_size=200)))
    entry = declared(folder, [{"name": "x", "type": "number"}, Y], kind=kind.split(".")[0], path=path.name, label="y")
    try:
        load_dataset(entry)
    except BadDataset:
        refused(entry)


def written(path: Path, rows: int = 60) -> bytes:
    """A good file of two number columns, of the kind that its name says."""
    x, y = [float(row) for row in range(rows)], [row % 2 for row in range(rows)]
    text = "x,y\n" + "".join(f"{a},{b}\n" for a, b in zip(x, y, strict=True))
    if path.suffix == ".npz":
        np.savez_compressed(path, x=np.array(x), y=np.array(y))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.table({"x": x, "y": y}), path)
    else:
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path.read_bytes()


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


# ------------------------------------------------------------------ files of another kind, or no files


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _save(**arrays: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return write


def _table(**columns: Any) -> Callable[[Path], None]:
    return lambda path: parquet.write_table(pa.table(columns), path)


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


@pytest.mark.parametrize(
    ("kind", "write", "told"),
    [
        ("csv", lambda path: None, "does not exist"),
        ("csv", _directory, "is no file"),
        ("csv", _pipe, "is no file"),
        ("csv", _save(x=np.zeros(3), y=np.zeros(3)), "zip archive or a workbook"),
        ("csv", _table(x=[1.0], y=[1.0]), "declare kind: parquet"),
        ("csv", _bytes(gzip.compress(b"x,y\n" + b"1,0\n" * 5000)[:-9]), "cut or damaged"),
        ("csv", _bytes(b"\x1f\x8b\x08\x00 no gzip"), "cut or damaged"),
        ("npz", _array, "one array (.npy)"),
        ("npz", _bytes(b"PK\x03\x04 not finished"), "cut or damaged"),
        ("npz", _bytes(b""), "cut or damaged"),
        ("npz", _bytes(b"x,y\n1,0\n"), "cannot be read"),
        ("npz", _save(x=np.array([{}], object), y=np.zeros(1)), "pickle"),
        ("npz", _save(x=np.zeros((3, 2)), y=np.zeros(3)), "an array of 3x2"),
        ("npz", _save(x=np.zeros(3), y=np.zeros(2)), "different numbers of rows"),
        ("npz", _save(x=np.float64(3), y=np.float64(2)), "single value"),
        ("npz", _save(x=np.zeros(3, complex), y=np.zeros(3)), "complex"),
        ("npz", _save(x=np.zeros(3, "S3"), y=np.zeros(3)), "type |S3"),
        ("npz", _save(x=np.array([0.0, np.inf]), y=np.zeros(2)), "row 2, column x: 'inf' is an infinite number"),
        ("npz", _save(x=np.array(["1", "one"]), y=np.zeros(2)), "row 2, column x: 'one' is not a number"),
        ("npz", _save(z=np.zeros(3), y=np.zeros(3)), "the columns found are: z, y"),
        ("parquet", _bytes(b"PAR1....PAR1"), "cannot be read"),
        ("parquet", _bytes(b"x,y\n1,0\n"), "cannot be read"),
        ("parquet", _table(x=[[1.0]], y=[1]), "list<"),
        ("parquet", _table(x=[b"1"], y=[1]), "binary"),
        ("parquet", _table(x=["1", "a"], y=[1, 0]), "row 2, column x: 'a' is not a number"),
        ("parquet", _table(x=[1.0, float("inf")], y=[1, 0]), "row 2, column x"),
        ("parquet", _table(X=[1.0], y=[1]), "did you mean 'X'"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, kind: str, write: Callable[[Path], None], told: str) -> None:
    write(tmp_path / f"data.{kind}")
    entry = declared(tmp_path, [{"name": "x", "type": "number"}, Y], kind=kind, path=f"data.{kind}", label="y")
    assert told in refused(entry).explain()


def test_parquet_types(tmp_path: Path) -> None:
    """Whole numbers, decimals, truth values and dates are numbers; codes are levels."""
    import datetime
    import decimal

    table = pa.table({
        "i": pa.array([1, None], pa.int64()),
        "d": pa.array([decimal.Decimal("1.50"), None]),
        "b": pa.array([True, None]),
        "t": pa.array([datetime.date(1970, 1, 3), None]),
        "s": pa.array([datetime.datetime(1970, 1, 2, 12, tzinfo=datetime.UTC), None], pa.timestamp("ns", "UTC")),
        "c": pa.array([2.0, None]),
        "f": pa.array([True, False]),
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "data.parquet")
    columns: list[dict[str, Any]] = [{"name": name, "type": "number"} for name in "idbts"]
    columns += [{"name": "c", "type": "category", "categories": ["1", "2"]}]
    columns += [{"name": "f", "type": "category", "categories": ["false", "true"]}]
    features = load_dataset(declared(tmp_path, columns, kind="parquet", path="data.parquet")).features
    nan = math.nan
    assert np.array_equal(features, [[1, 1.5, 1, 2, 1.5, 1, 1], [nan, nan, nan, nan, nan, nan, 0]], equal_nan=True)


# ------------------------------------------------------------------ images


def images(folder: Path, pixels: Any, **entry: Any) -> Dataset:
    np.savez(folder / "data.npz", x=pixels, y=np.arange(len(pixels)) % 2)
    found = declared(folder, [{"name": "x", "type": "image"}, Y], kind="npz", path="data.npz", label="y", **entry)
    describe_dataset(found)
    return load_dataset(found)


def test_images_come_as_channels_first_in_0_to_1(tmp_path: Path) -> None:
    full = np.array([0, 255], np.uint8).repeat(12)
    assert images(tmp_path, full.reshape(2, 3, 4)).features.shape == (2, 1, 3, 4)
    last = images(tmp_path, full.reshape(2, 2, 2, 3), channel_axis="last").features
    assert (last.shape, last.min(), last.max()) == ((2, 3, 2, 2), 0, 1)
    assert images(tmp_path, np.full((2, 2, 2), 65535, np.uint16)).features.max() == 1
    assert images(tmp_path, np.full((2, 2, 2), 0.25)).features.max() == np.float32(0.25)
    scaled = images(tmp_path, np.array([-1.0, 1.0]).repeat(4).reshape(2, 2, 2), ranges={"x": [-1, 1]}).features
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert images(tmp_path, np.full((2, 2, 2), 16), ranges={"x": [0, 16]}).features.max() == 1


@pytest.mark.parametrize(
    ("pixels", "entry", "told"),
    [
        (np.zeros((2, 32, 32, 3), np.uint8), {}, "channel_axis: last"),
        (np.zeros((2, 4)), {}, "images must be"),
        (np.full((2, 2, 2), 16), {}, "need the range"),
        (np.full((2, 2, 2), 16.0), {}, "under ranges"),
        (np.full((2, 2, 2), 300, np.int32), {"ranges": {"x": [0, 255]}}, "reach from 300"),
        (np.full((2, 2, 2), np.nan), {}, "not finite"),
        (np.zeros((2, 2, 2), bool), {}, "type bool"),
        (np.zeros((2, 0, 2)), {}, "no pixels"),
    ],
)
def test_images_that_would_be_misread_are_refused(tmp_path: Path, pixels: Any, entry: Any, told: str) -> None:
    with pytest.raises(BadDataset) as caught:
        images(tmp_path, pixels, **entry)
    assert told in caught.value.explain()


# ------------------------------------------------------------------ very wide files, and what stands twice


def test_thirty_thousand_columns_are_read_and_told_in_few_words(tmp_path: Path) -> None:
    names = [f"g{place}" for place in range(30_000)]
    (tmp_path / "data.csv").write_text(",".join([*names, "y"]) + "\n" + "\n".join(["1," * 30_000 + "2"] * 80) + "\n")
    assert load_dataset(declared(tmp_path, [Y])).features[:, 0].tolist() == [2.0] * 80
    fault = refused(declared(tmp_path, [{"name": "g30001", "type": "number"}]))
    assert len(fault.explain()) < 2000


def test_an_array_that_stands_twice_in_an_archive_is_refused(tmp_path: Path) -> None:
    """numpy reads the last of two members of one name, and `x` for `x.npy`."""
    for twin in ("y.npy", "y"):
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, value in (("y.npy", 0.0), (twin, 1.0)):
                held = io.BytesIO()
                np.save(held, np.full(3, value))
                archive.writestr(name, held.getvalue())
        fault = refused(declared(tmp_path, [Y], kind="npz", path="data.npz"))
        assert fault.detail == "data set d: its file names an array twice"


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_any_damage_to_an_archive_is_one_refusal(tmp_path: Path, packing: int) -> None:
    held = io.BytesIO()
    np.save(held, np.arange(300.0))
    with zipfile.ZipFile(tmp_path / "data.npz", "w", packing) as archive:
        archive.writestr("y.npy", held.getvalue())
    entry = declared(tmp_path, [Y], kind="npz", path="data.npz")
    whole, refusals = (tmp_path / "data.npz").read_bytes(), 0
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        (tmp_path / "data.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            describe_dataset(entry)
        except BadDataset:
            refusals += 1
    assert refusals > 50


def test_an_array_larger_than_memory_and_a_name_too_long_are_refusals(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.save(held, np.zeros(3))
    huge = held.getvalue().replace(b"(3,), }" + b" " * 12, b"(9999999999999,), }")
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("y.npy", huge)
    assert "cannot be read" in refused(declared(tmp_path, [Y], kind="npz", path="data.npz")).detail
    assert "cannot be read" in refused(declared(tmp_path, [Y], path="a" * 5000)).detail


def test_a_cut_utf_16_file_is_not_told_to_be_utf_16(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes("y\n1\n".encode("utf-16")[:-1])
    assert "is cut or damaged" in refused(declared(tmp_path, [Y], csv={"encoding": "utf-16"})).detail
