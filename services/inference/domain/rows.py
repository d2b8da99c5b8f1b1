"""Rows of a request against the columns of a model: every fault with its path, else columns of values.

Stricter than `undersong.recipes.rows`, which reads what a person has at hand: a row names every column and no other,
all faults are told, and none shows a cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.entry import BadDataset
from undersong.recipes.rows import RowsInvalid, escaped
from undersong.recipes.values import numbers_of
from undersong.shared.errors import FieldError, TooLarge
from undersong.shared.names import hint
from undersong.shared.wire.columns import Column

Row = Mapping[str, Any]
_TOLD: Final = 100
_SHOWN: Final = 20
_PLANE: Final = 2  # axes of an image with one channel


class TooManyRows(TooLarge):
    """The request has more rows than one may have."""


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Checked rows, as columns. `numbers`: float64[n] of number and category columns (positions), NaN where missing."""

    count: int
    columns: dict[str, list[Any]]
    numbers: dict[str, npt.NDArray[np.float64]]


def checked(columns: Sequence[Column], rows: Sequence[Row]) -> CheckedRows:
    """Return the rows as columns; raises RowsInvalid with the faults and their paths, and no value of a cell."""
    names = {column.name for column in columns}
    faults = [fault for place, row in enumerate(rows) for fault in _of_row(place, row, columns, names)]
    if faults:
        raise _invalid(faults)
    values = {column.name: [row[column.name] for row in rows] for column in columns}
    numbers: dict[str, npt.NDArray[np.float64]] = {}
    for column in columns:
        if column.type in ("number", "category"):
            try:
                numbers[column.name] = numbers_of(column, values[column.name])
            except BadDataset as error:
                found = [*_of_cells(column, values[column.name])]
                faults += found or [FieldError("/rows", str(error))]
    if faults:
        raise _invalid(faults)
    for column in columns:
        if column.type == "image":
            values[column.name] = [np.asarray(cell, np.float32) for cell in values[column.name]]
    return CheckedRows(len(rows), values, numbers)


def path_of(row: int, column: str | None = None) -> str:
    """Return the JSON pointer of a row or of one of its cells."""
    return f"/rows/{row}" if column is None else f"/rows/{row}/{escaped(column)}"


def _invalid(faults: list[FieldError]) -> RowsInvalid:
    more = f", of which the first {_TOLD} are listed" if len(faults) > _TOLD else ""
    return RowsInvalid(f"{len(faults)} field(s) do not fit the model's columns{more}", errors=faults[:_TOLD])


def _of_row(place: int, row: Row, columns: Sequence[Column], names: set[str]) -> Iterator[FieldError]:
    if not isinstance(row, Mapping):
        yield FieldError(path_of(place), "is no object: give a value for each column by its name")
        return
    for name in sorted(row.keys() - names)[:_SHOWN]:
        yield FieldError(path_of(place, name), f"the model has no such column{hint(name, names)}")
    for column in columns:
        if column.name not in row:
            yield FieldError(path_of(place, column.name), "is missing: send null where the value is not known")
        elif (fault := _form(column, row[column.name])) is not None:
            yield FieldError(path_of(place, column.name), fault)


def _form(column: Column, cell: object) -> str | None:
    """Return what is wrong with the JSON type of a cell."""
    if column.type == "image":
        return _image(column, cell)
    if column.type == "text":
        return None if isinstance(cell, str) else "is no text"
    if isinstance(cell, list | dict):
        return f"is no {column.type}"
    if isinstance(cell, bool) and column.type == "number":
        return "is no number: send 1 or 0"
    return None


def _image(column: Column, cell: object) -> str | None:
    wanted = column.shape
    said = "images of " + ("x".join(map(str, wanted)) if wanted else "channels, height and width")
    try:
        made = np.asarray(cell, np.float32)
    except (ValueError, TypeError, OverflowError):
        return f"is no image: send nested lists of numbers, {said}"
    shape = (1, *made.shape) if made.ndim == _PLANE else made.shape
    if len(shape) != _PLANE + 1 or (wanted is not None and shape != tuple(wanted)):
        return f"has shape {list(made.shape)}: send {said}"
    if not (np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1):
        return "has pixels outside 0 to 1: scale them as the sites do, from the lowest to the highest possible value"
    return None


def _of_cells(column: Column, cells: Sequence[Any]) -> Iterator[FieldError]:
    """Yield the cells of one column that the recipe's reading refuses."""
    known: dict[tuple[type, Any], str | None] = {}
    for place, cell in enumerate(cells):
        key = (type(cell), cell)
        if key not in known:
            known[key] = _misfit(column, cell)
        if (fault := known[key]) is not None:
            yield FieldError(path_of(place, column.name), fault)


def _misfit(column: Column, cell: object) -> str | None:
    try:
        numbers_of(column, [cell])
    except BadDataset as error:
        if column.type == "category":
            listed = ", ".join(repr(text) for text in (column.categories or ())[:_SHOWN])
            return f"is none of the categories {listed}" + ("…" if len(column.categories or ()) > _SHOWN else "")
        return str(error).removeprefix(f"column {column.name} holds a value that ")
    return None
