"""The rows of the data sets that a site declares in ``datasets.yaml`` (see `undersong.recipes.declaration` and
docs/data.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes import declaration
from undersong.recipes.declaration import BadDataset, ColumnEntry, DatasetEntry, read_declarations
from undersong.recipes.files import FilePart
from undersong.recipes.options import SeriesOptions, SplitOptions
from undersong.recipes.protocol import Array, Dataset
from undersong.recipes.reading import Loader, parts
from undersong.recipes.splits import PARTS, SplitRows, Splitter
from undersong.recipes.values import (
    CategoryCells,
    Cells,
    NumberCells,
    TextCells,
    cell_of,
    cells_of,
    images_of,
    numbers_of,
)
from undersong.recipes.windows import Windows, cut_windows
from undersong.shared.names import hint
from undersong.shared.wire.columns import Numbers
from undersong.shared.wire.manifest import Fold
from undersong.shared.wire.profiles import Column, DatasetSchema

__all__ = [
    "SOURCES",
    "BadDataset",
    "DatasetEntry",
    "describe_dataset",
    "images_of",
    "load_dataset",
    "movable_document",
    "numbers_of",
    "read_datasets",
    "read_declarations",
    "window_groups",
]

SOURCES: Final = (
    "checks.py", "datasets.py", "declaration.py", "entry.py", "files.py", "hints.py", "options.py", "pictures.py",
    "reading.py", "records.py", "splits.py", "values.py", "windows.py",
)  # fmt: skip
"""The files whose code decides what a recipe gets to see: part of each recipe's digest."""


def read_datasets(path: Path) -> dict[str, DatasetEntry]:
    """Return the entries of a ``datasets.yaml`` by name; raises `BadDataset` with every fault of all of them."""
    found = read_declarations(path)
    if found.faults:
        faults = [fault for each in found.faults.values() for fault in each]
        raise BadDataset(f"{path.name}: " + "; ".join(f"{f.path} {f.message}" for f in faults), errors=faults)
    return found.entries


def movable_document(path: Path) -> dict[str, Any]:
    """Return a ``datasets.yaml`` as a document with absolute paths, to be written elsewhere; raises `BadDataset`."""
    return declaration.movable_document(read_datasets(path))


def load_dataset(
    entry: DatasetEntry,
    features: Sequence[str] = (),
    label: str | None = None,
    *,
    mock: bool = False,
    labelled: bool = True,
    fold: Fold | None = None,
    load: Loader | None = None,
) -> Dataset:
    """Return the rows for one job: `features` in this order (all but the label when empty); raises `BadDataset`.

    Without `labelled` the label is a column like another, and rows where it is missing stay. With `fold` its rows are
    those for validation. load: what reads a data set of kind own.
    """
    label = (label or entry.target) if labelled else None
    with named(entry):
        columns = _chosen(entry, features, label)
        if entry.series is not None:
            return _windows(entry, entry.series, columns, label, fold=fold, mock=mock)
        if entry.kind == "none":
            split = Splitter(entry).rows(np.arange(0))
            return _dataset(entry, columns, np.zeros((0, len(columns))), np.zeros(0), label, {}, split)
        wanted = [*columns, *(c for c in entry.columns if c.name == label)]
        table = _table(entry, wanted, mock=mock, load=load)
        labels = table.cells[label] if label else np.zeros(table.count)
        known = np.flatnonzero(np.isfinite(labels))
        made = _features(table.cells, columns, known)
        return _dataset(entry, columns, made, labels[known], label, table.types, table.splitter.rows(known, fold))


def describe_dataset(entry: DatasetEntry) -> DatasetSchema:
    """Return what may leave the site, after every declared column was read once; raises `BadDataset`.

    `rows` are those of a job that uses the declared label.
    """
    if entry.kind == "none":
        return entry.schema_document(0)
    if entry.kind == "own":  # only a recipe can read it
        return entry.schema_document()
    with named(entry):
        if entry.series is not None:
            return _described_windows(entry, entry.series)
        table = _table(entry, entry.columns, texts=False)
        known = np.isfinite(table.cells[entry.label]).sum() if entry.label else table.count
        schema = entry.schema_document(int(known))
        told = tuple(_told(column, table.cells, table.types) for column in schema.columns)
        return schema.model_copy(update={"columns": told})


