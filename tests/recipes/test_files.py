"""Files of every kind: cut, damaged, of another kind, or of types that are read as they are."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.effort import examples
from tests.recipes.declaring import Y, declared, refused
from undersong.recipes.datasets import BadDataset, describe_dataset, load_dataset


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "npz"])
@settings(max_examples=examples(60), deadline=None)
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
