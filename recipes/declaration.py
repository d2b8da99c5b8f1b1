"""What a site declares of its data sets in ``datasets.yaml``; every option is described in docs/data.md.

Every scalar of the file is read as the text written there: YAML's own guesses (`no` is false, `1.0` is a number,
`null` is nothing) are never made. Fields turn it into what they are declared to be, and each name that refers to a
column or a level is resolved. What leaves a site of it is listed in docs/data.md.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError

from undersong.recipes.options import (
    CsvOptions,
    Form,
    Limit,
    Name,
    SplitOptions,
    Text,
    Texts,
    maybe,
    moment_of,
)
from undersong.shared.documents import document_faults, pointer
from undersong.shared.errors import FieldError, Invalid
from undersong.shared.files import read_text
from undersong.shared.names import Hints, hint
from undersong.shared.wire.profiles import Column, DatasetSchema
from undersong.shared.yaml_texts import NOTHING, NotYaml, load_texts

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


class ColumnEntry(Form):
    """One column of an entry; `categories` are a category column's levels in their fixed order."""

    name: Name = Field(description="The column's name in the file")
    type: Literal["number", "category", "image", "text"] = Field(
        description="What the column holds; images need `kind: npz`, and recipes do not use texts"
    )
    categories: tuple[Text, ...] | None = Field(default=None, description="A category column's categories, in order")
    channels: tuple[Name, ...] | None = Field(default=None, description="Names of an image's channels, in order")


