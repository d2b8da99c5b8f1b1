"""A twin of a data set without real rows: made of its declaration alone, each column drawn independently.

No file with rows is opened, so the twin tells of them no more than the declaration does. A description says what is
drawn: one follows from the declaration (types, categories, ranges), and its owner may change it by hand.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from undersong.recipes.declaration import BadDataset, DatasetEntry
from undersong.recipes.options import Name
from undersong.shared.documents import document_faults
from undersong.shared.names import hint
from undersong.shared.wire.columns import Column
from undersong.shared.yaml_texts import dump_document

ROWS: Final = 500
MOST_ROWS: Final = 10**6
ROWS_FILE: Final = "rows.csv"
DECLARATIONS_FILE: Final = "datasets.yaml"
_DIGITS: Final = 6
_MOST_CODE: Final = 9  # where whole numbers are told to be small and no range is known


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MockColumn(_Form):
    """What is drawn for a column: one of `categories`, else a number from `low` to `high`, or nothing.

    `missing` is the share of empty cells.
    """

    categories: tuple[str, ...] | None = Field(default=None, min_length=1)
    low: float = 0.0
    high: float = 1.0
    whole: bool = False
    missing: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.low > self.high:
            raise ValueError("low is above high")
        if self.whole and math.ceil(self.low) > math.floor(self.high):
            raise ValueError("there is no whole number from low to high")
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
    """Return what follows from a declaration; raises `BadDataset` for one with images."""
    return describe(entry.name, [entry.wire(column) for column in entry.columns], entry.label, entry.ranges, rows)


def describe(
    name: str,
    columns: Sequence[Column],
    label: str | None,
    ranges: Mapping[str, tuple[float | None, float | None]],
    rows: int = ROWS,
) -> MockDescription:
    """Return what follows from a schema.

    Numbers without a range are from 0 to 1; whole ones where the column is the label or its `numbers` say so.
    """
    if images := [column.name for column in columns if column.type == "image"]:
        raise BadDataset(f"data set {name}: no twin is made of images ({', '.join(images)}): write one by hand")
    made = {}
    for column in columns:
        if column.type == "category":
            made[column.name] = MockColumn(categories=column.categories)
        elif column.type == "number":
            low, high = ranges.get(column.name, (None, None))
            low = (0.0 if high is None else min(0.0, high - 1)) if low is None else low
            span = _MOST_CODE if column.numbers == "whole" else 1
            whole = high is None and (column.name == label or column.numbers in ("binary", "whole"))
            made[column.name] = MockColumn(low=low, high=low + span if high is None else high, whole=whole)
    return MockDescription(name=name, label=label, rows=rows, columns=made)


def with_ranges(description: MockDescription, ranges: Mapping[str, tuple[float, float]]) -> MockDescription:
    """Return a description whose columns are drawn from these ranges; raises `BadDataset` for other columns."""
    columns = dict(description.columns)
    for name, (low, high) in ranges.items():
        found = columns.get(name)
        if found is None or found.categories is not None:
            numbers = [column for column, made in columns.items() if made.categories is None]
            raise BadDataset(f"no column of numbers is called {name}{hint(name, numbers)}")
        if not -math.inf < low <= high < math.inf:
            raise BadDataset(f"column {name}: a range is the lowest value, then the highest")
        columns[name] = MockColumn(low=low, high=high, whole=found.whole, missing=found.missing)
    return description.model_copy(update={"columns": columns})


def description_document(description: MockDescription) -> dict[str, Any]:
    """Return a description as a document to change by hand: of each column what matters for it."""
    columns = {
        name: {"categories": list(column.categories)}
        if column.categories is not None
        else {"low": column.low, "high": column.high, "whole": column.whole}
        for name, column in description.columns.items()
    }
    head = {"name": description.name, "label": description.label, "rows": description.rows}
    return {**head, "columns": {name: {**made, "missing": 0.0} for name, made in columns.items()}}


def write_mock(description: MockDescription, folder: Path, seed: int) -> Path:
    """Write rows and a ``datasets.yaml`` that declares them into a new or empty folder; return the latter.

    Raises `BadDataset` where the folder holds files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise BadDataset(f"{folder} is not empty: name another folder, or remove it")
    random = np.random.default_rng(seed)
    cells = [_drawn(column, description.rows, random) for column in description.columns.values()]
    with (folder / ROWS_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(description.columns)
        writer.writerows(zip(*cells, strict=True))
    declared = folder / DECLARATIONS_FILE
    declared.write_text(dump_document({"datasets": [_entry(description)]}), encoding="utf-8")
    return declared


def _drawn(column: MockColumn, rows: int, random: np.random.Generator) -> list[str]:
    if column.categories is not None:
        texts = [str(column.categories[place]) for place in random.integers(len(column.categories), size=rows)]
    elif column.whole:
        low, high = math.ceil(column.low), math.floor(column.high)
        texts = [str(value) for value in random.integers(low, high, size=rows, endpoint=True)]
    else:
        texts = [f"{value:.{_DIGITS}g}" for value in random.uniform(column.low, column.high, size=rows)]
    return ["" if gone else text for text, gone in zip(texts, random.random(rows) < column.missing, strict=True)]


def _entry(description: MockDescription) -> dict[str, Any]:
    columns = [
        {"name": name, "type": "number"}
        if column.categories is None
        else {"name": name, "type": "category", "categories": list(column.categories)}
        for name, column in description.columns.items()
    ]
    label = {} if description.label is None else {"label": description.label}
    return {"name": description.name, "kind": "csv", "path": ROWS_FILE, **label, "columns": columns}