def _described_windows(entry: DatasetEntry, series: SeriesOptions) -> DatasetSchema:
    values, windows, _ = _series(entry, series)
    kinds = {column.name: _kind_of(values[:, place]) for place, column in enumerate(entry.columns)}
    schema = entry.schema_document(int(windows.usable.size))
    told = (c.model_copy(update={"numbers": kinds[c.name.rpartition("@")[0]]}) for c in schema.columns)
    return schema.model_copy(update={"columns": tuple(told)})


def _series(
    entry: DatasetEntry, series: SeriesOptions, fold: Fold | None = None, *, mock: bool = False
) -> tuple[npt.NDArray[np.float64], Windows, tuple[str, ...]]:
    """Return the values of a series, float64[rows, columns], all its windows, and the texts of its group column."""
    extra = [ColumnEntry(name=series.time, type="number")]
    extra += [ColumnEntry(name=series.group, type="text")] if series.group else []
    if mock:
        entry = entry.model_copy(update={"path": entry.mock, "split": SplitOptions()})
    table = _table(entry, [*entry.columns, *extra])
    groups, codes = table.files, dict[str, int]()
    if series.group:
        codes = {text: place for place, text in enumerate(dict.fromkeys(table.cells[series.group].tolist()))}
        groups = groups * len(codes) + np.array([codes[text] for text in table.cells[series.group].tolist()], np.int64)
    values = np.stack([table.cells[column.name] for column in entry.columns], axis=1)
    parts_of = table.splitter.codes(np.arange(table.count), fold)
    return values, cut_windows(entry, series, values, table.cells[series.time], groups, parts_of), tuple(codes)


def window_groups(entry: DatasetEntry) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the group of each row that `load_dataset` has of a series, int64[n], and the groups' texts; raises
    `BadDataset`.
    """
    with named(entry):
        if entry.series is None or entry.series.group is None:
            raise BadDataset("is no series with a group column")
        _, windows, texts = _series(entry, entry.series)
    return windows.groups % len(texts), texts


def _windows(
    entry: DatasetEntry,
    series: SeriesOptions,
    columns: Sequence[ColumnEntry],
    label: str | None,
    *,
    fold: Fold | None,
    mock: bool,
) -> Dataset:
    """Return the windows of a series: all of them, with the indices of those that can be used."""
    if fold is not None and (entry.split.by, entry.split.column) != ("hash", series.group):
        raise BadDataset("has folds only where it is divided by hash of its group column: windows overlap")
    if label not in (None, series.label):
        raise BadDataset(f"is a series, whose label is {series.label}")
    _, windows, _ = _series(entry, series, fold, mock=mock)
    places = {column.name: place for place, column in enumerate(entry.offered)}
    features = windows.features([places[column.name] for column in columns])
    train, validation, test = (windows.usable[windows.codes[windows.usable] == code] for code in range(len(PARTS)))
    label_values = windows.label if label else np.zeros(len(features))
    return _dataset(entry, columns, features, label_values, label, {}, SplitRows(train, validation, test))


def _told(column: Column, table: Mapping[str, Array], types: Mapping[str, str]) -> Column:
    """Return a column with what its rows add to its declaration: an image's shape and type, the kind of its numbers."""
    if column.type == "number":
        return column.model_copy(update={"numbers": _kind_of(table[column.name])})
    if column.type != "image":
        return column
    shape = tuple(table[column.name].shape[1:])
    if column.channels is not None and len(column.channels) != shape[0]:
        raise BadDataset(f"column {column.name} names {len(column.channels)} channels, and its images have {shape[0]}")
    return column.model_copy(update={"shape": shape, "dtype": types[column.name]})


MOST_CLASS: Final = 999
"""The largest number that can be the place of a class, as for the number of classes of a recipe."""


