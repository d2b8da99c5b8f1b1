"""What is wrong with an entry of ``datasets.yaml`` beyond its form: files, columns, and names that refer to one."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from undersong.recipes.entry import ANY_COLUMN, NUMBER, ColumnEntry, DatasetEntry, cut_of
from undersong.recipes.options import CsvOptions, SplitOptions
from undersong.shared.names import Hints, hint

Fault = tuple[tuple[str | int, ...], str]


def entry_faults(entry: DatasetEntry) -> Iterator[Fault]:
    """Yield what is wrong with an entry beyond its form: files, columns, and every name that refers to one."""
    yield from _kind_faults(entry)
    for place, column in enumerate(entry.columns):
        yield from ((("columns", place, *path), text) for path, text in _column_faults(entry, place, column))
    names = [column.name for column in entry.columns]
    if entry.label is not None and entry.label not in names:
        yield ("label",), f"{entry.label} is not among the columns{hint(entry.label, names)}"
    if any(column.name == entry.label and column.type in ("image", "text") for column in entry.columns):
        yield ("label",), f"{entry.label} is no column of numbers or categories"
    yield from _references(entry, names)
    yield from _split_faults(entry)
    yield from _series_faults(entry, names)
    yield from _date_faults(entry)
    yield from _range_faults(entry)
    yield from _missing_faults(entry)
    yield from _value_faults(entry)


def _kind_faults(entry: DatasetEntry) -> Iterator[Fault]:
    """Yield files and options that are not of the entry's kind."""
    if (entry.kind in ("none", "sql")) != (entry.path is None):
        yield (
            ("path",),
            f"a data set of kind {entry.kind} has no path" if entry.path else "names no file: path is missing",
        )
    if (entry.kind == "sql") != (entry.sql is not None):
        yield ("sql",), "a data set of kind sql names its query here" if entry.kind == "sql" else "is for kind sql"
    if entry.kind == "sql" and entry.split.by == "file":
        yield ("split", "by"), "the rows of a query are in no other file: divide them by column, time or hash"
    plain = entry.kind in ("jsonl", "lines") and entry.csv == CsvOptions(encoding=entry.csv.encoding)
    if entry.kind not in ("csv", "images") and entry.csv != CsvOptions() and not plain:
        yield (
            ("csv",),
            f"these options are for kind csv and images (encoding also for jsonl and lines), and this is {entry.kind}",
        )
    if entry.kind not in ("npz", "own") and entry.channel_axis != "first":
        yield ("channel_axis",), f"is for arrays of kinds npz and own, and this one is {entry.kind}"
    yield from _image_faults(entry)


def _image_faults(entry: DatasetEntry) -> Iterator[Fault]:
    """Yield what images of a folder cannot be read by."""
    pictures = [column.name for column in entry.columns if column.type == "image"]
    if (entry.kind == "images") != (entry.images is not None):
        said = "says here where its images are, and of what size"
        yield ("images",), f"a data set of kind images {said}" if entry.kind == "images" else "is for kind images"
    if entry.kind == "images" and len(pictures) != 1:
        yield ("columns",), "one column of type image holds the names of the files"
    if entry.kind == "images" and set(pictures) & {*entry.values, *entry.read}:
        yield ("columns",), f"{pictures[0]} holds files, which neither replace another nor decide about rows"


def _column_faults(entry: DatasetEntry, place: int, column: ColumnEntry) -> Iterator[Fault]:
    if column.name in [other.name for other in entry.columns[:place]]:
        yield ("name",), f"the column {column.name} is declared twice"
    if column.type == "image" and entry.kind not in ("npz", "images", "own"):
        yield ("type",), f"column {column.name}: images are in kinds npz, images and own, and this one is {entry.kind}"
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
    timed = [*names, *entry.moments]
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
    if entry.kind in ("csv", "images") and entry.csv.names:
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


def _series_faults(entry: DatasetEntry, names: Sequence[str]) -> Iterator[Fault]:
    """Yield what windows cannot be made of."""
    series, split = entry.series, entry.split
    if series is None:
        return
    if entry.kind in ("none", "own"):
        yield ("series",), f"a data set of kind {entry.kind} has no rows that windows could be made of here"
    if entry.label is not None:
        yield ("label",), f"a series has its label from series: {series.label}; leave label out"
    if series.target not in names:
        yield ("series", "target"), f"{series.target} is not among the columns{hint(series.target, names)}"
    if absent := [name for name in series.known if name not in names]:
        yield ("series", "known"), f"{absent[0]} is not among the columns{hint(absent[0], names)}"
    if odd := [column.name for column in entry.columns if column.type != "number"]:
        yield ("columns",), f"windows hold numbers, and {', '.join(odd)} are none"
    if both := sorted({series.time, series.group or series.time} & set(names)):
        yield ("columns",), f"{', '.join(both)} is not an input of windows: leave it out of columns"
    if series.lags * len(names) > MOST_INPUTS:
        yield ("series", "lags"), f"windows of {series.lags} steps and {len(names)} columns are more than {MOST_INPUTS}"
    together = split.by in ("hash", "column") and split.column is not None and split.column == series.group
    if not together and split.by not in ("time", "file"):
        remedy = "divide by time, by file, or by hash of the group column"
        yield ("split",), f"windows of a series overlap, so that one row could be in two parts: {remedy}"


MOST_INPUTS: Final = 10_000
"""Columns of a window."""


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
