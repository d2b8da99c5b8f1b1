"""Rows to predict from, as a person has them: records by column's name, or columns, checked before a recipe reads them.

A cell that is not what its column holds is named by a JSON pointer, rows counted from 0: `/rows/3/age`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.files import listed as listed_names
from undersong.recipes.protocol import Tensors
from undersong.recipes.table import COLUMNS, columns_of
from undersong.recipes.values import SHOWN, CategoryCells, Cells, NumberCells
from undersong.shared.errors import FieldError, Invalid
from undersong.shared.names import MEANT, near
from undersong.shared.wire.columns import Column
from undersong.shared.wire.manifest import DataRef

_TABLE: Final = ("number", "category")
_NOTHING: Final = ("NAType", "NaTType")


class RowsInvalid(Invalid):
    """The rows do not have the model's columns, or a cell does not fit its column."""


def inputs_of(tensors: Tensors, data: DataRef) -> tuple[Column, ...]:
    """Return the columns that a model reads: those its file names, else the features of its round's manifest."""
    if COLUMNS in tensors:
        return columns_of(tensors)
    named = {column.name: column for column in data.columns}
    return tuple(named.get(name, Column(name=name, type="text")) for name in data.features)


def columns_of_records(records: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> dict[str, Sequence[Any]]:
    """Return the model's columns of records; what a record leaves out is missing. Raises `RowsInvalid`."""
    for place, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise _invalid([FieldError(f"/rows/{place}", f"it is {type(record).__name__}: give a value by column")])
    found = dict.fromkeys(str(name) for record in records for name in record)
    wanted = found if records else dict.fromkeys(column.name for column in columns)
    check_names(list(wanted), columns)
    return {column.name: [plain(record.get(column.name)) for record in records] for column in columns}


def check_names(found: Sequence[str], columns: Sequence[Column]) -> None:
    """Raise `RowsInvalid` where a column of the model is not among those found. More than the model's may be there."""
    known = {column.name for column in columns}
    beside = [name for name in found if name not in known]
    faults = [
        FieldError(f"/rows/*/{escaped(column.name)}", f"the column is missing{_meant(column.name, beside)}")
        for column in columns
        if column.name not in found
    ]
    if faults:
        raise _invalid(faults)


def columns_twice(found: Sequence[str], columns: Sequence[Column]) -> None:
    """Raise `RowsInvalid` where one of the model's columns is there more than once."""
    twice = [column.name for column in columns if found.count(column.name) > 1]
    if twice:
        raise _invalid([FieldError(f"/rows/*/{escaped(name)}", "the column is there more than once") for name in twice])


def check_cells(values: Mapping[str, Sequence[Any]], columns: Sequence[Column], first: int = 0) -> None:
    """Raise `RowsInvalid` with the first cell of each column that does not fit it; `first` numbers the first row."""
    faults = [fault for column in columns if (fault := _fault(column, values[column.name], first)) is not None]
    if faults:
        raise _invalid(faults)


def _meant(name: str, beside: Sequence[str]) -> str:
    close = near(name, beside)
    return f"; {MEANT}{' or '.join(close)}?" if close else ""


def escaped(name: str) -> str:
    """Return a name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def plain(value: Any) -> Any:
    """Return a cell as Python has it: numpy's scalars as numbers, what pandas has for nothing as None."""
    if isinstance(value, np.generic):
        return value.item()
    return None if type(value).__name__ in _NOTHING else value


def _fault(column: Column, values: Sequence[Any], first: int) -> FieldError | None:
    if column.type not in _TABLE:
        return None
    listed = column.type == "category"
    cells: Cells = CategoryCells(column.name, column.categories or ()) if listed else NumberCells(column.name)
    _, misfit = cells.typed(values if isinstance(values, np.ndarray) else _objects(values))
    if misfit is None:
        return None
    shown = misfit.cell if len(misfit.cell) <= SHOWN else misfit.cell[:SHOWN] + "…"
    help_ = f": {listed_names(column.categories or ())}" if listed else ""
    return FieldError(f"/rows/{first + misfit.place}/{escaped(column.name)}", f"{shown!r} {misfit.why.public}{help_}")


def _objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    """Return cells as an array of objects of one dimension, whatever they are."""
    made = np.empty(len(values), object)
    for place, value in enumerate(values):
        made[place] = value
    return made


def _invalid(faults: list[FieldError]) -> RowsInvalid:
    many = len(faults) > 1
    return RowsInvalid(f"{len(faults)} column{'s' * many} of the rows cannot be used", errors=faults)
