"""An entry of ``datasets.yaml``: what a site declares of one data set, and the refusal of one that cannot be used."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from undersong.recipes.options import (
    CsvOptions,
    ImageOptions,
    Limit,
    Name,
    OptionsForm,
    SeriesOptions,
    SplitOptions,
    SqlOptions,
    Text,
    Texts,
    maybe,
    moment_of,
)
from undersong.shared.errors import FieldError, Invalid
from undersong.shared.wire.profiles import Column, DatasetSchema

ANY_COLUMN: Final = "*"
NUMBER: Final = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+")


class BadDataset(Invalid):
    """A data set's declaration or its rows cannot be used.

    The text names columns and what is allowed, never a value of the rows: it may be reported to the platform. Lines and
    values are in `evidence`, which Python adds to the traceback (PEP 678) and so to the site's own log.
    """

    def __init__(self, detail: str, *evidence: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail, errors=errors)
        self.evidence = evidence
        for line in evidence:
            self.add_note(line)

    def explain(self) -> str:
        """Return the text with its evidence, for the owner of the data alone."""
        return ": ".join([self.detail, *(["; ".join(self.evidence)] if self.evidence else [])])


class ColumnEntry(OptionsForm):
    """One column of an entry; `categories` are a category column's levels in their fixed order."""

    name: Name = Field(description="The column's name in the file")
    type: Literal["number", "category", "image", "text"] = Field(
        description="What the column holds; images need `kind: npz` or `images`, and built-in recipes use no texts"
    )
    categories: tuple[Text, ...] | None = Field(default=None, description="A category column's categories, in order")
    channels: tuple[Name, ...] | None = Field(default=None, description="Names of an image's channels, in order")


class DatasetEntry(OptionsForm):
    """One entry of ``datasets.yaml``."""

    name: Name = Field(description="The name by which jobs ask for the data set")
    kind: Literal["csv", "jsonl", "lines", "parquet", "npz", "images", "sql", "own", "none"] = Field(
        description="Form of the file; csv, `jsonl` (a JSON object in each line) and `lines` (of plain text) may be "
        "packed by gzip; `images`: a CSV file that names an image's file in each row; `sql`: "
        "rows of a query; `own`: a file or folder that a recipe of one's own reads by its `load`; `none`: no rows, for "
        "recipes that need none"
    )
    path: Annotated[Path | None, BeforeValidator(maybe)] = Field(
        default=None, description="The file, absolute or relative to the folder of datasets.yaml"
    )
    label: Annotated[Name | None, BeforeValidator(maybe)] = Field(
        default=None, description="The column that models predict, unless a job names another"
    )
    columns: tuple[ColumnEntry, ...] = Field(
        default=(), description="The columns that jobs may use; the file may have more"
    )
    sql: SqlOptions | None = Field(default=None, description="The query of a data set of kind sql")
    images: ImageOptions | None = Field(default=None, description="The images of a data set of kind images")
    csv: CsvOptions = Field(default=CsvOptions(), description="How a CSV file is written")
    missing: dict[Text, Texts] = Field(
        default_factory=dict, description="Per column, or `*` for all, the texts that stand for a missing value"
    )
    values: dict[Text, dict[Text, Text]] = Field(
        default_factory=dict, description="Per column, texts that are replaced by others before anything else"
    )
    ranges: dict[Text, tuple[Limit, Limit]] = Field(
        default_factory=dict, description="Per column the lowest and highest plausible value; null for an open end"
    )
    dates: dict[Text, str] = Field(
        default_factory=dict, description="Per number column the form of its dates, such as `%d.%m.%Y`"
    )
    channel_axis: Literal["first", "last"] = Field(
        default="first", description="Which axis of an image's array holds its channels"
    )
    filter: dict[Text, Text] = Field(default_factory=dict, description="Per column the value of the rows that are used")
    test_fraction: float = Field(
        default=0.2, ge=0, lt=1, description="Share of the rows held out for evaluation, by a hash of seed and place"
    )
    split_seed: int = Field(default=0, description="Seed of that hash")
    split: SplitOptions = Field(
        default=SplitOptions(), description="Which rows are for training, for validation and for the test"
    )
    series: SeriesOptions | None = Field(default=None, description="Windows of a series as rows, in place of the rows")
    mock: Annotated[Path | None, BeforeValidator(maybe)] = Field(
        default=None, description="A file of the same form without real rows, to try things with"
    )

    def schema_document(self, rows: int | None = None) -> DatasetSchema:
        """Return what may leave the site, as far as it is declared."""
        columns = tuple(self.wire(column) for column in self.offered)
        parts = () if self.kind == "none" else self.split.parts(self.test_fraction)
        return DatasetSchema(name=self.name, kind=self.kind, columns=columns, label=self.target, rows=rows, parts=parts)

    def files(self) -> dict[str, Path]:
        """Return the files with rows by the part that they are for; those of `path` are divided by `split`."""
        return ({} if self.path is None else {"train": self.path}) | self.split.files

    @property
    def sources(self) -> tuple[Path, ...]:
        """What is read of the site's disk, for those who open it to a recipe."""
        folder = () if self.images is None else (self.images.folder,)
        return (*self.files().values(), *folder)

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that decide about rows, and need not be declared: of `filter`, `split`, `series`."""
        series = () if self.series is None else (self.series.time, self.series.group)
        return tuple(name for name in dict.fromkeys([*self.filter, self.split.column, *series]) if name is not None)

    @property
    def moments(self) -> tuple[str, ...]:
        """The columns of moments among them."""
        names = (self.split.column if self.split.by == "time" else None, self.series.time if self.series else None)
        return tuple(name for name in names if name is not None)

    @property
    def offered(self) -> tuple[ColumnEntry, ...]:
        """The columns that jobs may use: of a series those of its windows, from the oldest step on, and its label.

        What is known in advance stands between the last step and the label.
        """
        if self.series is None:
            return self.columns
        back = reversed(range(self.series.lags))
        steps = [(column.name, f"@{-at}") for at in back for column in self.columns]
        known = [f"{name}@+{self.series.horizon}" for name in self.series.known]
        names = [*(f"{name}{at}" for name, at in steps), *known, self.series.label]
        return tuple(ColumnEntry(name=name, type="number") for name in names)

    @property
    def target(self) -> str | None:
        """The column that models predict, unless a job names another."""
        return self.label if self.series is None else self.series.label

    def wire(self, column: ColumnEntry) -> Column:
        """Return a column as the platform knows it, with the declared range of an image's pixels."""
        scale = self.ranges.get(column.name) if column.type == "image" else None
        known = {} if self.images is None or column.type != "image" else {"shape": self.images.shape, "dtype": "uint8"}
        return Column.model_validate(column.model_dump(exclude_none=True) | {"scale": scale} | known)

    def column(self, name: str) -> ColumnEntry | None:
        """Return the declared column of this name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)

    def missing_of(self, name: str) -> tuple[str, ...]:
        """Return the texts that stand for "not known" in a column, besides an empty cell."""
        return (*self.missing.get(name, ()), *self.missing.get(ANY_COLUMN, ()))


def cut_of(entry: DatasetEntry, text: str) -> float | None:
    """Return a moment of the split as its column holds it: a number, or days since 1970; None where it is none."""
    form = entry.dates.get(entry.split.column or "")
    try:
        return float(text) if form is None and NUMBER.fullmatch(text) else moment_of(text, form)
    except (ValueError, re.error):
        return None
