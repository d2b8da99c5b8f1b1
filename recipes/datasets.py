"""Data sets as a site declares them in ``datasets.yaml``, and their rows.

    datasets:
      - name: heart                     # the name that jobs use
        kind: csv                       # csv (also .csv.gz), parquet, npz, none
        path: heart_disease.csv         # beside this file, or absolute
        label: target
        columns:
          - {name: age, type: number}
          - {name: cp, type: category, categories: ["1", "2", "3", "4"]}
        missing: {chol: [0]}            # values that stand for "not known"; empty cells always do
        filter: {site: cleveland}       # only these rows
        test_fraction: 0.2              # held out by a hash of split_seed and the row's place after the filter
        split_seed: 0
        mock: mock.csv                  # optional twin without real rows, for trying things out

Only names, types, categories and the number of rows leave a site.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recipes.protocol import Array, Dataset
from shared.errors import FieldError, Invalid
from shared.wire.profiles import Column, DatasetSchema


class BadDataset(Invalid):
    """A data set's declaration or its rows cannot be used."""


class DatasetEntry(BaseModel):
    """One entry of ``datasets.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    kind: Literal["csv", "parquet", "npz", "none"]
    path: Path | None = None
    label: str | None = None
    columns: tuple[Column, ...] = ()
    missing: dict[str, tuple[float | str, ...]] = Field(default_factory=dict)
    filter: dict[str, str | int | float | bool] = Field(default_factory=dict)
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    split_seed: int = 0
    mock: Path | None = None

    def schema_document(self, rows: int | None = None) -> DatasetSchema:
        """What may leave the site."""
        return DatasetSchema(name=self.name, kind=self.kind, columns=self.columns, label=self.label, rows=rows)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    datasets: tuple[DatasetEntry, ...] = ()


def read_datasets(path: Path) -> dict[str, DatasetEntry]:
    """The entries of a ``datasets.yaml`` by name, paths made absolute; raises `BadDataset` with every fault's path."""
    try:
        found = _File.model_validate(yaml.safe_load(path.read_text()) or {})
    except ValidationError as error:
        faults = [FieldError("/" + "/".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors()]
        raise BadDataset(f"{path.name}: " + "; ".join(f"{f.path} {f.message}" for f in faults), errors=faults) from None
    except yaml.YAMLError as error:
        raise BadDataset(f"{path.name} is not YAML: {error}") from None
    entries = {entry.name: _checked(entry, path.parent.resolve()) for entry in found.datasets}
    if len(entries) != len(found.datasets):
        raise BadDataset(f"{path.name} names a data set twice")
    return entries


def movable_document(path: Path) -> dict[str, Any]:
    """A ``datasets.yaml`` as a document with absolute paths, to be written elsewhere; raises `BadDataset`."""
    entries = read_datasets(path).values()
    return {"datasets": [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]}


def load_dataset(
    entry: DatasetEntry,
    features: Sequence[str] = (),
    label: str | None = None,
    *,
    mock: bool = False,
    labelled: bool = True,
) -> Dataset:
    """The rows for one job: `features` in this order (all but the label when empty); raises `BadDataset`.

    Without `labelled` the label is a column like another, and rows where it is missing stay.
    """
    label = (label or entry.label) if labelled else None
    columns = _chosen(entry, features, label)
    if entry.kind == "none":
        nothing = np.zeros((0, len(columns)))
        return Dataset(entry.name, columns, nothing, np.zeros(0), *_split(np.arange(0), entry.split_seed, 0), label)
    target = next((column for column in entry.columns if column.name == label), None)
    wanted = {c.name for c in columns} | {t.name for t in (target,) if t} | set(entry.filter)
    table = _read(entry, mock, wanted, {c.name for c in entry.columns if c.type == "category"})
    rows = _kept(table, entry)
    labels = _label(table, target, entry)[rows]
    known = np.flatnonzero(np.isfinite(labels))
    split = _split(known, entry.split_seed, entry.test_fraction)
    return Dataset(entry.name, columns, _features(table, columns, entry, rows[known]), labels[known], *split, label)


def numbers_of(column: Column, values: Any, missing: Sequence[float | str] = ()) -> npt.NDArray[np.float64]:
    """One column's values as float64[n]: numbers, or positions among the categories; NaN where missing."""
    plain = np.asarray(values, object)
    absent = np.array([_is_absent(value, missing) for value in plain.tolist()], bool)
    made = np.full(plain.shape, np.nan)
    present = plain[~absent]
    if column.type == "category":
        places = {text: float(place) for place, text in enumerate(column.categories or ())}
        texts = [_text(value) for value in present.tolist()]
        if unknown := sorted(set(texts) - set(places)):
            raise BadDataset(f"column {column.name} holds values outside its categories: {', '.join(unknown[:5])}")
        made[~absent] = [places[text] for text in texts]
        return made
    try:
        made[~absent] = present.astype(np.float64)
    except (ValueError, TypeError):
        raise BadDataset(f"column {column.name} holds values that are not numbers") from None
    if np.isinf(made).any():
        raise BadDataset(f"column {column.name} holds an infinite number")
    return made


def _checked(entry: DatasetEntry, folder: Path) -> DatasetEntry:
    if entry.kind != "none" and entry.path is None:
        raise BadDataset(f"data set {entry.name} names no path")
    names = [column.name for column in entry.columns]
    if len(set(names)) != len(names):
        raise BadDataset(f"data set {entry.name} names a column twice")
    for column in entry.columns:
        if column.type == "category" and not column.categories:
            raise BadDataset(f"column {column.name} of {entry.name} is a category and must list its categories")
    if entry.label is not None and entry.label not in names:
        raise BadDataset(f"the label {entry.label} of {entry.name} is not among its columns")
    paths = {field: folder / value for field in ("path", "mock") if (value := getattr(entry, field)) is not None}
    return entry.model_copy(update=paths)


def _chosen(entry: DatasetEntry, features: Sequence[str], label: str | None) -> tuple[Column, ...]:
    by_name = {column.name: column for column in entry.columns}
    names = list(features) or [name for name in by_name if name != label]
    if missing := [name for name in [*names, *([label] if label else [])] if name not in by_name]:
        raise BadDataset(f"data set {entry.name} has no column {', '.join(missing)}")
    if label in names:
        raise BadDataset(f"{label} is the label and cannot be a feature too")
    return tuple(by_name[name] for name in names)


def _read(entry: DatasetEntry, mock: bool, wanted: set[str], categories: set[str]) -> dict[str, Array]:
    path = entry.mock if mock else entry.path
    if path is None or not path.is_file():
        raise BadDataset(f"data set {entry.name}: there is no file {path}")
    if entry.kind == "npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                table = {name: file[name] for name in file.files if name in wanted}
        except ValueError as error:  # pickled objects among them
            raise BadDataset(f"the file of {entry.name} cannot be read: {error}") from None
    else:
        table = _read_table(path, entry.kind, categories)
    if absent := sorted(wanted - set(table)):
        raise BadDataset(f"the file of {entry.name} has no column {', '.join(absent)}")
    return table


def _read_table(path: Path, kind: str, categories: set[str]) -> dict[str, Array]:
    import pandas as pd

    as_text = dict.fromkeys(categories, "object")
    frame = pd.read_parquet(path) if kind == "parquet" else pd.read_csv(path, dtype=as_text)
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def _kept(table: Mapping[str, Array], entry: DatasetEntry) -> npt.NDArray[np.int64]:
    count = len(next(iter(table.values())))
    keep = np.ones(count, bool)
    for name, value in entry.filter.items():
        keep &= np.array([_text(found) == _text(value) for found in table[name].tolist()], bool)
    if not keep.any():
        raise BadDataset(f"no row of {entry.name} passes its filter")
    return np.flatnonzero(keep)


def _label(table: Mapping[str, Array], target: Column | None, entry: DatasetEntry) -> npt.NDArray[np.float64]:
    if target is None:
        return np.zeros(len(next(iter(table.values()))))
    return numbers_of(target, table[target.name], entry.missing.get(target.name, ()))


def _features(
    table: Mapping[str, Array], columns: tuple[Column, ...], entry: DatasetEntry, rows: npt.NDArray[np.int64]
) -> Array:
    if len(columns) == 1 and columns[0].type == "image":
        return images_of(table[columns[0].name][rows])
    if odd := [column.name for column in columns if column.type not in ("number", "category")]:
        raise BadDataset(f"columns {', '.join(odd)} cannot stand beside others in a table")
    made = [numbers_of(c, table[c.name][rows], entry.missing.get(c.name, ())) for c in columns]
    return np.stack(made, axis=1) if made else np.zeros((rows.size, 0))


def images_of(pixels: Array) -> npt.NDArray[np.float32]:
    """float32[n, c, h, w] in 0..1 from uint8 or float [n, h, w] or [n, c, h, w]; raises `BadDataset`."""
    if pixels.ndim not in (3, 4):
        raise BadDataset("images must be [rows, height, width] or [rows, channels, height, width]")
    shaped = pixels[:, None] if pixels.ndim == 3 else pixels
    made = shaped.astype(np.float32)
    if pixels.dtype.kind in "iu":
        made /= np.float32(255)
    if not np.isfinite(made).all():
        raise BadDataset("an image holds a number that is not finite")
    return made


def _split(
    places: npt.NDArray[np.int64], seed: int, fraction: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    held_out = np.array([_draw(seed, place) < fraction for place in places.tolist()], bool)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _draw(seed: int, place: int) -> float:
    digest = hashlib.sha256(f"undersong/split/1:{seed}:{place}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def _is_absent(value: Any, missing: Sequence[float | str]) -> bool:
    if value is None or (isinstance(value, float) and np.isnan(value)) or value == "":
        return True
    return bool(missing) and _text(value) in {_text(item) for item in missing}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
