"""Files of rows to predict from: CSV (packed by gzip or not), JSON lines, Parquet and npz, by the readers of data sets.

A file's kind follows from its name. The separator of a CSV file is the one by which its first line has the most of the
model's columns; numbers have a decimal point.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from undersong.recipes.entry import BadDataset, ColumnEntry, DatasetEntry
from undersong.recipes.files import Cells, CsvRows, column_names, opened, refusals
from undersong.recipes.hints import SEPARATORS
from undersong.recipes.options import CsvOptions
from undersong.recipes.reading import parts
from undersong.recipes.records import record_names
from undersong.recipes.rows import check_names, columns_twice
from undersong.shared.wire.columns import Column

KINDS: Final = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".parquet": "parquet", ".npz": "npz",
}  # fmt: skip


def read_rows(path: Path, columns: Sequence[Column], missing: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield parts of a file's rows as a model's columns; texts in `missing` stand for missing values.

    Raises `BadDataset` for a file that cannot be read, and `RowsInvalid` where it lacks a column of the model.
    """
    kind, options = kind_of(path), CsvOptions()
    if not path.is_file():
        raise BadDataset(f"there is no file {path}" if not path.exists() else f"{path} is no file")
    with refusals(path):
        if kind == "csv":
            options, names = _header(path, [column.name for column in columns])
        else:
            names = record_names(path) if kind == "jsonl" else column_names(path)
    check_names(names, columns)
    columns_twice(names, columns)
    declared = tuple(ColumnEntry.model_validate(_declaration(column)) for column in columns)
    entry = DatasetEntry.model_validate({"name": "rows", "kind": kind, "path": path, "csv": options})
    entry = entry.model_copy(update={"columns": declared})
    for part in parts(entry, path, [column.name for column in columns]):
        yield {name: _known(cells, missing) for name, cells in part.cells.items()}


def _known(cells: Cells, missing: Sequence[str]) -> Cells:
    if not missing or isinstance(cells, np.ndarray):
        return cells
    return ["" if cell.strip() in missing else cell for cell in cells]


def kind_of(path: Path) -> str:
    """Return a file's kind by its name; raises `BadDataset`."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    found = KINDS.get(suffixes[-1] if suffixes else "")
    if found is None:
        raise BadDataset(f"{path.name}: rows are read from {', '.join(KINDS)}: save them as one of these")
    return found


def _header(path: Path, wanted: Sequence[str]) -> tuple[CsvOptions, list[str]]:
    best: tuple[int, CsvOptions, list[str]] = (-1, CsvOptions(), [])
    for mark in SEPARATORS:
        options = CsvOptions(separator=mark)
        with opened(path, options) as file:
            names = [name.strip() for name in next(CsvRows(file, options), [])]
        found = len(set(wanted) & set(names))
        if found > best[0]:
            best = (found, options, names)
    return best[1], best[2]


def _declaration(column: Column) -> dict[str, Any]:
    listed = {"categories": column.categories} if column.categories else {}
    return {"name": column.name, "type": column.type, **listed}