class DatasetEntry(Form):
    """One entry of ``datasets.yaml``."""

    name: Name = Field(description="The name by which jobs ask for the data set")
    kind: Literal["csv", "parquet", "npz", "none"] = Field(
        description="Form of the file (csv may be packed by gzip); `none`: no rows, for recipes that need none"
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
    mock: Annotated[Path | None, BeforeValidator(maybe)] = Field(
        default=None, description="A file of the same form without real rows, to try things with"
    )

    def schema_document(self, rows: int | None = None) -> DatasetSchema:
        """Return what may leave the site, as far as it is declared."""
        columns = tuple(self.wire(column) for column in self.columns)
        parts = () if self.kind == "none" else self.split.parts(self.test_fraction)
        return DatasetSchema(name=self.name, kind=self.kind, columns=columns, label=self.label, rows=rows, parts=parts)

    def files(self) -> dict[str, Path]:
        """Return the files with rows by the part that they are for; those of `path` are divided by `split`."""
        return ({} if self.path is None else {"train": self.path}) | self.split.files

    @property
    def sources(self) -> tuple[Path, ...]:
        """What is read of the site's disk, for those who open it to a recipe."""
        return tuple(self.files().values())

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that decide about rows, and need not be declared: those of `filter` and `split`."""
        return tuple(dict.fromkeys([*self.filter, *([self.split.column] if self.split.column else [])]))

    def wire(self, column: ColumnEntry) -> Column:
        """Return a column as the platform knows it, with the declared range of an image's pixels."""
        scale = self.ranges.get(column.name) if column.type == "image" else None
        return Column.model_validate(column.model_dump(exclude_none=True) | {"scale": scale})

    def column(self, name: str) -> ColumnEntry | None:
        """Return the declared column of this name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)

    def missing_of(self, name: str) -> tuple[str, ...]:
        """Return the texts that stand for "not known" in a column, besides an empty cell."""
        return (*self.missing.get(name, ()), *self.missing.get(ANY_COLUMN, ()))


@dataclass(frozen=True, slots=True)
class Declarations:
    """The entries of a ``datasets.yaml`` that can be used, by name, and what is wrong with the others."""

    entries: dict[str, DatasetEntry] = field(default_factory=dict)
    faults: dict[str, list[FieldError]] = field(default_factory=dict)

    def reasons(self) -> dict[str, str]:
        """Return one line for each data set that cannot be used, by its name."""
        return {
            name: "; ".join(f"{fault.path} {fault.message}".strip() for fault in found)
            for name, found in self.faults.items()
        }


def read_texts(file: Path) -> Any:
    """Return a YAML file's document with every scalar as its text; raises `BadDataset`."""
    try:
        return load_texts(read_text(file, "utf-8-sig"))
    except (NotYaml, UnicodeDecodeError) as error:
        raise BadDataset(f"{file.name} is not YAML: {error}") from None
    except OSError as error:
        raise BadDataset(f"{file.name} cannot be read: {error.strerror}") from None


def read_declarations(file: Path) -> Declarations:
    """Read a ``datasets.yaml``: entries with absolute paths, and the faults of the others by name.

    Raises `BadDataset` where no entry can be told from another: no YAML, no list of data sets.
    """
    document = read_texts(file)
    if document in (None, *NOTHING):
        return Declarations()
    listed = document.get("datasets", []) if isinstance(document, dict) else None
    listed = [] if listed in NOTHING else listed
    if not isinstance(document, dict) or not isinstance(listed, list):
        raise BadDataset(f"{file.name}: a mapping with a list under `datasets` is expected")
    made = Declarations()
    if unknown := [str(key) for key in document if key != "datasets"]:
        made.faults[file.name] = [FieldError(pointer([key]), f"is unknown{hint(key, ['datasets'])}") for key in unknown]
    for place, raw in enumerate(listed):
        _declare(raw, place, file.parent.resolve(), made)
    return made


def _declare(raw: object, place: int, folder: Path, made: Declarations) -> None:
    at = ("datasets", place)
    named = raw.get("name") if isinstance(raw, dict) else None
    name = named if isinstance(named, str) and named else f"number {place + 1}"
    try:
        entry = DatasetEntry.model_validate(raw)
        faults = [FieldError(pointer([*at, *path]), text) for path, text in _faults(entry)]
    except ValidationError as error:
        entry, faults = None, document_faults(error, DatasetEntry, at)
    if name in made.entries or name in made.faults:
        made.entries.pop(name, None)
        made.faults.setdefault(name, []).append(FieldError(pointer([*at, "name"]), f"the name {name} is used twice"))
    elif entry is None or faults:
        made.faults[name] = faults
    else:
        made.entries[name] = _placed(entry, folder)


def _placed(entry: DatasetEntry, folder: Path) -> DatasetEntry:
    """Return the entry with absolute paths."""
    paths = {part: folder / value for part in ("path", "mock") if (value := getattr(entry, part)) is not None}
    others = {f"{part}_file": folder / value for part, value in entry.split.files.items()}
    return entry.model_copy(update={**paths, "split": entry.split.model_copy(update=others)})


Fault = tuple[tuple[str | int, ...], str]


def _faults(entry: DatasetEntry) -> Iterator[Fault]:
    """Yield what is wrong with an entry beyond its form: files, columns, and every name that refers to one."""
    if (entry.kind == "none") != (entry.path is None):
        yield ("path",), "a data set of kind none has no path" if entry.path else "names no file: path is missing"
    if entry.kind != "csv" and entry.csv != CsvOptions():
        yield ("csv",), f"these options are for kind csv, and this one is {entry.kind}"
    if entry.kind != "npz" and entry.channel_axis != "first":
        yield ("channel_axis",), f"images are in kind npz, and this one is {entry.kind}"
    for place, column in enumerate(entry.columns):
        yield from ((("columns", place, *path), text) for path, text in _column_faults(entry, place, column))
    names = [column.name for column in entry.columns]
    if entry.label is not None and entry.label not in names:
        yield ("label",), f"{entry.label} is not among the columns{hint(entry.label, names)}"
    if any(column.name == entry.label and column.type in ("image", "text") for column in entry.columns):
        yield ("label",), f"{entry.label} is no column of numbers or categories"
    yield from _references(entry, names)
    yield from _split_faults(entry)
    yield from _date_faults(entry)
    yield from _range_faults(entry)
    yield from _missing_faults(entry)
    yield from _value_faults(entry)


def _column_faults(entry: DatasetEntry, place: int, column: ColumnEntry) -> Iterator[Fault]:
    if column.name in [other.name for other in entry.columns[:place]]:
        yield ("name",), f"the column {column.name} is declared twice"
    if column.type == "image" and entry.kind != "npz":
        yield ("type",), f"column {column.name}: images are in kind npz, and this one is {entry.kind}"
    levels = column.categories or ()
    if (column.type == "category") != bool(levels):
        said = "is a category and must list its categories" if column.type == "category" else "is no category"
        yield ("categories",), f"column {column.name} {said}"
    if column.channels is not None and (column.type != "image" or len(set(column.channels)) != len(column.channels)):
        yield ("channels",), f"column {column.name}: channels are those of an image, each named once"
    if "" in levels:
        yield ("categories",), f"column {column.name} has an empty category: an empty cell is missing"
    if twice := sorted({level for level in levels if levels.count(level) > 1}):
        yield ("categories",), f"column {column.name} lists {', '.join(twice)} twice"


def _references(entry: DatasetEntry, names: Sequence[str]) -> Iterator[Fault]:
    """Names in `missing`, `values`, `ranges` and `dates` that are no column of the right type."""
    in_file = [*names, *(name for name in entry.read if name not in names)]
    timed = [*names, *([entry.split.column] if entry.split.by == "time" and entry.split.column else [])]
    for part, known in (("missing", [*in_file, ANY_COLUMN]), ("values", in_file), ("ranges", names), ("dates", timed)):
        hints = Hints(known)
        for name in getattr(entry, part):
            if name not in known:
                yield (part, name), f"no column is called {name}{hints(name)}"
    types = {column.name: column.type for column in entry.columns}
    for part, allowed in (("ranges", ("number", "image")), ("dates", ("number",))):
        for name in getattr(entry, part):
            if name in types and types[name] not in allowed:
                yield (part, name), f"column {name} is a {types[name]} column; this is for {' and '.join(allowed)}"
    if entry.kind == "csv" and entry.csv.names:
        yield from _absent_names(entry, in_file)


def _split_faults(entry: DatasetEntry) -> Iterator[Fault]:
    """Yield parts that no row can be in, and moments that are none or out of order."""
    split = entry.split
    if entry.kind == "none" and split != SplitOptions():
        yield ("split",), "a data set of kind none has no rows to divide"
    if split.by == "hash" and entry.test_fraction + split.validation_fraction >= 1:
        yield ("split", "validation_fraction"), "with test_fraction it leaves no rows to train on"
    column = entry.column(split.column) if split.column else None
    if column is not None and (column.type == "image" or (split.by == "time" and column.type != "number")):
        yield ("split", "column"), f"{split.column} is a {column.type} column, which cannot decide by {split.by}"
    elif column is not None and split.by == "column":
        for part in ("train", "validation", "test"):
            for text in getattr(split, part):
                if fault := _unfit(column, text):
                    yield ("split", part), fault
    yield from _cut_faults(entry)


def _cut_faults(entry: DatasetEntry) -> Iterator[Fault]:
    split, form = entry.split, entry.dates.get(entry.split.column or "")
    cuts: dict[str, float | None] = {}
    for part in ("validation_from", "test_from"):
        if (text := getattr(split, part)) is None:
            continue
        cuts[part] = cut_of(entry, text)
        if cuts[part] is None:
            wanted = f"no date of the form {form}" if form else "neither a number nor a date such as 2024-12-31"
            yield ("split", part), f"{text!r} is {wanted}"
    first, last = cuts.get("validation_from"), cuts.get("test_from")
    if first is not None and last is not None and first >= last:
        yield ("split", "validation_from"), "the validation part begins before the test part"


def cut_of(entry: DatasetEntry, text: str) -> float | None:
    """Return a moment of the split as its column holds it: a number, or days since 1970; None where it is none."""
    form = entry.dates.get(entry.split.column or "")
    try:
        return float(text) if form is None and NUMBER.fullmatch(text) else moment_of(text, form)
    except (ValueError, re.error):
        return None


_A_DAY: Final = datetime(2001, 2, 3, tzinfo=UTC)


def _date_faults(entry: DatasetEntry) -> Iterator[Fault]:
    """Forms that no date can have, and those without a year: their dates would all be in 1900."""
    for name, form in entry.dates.items():
        try:
            year = datetime.strptime(_A_DAY.strftime(form), form).year  # noqa: DTZ007 (only the year is looked at)
        except (ValueError, re.error):  # which Python raises for a directive that comes twice
            yield ("dates", name), f"{form!r} is no form of dates; %Y-%m-%d and %d.%m.%Y are"
        else:
            if year != _A_DAY.year:
                yield ("dates", name), f"{form!r} has no year (%Y or %y)"


def _range_faults(entry: DatasetEntry) -> Iterator[Fault]:
    images = {column.name for column in entry.columns if column.type == "image"}
    for name, (low, high) in entry.ranges.items():
        if low is not None and high is not None and low >= high:
            yield ("ranges", name), "the lowest value comes first, and is below the highest"
        if name in images and (low is None or high is None):
            yield ("ranges", name), "the range of an image needs both ends"


def _absent_names(entry: DatasetEntry, wanted: Iterable[str]) -> Iterator[Fault]:
    for name in wanted:
        if name not in entry.csv.names:
            yield ("csv", "names"), f"the column {name} is not among them{hint(name, entry.csv.names)}"
    if twice := sorted({name for name in entry.csv.names if entry.csv.names.count(name) > 1}):
        yield ("csv", "names"), f"{', '.join(twice)} is written twice"


def _missing_faults(entry: DatasetEntry) -> Iterator[Fault]:
    for column in entry.columns:
        for text in entry.missing_of(column.name):
            if text in (column.categories or ()):
                yield ("missing",), f"{text} is a category of {column.name} and cannot stand for missing there"
        for text in set(entry.missing_of(column.name)) & set(entry.values.get(column.name, {})):
            yield ("values", column.name), f"{text} stands for missing in {column.name} and cannot be exchanged too"


def _value_faults(entry: DatasetEntry) -> Iterator[Fault]:
    """Return replacements and filters that are no category of their column, or no number."""
    for name, exchanged in entry.values.items():
        column = entry.column(name)
        for text, made in exchanged.items():
            if column is not None and (fault := _unfit(column, made)):
                yield ("values", name, text), fault
    for name, wanted in entry.filter.items():
        column = entry.column(name)
        if column is not None and column.type in ("image", "text"):
            yield ("filter", name), f"a filter needs numbers or categories, and {name} is a {column.type} column"
        elif column is not None and name not in entry.dates and (fault := _unfit(column, wanted)):
            yield ("filter", name), fault


def _unfit(column: ColumnEntry, text: str) -> str | None:
    if column.type == "category" and text not in (column.categories or ()):
        return f"{text} is not a category of {column.name}{hint(text, column.categories or ())}"
    if column.type == "number" and not NUMBER.fullmatch(text):
        return f"{text} is not a number, and {column.name} is a number column"
    return None


def movable_document(entries: Mapping[str, DatasetEntry]) -> dict[str, Any]:
    """Return entries as a document with absolute paths, to be written elsewhere."""
    return {"datasets": [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries.values()]}