def _kind_of(values: Array) -> Numbers | None:
    """Return which numbers a column holds; None where none is known."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    if np.isin(known, (0.0, 1.0)).all():
        return "binary"
    return "whole" if known.min() >= 0 and known.max() <= MOST_CLASS and (known == np.rint(known)).all() else "real"


@contextmanager
def named(entry: DatasetEntry) -> Iterator[None]:
    """Begin what `BadDataset` says with the name of the data set."""
    try:
        yield
    except BadDataset as refusal:
        raise BadDataset(f"data set {entry.name}: {refusal.detail}", *refusal.evidence) from refusal.__cause__


def _dataset(
    entry: DatasetEntry,
    columns: Sequence[ColumnEntry],
    features: Array,
    labels: npt.NDArray[np.float64],
    label: str | None,
    types: Mapping[str, str],
    split: SplitRows,
) -> Dataset:
    told = tuple(entry.wire(c).model_copy(update={"dtype": types.get(c.name)}) for c in columns)
    return Dataset(entry.name, told, features, labels, split.train, split.test, label, split.validation)


def _chosen(entry: DatasetEntry, features: Sequence[str], label: str | None) -> tuple[ColumnEntry, ...]:
    by_name = {column.name: column for column in entry.offered}
    names = list(features) or [name for name in by_name if name != label]
    if missing := [name for name in [*names, *([label] if label else [])] if name not in by_name]:
        raise BadDataset(f"has no column {', '.join(missing)}{hint(missing[0], by_name)}")
    if label in names:
        raise BadDataset(f"{label} is the label and cannot be a feature too")
    if label is not None and by_name[label].type not in ("number", "category"):
        raise BadDataset(f"the label {label} is a {by_name[label].type} column; labels are numbers or categories")
    return tuple(by_name[name] for name in names)


@dataclass(frozen=True, slots=True)
class _Table:
    """The columns by name for the rows that pass the filter, how many rows these are, images' types, the split, and the
    number of the file that each row is from.
    """

    cells: dict[str, Array]
    count: int
    types: dict[str, str]
    splitter: Splitter
    files: npt.NDArray[np.int64]


def _table(
    entry: DatasetEntry,
    columns: Sequence[ColumnEntry],
    *,
    mock: bool = False,
    texts: bool = True,
    load: Loader | None = None,
) -> _Table:
    """Return these columns of a data set's rows, without `texts` those of other types; a mock twin is split by hash."""
    if mock:
        entry = entry.model_copy(update={"path": entry.mock, "split": SplitOptions()})
    chosen = {column.name: column for column in columns}
    readers = {name: cells_of(entry, c) for name, c in chosen.items() if c.type in ("number", "category")}
    filters = [_Filter(entry, name, wanted) for name, wanted in entry.filter.items()]
    splitter, wanted = Splitter(entry), list(dict.fromkeys([*chosen, *entry.read]))
    pieces: dict[str, list[Array]] = {n: [] for n, c in chosen.items() if texts or c.type != "text"}
    count, types, sizes = 0, dict[str, str](), list[int]()
    for of, path in entry.files().items() or [("train", None)]:
        sizes.append(0)
        for part in _parts(entry, of, path, wanted, load):
            rows = _passing(part, filters)
            count += rows.size
            sizes[-1] += rows.size
            splitter.take(part, rows, of)
            made = _converted(part, rows, readers)
            for name, column in chosen.items():
                if column.type == "image":
                    made[name] = _images(entry, name, part, rows)
                    types[name] = str(np.asarray(part.cells[name]).dtype)
                elif column.type == "text" and texts:
                    made[name] = _texts(part.cells[name], rows)
            for name, values in made.items():
                pieces[name].append(values)
    if not count:
        raise BadDataset("holds no rows" if not filters else "no row passes its filter", *(f.seen() for f in filters))
    splitter.finish()
    cells = {name: np.concatenate(values) for name, values in pieces.items()}
    return _Table(cells, count, types, splitter, np.repeat(np.arange(len(sizes)), sizes))


