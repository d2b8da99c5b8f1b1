"""A twin of a data set without real rows: made of its declaration alone, each column drawn independently.

No row is read, so the twin tells of them no more than the declaration does; of a file with images, only its head, which
has their shape and type. A description says what is drawn: one follows from the declaration (types, categories,
ranges), and its owner may change it by hand.
"""

import csv
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from undersong.recipes.entry import BadDataset, DatasetEntry
from undersong.recipes.options import Name
from undersong.shared.documents import document_faults
from undersong.shared.names import hint
from undersong.shared.wire.columns import Column
from undersong.shared.yaml_texts import dump_document

ROWS: Final = 500
MOST_ROWS: Final = 10**6
ROWS_FILE: Final = "rows.csv"
ARRAYS_FILE: Final = "rows.npz"
MOST_BYTES: Final = 2**30
PIXELS: Final[Mapping[str, int]] = {"uint8": 255, "uint16": 65_535, "float32": 1}
"""What full white is in each type of pixels, where nothing else is declared."""
_SIDE: Final = 28
DECLARATIONS_FILE: Final = "datasets.yaml"
_DIGITS: Final = 6
_MOST_CODE: Final = 9  # where whole numbers are told to be small and no range is known


Side = Annotated[int, Field(ge=1, le=2**14)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MockColumn(_Form):
    """What is drawn for a column: one of `categories`, else a number from `low` to `high`, or nothing.

    `weights` say how likely each category is, or each of as many equal parts of the range; a whole number each where
    there are as many. `missing` is the share of empty cells. With `shape`, [channels, height, width], each pixel of an
    image is drawn from `low` to `high` and stored as `dtype`; `channels` are their names.
    """

    categories: tuple[str, ...] | None = Field(default=None, min_length=1)
    low: float = 0.0
    high: float = 1.0
    whole: bool = False
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(default=None, min_length=1, max_length=10_000)
    missing: float = Field(default=0.0, ge=0, lt=1)
    shape: tuple[Side, Side, Side] | None = None
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    channels: tuple[Name, ...] | None = None

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.low > self.high:
            raise ValueError("low is above high")
        if self.whole and math.ceil(self.low) > math.floor(self.high):
            raise ValueError("there is no whole number from low to high")
        if self.weights is not None and not 0 < sum(self.weights) < math.inf:
            raise ValueError("weights add up to nothing that can be drawn from")
        if self.weights is not None and self.categories is not None and len(self.weights) != len(self.categories):
            raise ValueError("each category needs a weight")
        if self.shape is not None and self.channels is not None and len(self.channels) != self.shape[0]:
            raise ValueError("channels name as many as the image has")
        if self.shape is not None and self.dtype != "float32" and not 0 <= self.low <= self.high <= PIXELS[self.dtype]:
            raise ValueError(f"{self.dtype} holds pixels from 0 to {PIXELS[self.dtype]}")
        return self


class MockDescription(_Form):
    """A twin: its rows and columns, and which column models predict."""

    name: Name
    label: Name | None = None
    rows: int = Field(default=ROWS, ge=10, le=MOST_ROWS)
    columns: dict[Name, MockColumn] = Field(min_length=1)

    @model_validator(mode="after")
    def _label_is_a_column(self) -> Self:
        if self.label is not None and self.label not in self.columns:
            raise ValueError(f"the label {self.label} is not among the columns")
        pixels = sum(math.prod(column.shape) for column in self.columns.values() if column.shape is not None)
        if pixels * self.rows * 4 > MOST_BYTES:
            raise ValueError(
                f"images of {pixels} pixels leave room for {MOST_BYTES // (4 * pixels)} rows: ask for fewer"
            )
        return self


def read_description(document: object) -> MockDescription:
    """Return a description that was changed by hand; raises `BadDataset` with every fault."""
    try:
        return MockDescription.model_validate(document)
    except ValidationError as error:
        faults = document_faults(error, MockDescription)
        said = "; ".join(f"{fault.path} {fault.message}".strip() for fault in faults)
        raise BadDataset(f"the description cannot be used: {said}", errors=faults) from None


def describe_entry(entry: DatasetEntry, rows: int = ROWS) -> MockDescription:
    """Return what follows from a declaration; raises `BadDataset` for a series.

    Of a file with images, the head alone is read: their shape and type.
    """
    if entry.series is not None:
        raise BadDataset(f"data set {entry.name}: no twin is made of a series: write one by hand")
    columns = [entry.wire(column) for column in entry.columns]
    return describe(entry.name, [_with_form(entry, column) for column in columns], entry.label, entry.ranges, rows)


def describe(
    name: str,
    columns: Sequence[Column],
    label: str | None,
    ranges: Mapping[str, tuple[float | None, float | None]],
    rows: int = ROWS,
) -> MockDescription:
    """Return what follows from a schema; raises `BadDataset` where it has no column that a recipe could read.

    Numbers without a range are from 0 to 1; whole ones where the column is the label or its `numbers` say so.
    """
    made = {}
    for column in columns:
        if column.type == "category":
            made[column.name] = MockColumn(categories=column.categories)
        elif column.type == "image":
            made[column.name] = _image(column)
        elif column.type == "number":
            low, high = ranges.get(column.name, (None, None))
            low = (0.0 if high is None else min(0.0, high - 1)) if low is None else low
            span = _MOST_CODE if column.numbers == "whole" else 1
            whole = high is None and (column.name == label or column.numbers in ("binary", "whole"))
            made[column.name] = MockColumn(low=low, high=low + span if high is None else high, whole=whole)
    if not made:
        raise BadDataset(f"data set {name} has no columns that a twin could have")
    try:
        return MockDescription(name=name, label=label, rows=rows, columns=made)
    except ValidationError as error:
        raise BadDataset(f"data set {name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _image(column: Column) -> MockColumn:
    shape = column.shape or (len(column.channels or ("grey",)), _SIDE, _SIDE)
    dtype = column.dtype if column.dtype is not None and column.dtype in PIXELS else "float32"
    low, high = column.scale or (0.0, PIXELS[dtype])
    if dtype != "float32" and not 0 <= low <= high <= PIXELS[dtype]:
        dtype = "float32"
    return MockColumn.model_validate(
        {"low": low, "high": high, "shape": shape, "dtype": dtype, "channels": column.channels}
    )


def _with_form(entry: DatasetEntry, column: Column) -> Column:
    """Return an image's column with its shape and type, as its file's head has them; as declared without such a file.

    The head is that of the array (NPY format, version 1 to 3), before the first row.
    """
    if column.type != "image" or entry.path is None:
        return column
    try:
        with zipfile.ZipFile(entry.path) as arrays, arrays.open(f"{column.name}.npy") as file:
            read = {1: npy.read_array_header_1_0}.get(npy.read_magic(file)[0], npy.read_array_header_2_0)
            size, _, dtype = read(file)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return column
    if len(size) not in (3, 4):
        return column
    shape = (1, *size[1:]) if len(size) == 3 else (size[3], *size[1:3]) if entry.channel_axis == "last" else size[1:]
    return column.model_copy(update={"shape": shape, "dtype": str(dtype)})


def with_ranges(description: MockDescription, ranges: Mapping[str, tuple[float, float]]) -> MockDescription:
    """Return a description whose columns are drawn from these ranges; raises `BadDataset` for other columns."""
    columns = dict(description.columns)
    for name, (low, high) in ranges.items():
        found = columns.get(name)
        if found is None or found.categories is not None or found.shape is not None:
            numbers = [column for column, made in columns.items() if made.categories is None and made.shape is None]
            raise BadDataset(f"no column of numbers is called {name}{hint(name, numbers)}")
        if not -math.inf < low <= high < math.inf:
            raise BadDataset(f"column {name}: a range is the lowest value, then the highest")
        columns[name] = MockColumn(low=low, high=high, whole=found.whole, missing=found.missing)
    return description.model_copy(update={"columns": columns})


def description_document(description: MockDescription) -> dict[str, Any]:
    """Return a description as a document to change by hand: of each column what matters for it."""
    head = {"name": description.name, "label": description.label, "rows": description.rows}
    return {**head, "columns": {name: _column_document(column) for name, column in description.columns.items()}}


def _column_document(column: MockColumn) -> dict[str, Any]:
    made: dict[str, Any] = {"low": column.low, "high": column.high}
    if column.categories is not None:
        made = {"categories": list(column.categories)}
    elif column.shape is not None:
        channels = {} if column.channels is None else {"channels": list(column.channels)}
        return made | {"shape": list(column.shape), "dtype": column.dtype, **channels}
    else:
        made["whole"] = column.whole
    weights = {} if column.weights is None else {"weights": list(column.weights)}
    return made | weights | {"missing": column.missing}


def check_place(folder: Path) -> None:
    """Raise `BadDataset` unless a twin can be written there: into a new or empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadDataset(f"{folder} is not empty: name another folder, or remove it")


def write_mock(description: MockDescription, folder: Path, seed: int) -> Path:
    """Write rows and a ``datasets.yaml`` that declares them into a new or empty folder; return the latter.

    Raises `BadDataset` where the folder holds files.
    """
    check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    if any(column.shape is not None for column in description.columns.values()):
        rows = {name: _array(column, description.rows, random) for name, column in description.columns.items()}
        np.savez(folder / ARRAYS_FILE, allow_pickle=False, **rows)
    else:
        cells = [_drawn(column, description.rows, random) for column in description.columns.values()]
        with (folder / ROWS_FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(description.columns)
            writer.writerows(zip(*cells, strict=True))
    declared = folder / DECLARATIONS_FILE
    declared.write_text(dump_document({"datasets": [_entry(description)]}), encoding="utf-8")
    return declared


def sample(description: MockDescription, seed: int) -> list[tuple[str, ...]]:
    """Return the names of the columns, and drawn rows as texts; of columns without images."""
    random = np.random.default_rng(seed)
    cells = [_drawn(column, description.rows, random) for column in description.columns.values()]
    return [tuple(description.columns), *zip(*cells, strict=True)]


def _array(column: MockColumn, rows: int, random: np.random.Generator) -> npt.NDArray[Any]:
    """Return a column of an npz file: pixels, numbers with NaN for missing, or texts."""
    if column.shape is not None:
        size = (rows, *column.shape)
        if column.dtype == "float32":
            span, low = np.float32(column.high - column.low), np.float32(column.low)
            pixels: npt.NDArray[np.float32] = random.random(size, np.float32) * span + low
            return np.minimum(pixels, np.float32(column.high))
        ends = math.ceil(column.low), math.floor(column.high)
        whole: npt.NDArray[Any] = random.integers(*ends, size=size, endpoint=True).astype(column.dtype)
        return whole
    texts = _drawn(column, rows, random)
    return np.array(texts) if column.categories is not None else np.array([float(text or "nan") for text in texts])


def _drawn(column: MockColumn, rows: int, random: np.random.Generator) -> list[str]:
    if column.categories is not None:
        chosen = random.choice(len(column.categories), size=rows, p=_shares(column))
        texts = [str(column.categories[place]) for place in chosen]
    elif column.whole:
        texts = [str(value) for value in _whole(column, rows, random)]
    else:
        texts = [f"{value:.{_DIGITS}g}" for value in _real(column, rows, random)]
    return ["" if gone else text for text, gone in zip(texts, random.random(rows) < column.missing, strict=True)]


def _real(column: MockColumn, rows: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    if column.weights is None:
        return random.uniform(column.low, column.high, size=rows)
    parts = len(column.weights)
    places = random.choice(parts, size=rows, p=_shares(column)) + random.random(rows)
    return column.low + (column.high - column.low) * places / parts


def _whole(column: MockColumn, rows: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    low, high = math.ceil(column.low), math.floor(column.high)
    if column.weights is None:
        return random.integers(low, high, size=rows, endpoint=True)
    if len(column.weights) == high - low + 1:
        return low + random.choice(len(column.weights), size=rows, p=_shares(column))
    return np.clip(np.rint(_real(column, rows, random)), low, high).astype(np.int64)


def _shares(column: MockColumn) -> npt.NDArray[np.float64] | None:
    if column.weights is None:
        return None
    weights = np.array(column.weights)
    return np.asarray(weights / weights.sum(), np.float64)


def _entry(description: MockDescription) -> dict[str, Any]:
    columns = [_declared(name, column) for name, column in description.columns.items()]
    label = {} if description.label is None else {"label": description.label}
    images = {name: column for name, column in description.columns.items() if column.shape is not None}
    entry = {"name": description.name, "kind": "csv", "path": ROWS_FILE, **label, "columns": columns}
    if not images:
        return entry
    scales = {
        name: [column.low, column.high]
        for name, column in images.items()
        if (column.low, column.high) != (0, PIXELS[column.dtype]) and column.low < column.high
    }
    return entry | {"kind": "npz", "path": ARRAYS_FILE} | ({"ranges": scales} if scales else {})


def _declared(name: str, column: MockColumn) -> dict[str, Any]:
    if column.shape is not None:
        channels = {} if column.channels is None else {"channels": list(column.channels)}
        return {"name": name, "type": "image", **channels}
    if column.categories is None:
        return {"name": name, "type": "number"}
    return {"name": name, "type": "category", "categories": list(column.categories)}