def _parts(
    entry: DatasetEntry, of: str, path: Path | None, wanted: Sequence[str], load: Loader | None
) -> Iterator[FilePart]:
    """Yield the rows of one file; what is said of a second file names it."""
    try:
        yield from parts(entry, path, wanted, load)
    except BadDataset as refusal:
        if path == entry.path:
            raise
        raise BadDataset(f"{refusal.detail} (the file of its {of} rows)", *refusal.evidence) from refusal.__cause__


def _texts(cells: Any, rows: npt.NDArray[np.int64]) -> Array:
    """Return texts as they are, an object array [n]."""
    made = np.empty(rows.size, object)
    made[:] = (
        [cell_of(value) for value in cells[rows].tolist()]
        if isinstance(cells, np.ndarray)
        else [cells[row] for row in rows.tolist()]
    )
    return made


def _converted(part: FilePart, rows: npt.NDArray[np.int64], readers: Mapping[str, Cells]) -> dict[str, Array]:
    """Return the number and category columns of a part's rows; raises `BadDataset` with the first misfit of each."""
    made: dict[str, Array] = {}
    faults: list[str] = []
    evidence: list[str] = []
    for name, reader in readers.items():
        values, misfit = reader.of_rows(part.cells[name], rows)
        made[name] = values
        if misfit is not None:
            faults.append(f"column {name} holds a value that {misfit.why.public}")
            evidence.append(misfit.told(name, part.where(int(rows[misfit.place]))))
    if faults:
        raise BadDataset("; ".join(faults), *evidence)
    return made


class _Filter:
    """One line of an entry's `filter`: which rows have the wanted value, as their column is declared."""

    def __init__(self, entry: DatasetEntry, name: str, wanted: str) -> None:
        column = entry.column(name)
        self.name, self._wanted = name, 1.0
        self._cells: Cells = TextCells(name, wanted, entry.values.get(name))
        self._text = wanted
        if column is not None:
            self._cells, plain = cells_of(entry, column), NumberCells(name, date=entry.dates.get(name))
            said = CategoryCells(name, column.categories) if column.categories else plain
            found, misfit = said.texts([wanted])
            if misfit is not None:
                raise BadDataset(f"its filter wants a value that {misfit.why.public}", misfit.told(name, "filter"))
            self._wanted = float(found[0])

    def passing(self, part: FilePart) -> npt.NDArray[np.bool_]:
        """Return which rows of a part pass, bool[n]."""
        cells = part.cells[self.name]
        found, misfit = self._cells.typed(cells) if isinstance(cells, np.ndarray) else self._cells.texts(cells)
        if misfit is not None:
            told = misfit.told(self.name, part.where(misfit.place))
            raise BadDataset(f"column {self.name} holds a value that {misfit.why.public}", told)
        passes: npt.NDArray[np.bool_] = found == self._wanted
        return passes

    def seen(self) -> str:
        """Say what was looked for, and what the column holds, as far as it was counted."""
        seen = getattr(self._cells, "seen", {})
        held = sorted(seen, key=lambda text: -seen[text])[:5]
        return f"column {self.name} is never {self._text!r}" + (f"; it holds {', '.join(held)}" if held else "")


def _passing(part: FilePart, filters: Sequence[_Filter]) -> npt.NDArray[np.int64]:
    keep = np.ones(len(part.places), bool)
    for each in filters:
        keep &= each.passing(part)
    return np.flatnonzero(keep)


def _images(entry: DatasetEntry, name: str, part: FilePart, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    try:
        return images_of(np.asarray(part.cells[name])[rows], entry.ranges.get(name, (None, None)), entry.channel_axis)
    except BadDataset as refusal:
        raise BadDataset(f"column {name}: {refusal.detail}", *refusal.evidence) from None


def _features(table: Mapping[str, Array], columns: Sequence[ColumnEntry], rows: npt.NDArray[np.int64]) -> Array:
    if len(columns) == 1 and columns[0].type in ("image", "text"):
        made: Array = table[columns[0].name][rows]
        return made
    if odd := [column.name for column in columns if column.type not in ("number", "category")]:
        raise BadDataset(f"columns {', '.join(odd)} cannot stand beside others in a table")
    return np.stack([table[c.name][rows] for c in columns], axis=1) if columns else np.zeros((rows.size, 0))
