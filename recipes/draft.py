"""A first ``datasets.yaml`` entry made from a data file, for the data's owner to read and correct.

This is the one place that guesses, and every guess stands in the text that the owner reads. The entry can be loaded as
it is: the options are tried on all rows.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from recipes.declaration import NUMBER, BadDataset, ColumnEntry, CsvOptions, DatasetEntry
from recipes.files import NPY, CsvRows, column_names, first_lines, opened, parts
from recipes.hints import ABSENT, SEPARATORS, date_form, fields_of
from recipes.values import MOST_CHANNELS, cell_of, number_form

MOST_LEVELS: Final = 50  # distinct texts up to which a column is taken for a category
MOST_SEEN: Final = 2_000  # distinct texts of a column that are looked at
FEW: Final = 10  # whole numbers that may be codes
LABELS: Final = ("label", "target", "outcome", "class", "y")
MARKS: Final = ((".", ""), (",", ""), (".", ","), (",", "."), (".", "'"), (",", " "), (".", " "))
HEAD: Final = """\
# Read this and correct it: types, categories and missing values are guesses, docs/data.md has every option.
# Names, types, categories and the number of rows leave the site; rows never do.
datasets:
"""


@dataclass(slots=True)
class _Seen:
    """What a column holds: its distinct texts, as far as they were counted."""

    texts: Counter[str] = field(default_factory=Counter)
    more: bool = False
    forms: set[tuple[str, str]] = field(default_factory=lambda: set(MARKS))  # in which every text is a number
    absent: set[str] = field(default_factory=set)  # texts that usually stand for "not known"

    def take(self, cells: Iterable[str]) -> None:
        for text, count in Counter(cell.strip() for cell in cells).items():
            if text == "":
                continue
            if text.casefold() in ABSENT:
                self.absent.add(text)
            elif self.forms:
                self.forms = {marks for marks in self.forms if FORMS[marks].fullmatch(text)}
            if len(self.texts) < MOST_SEEN or text in self.texts:
                self.texts[text] += count
            else:
                self.more = True


FORMS: Final = {marks: number_form(*marks) for marks in MARKS}


def draft_text(file: Path, name: str | None = None, label: str | None = None, *, head: bool = True) -> str:
    """Return a ``datasets.yaml`` with one entry for a file, or only the entry's lines; raises `BadDataset`."""
    kind = _kind(file)
    name = name or file.name.split(".")[0] or "data"
    drafted = _npz(file) if kind == "npz" else _table(file, kind)
    names = [column["name"] for column in drafted["columns"]]
    if label is not None and label not in names:
        raise BadDataset(f"{file.name} has no column {label}; its columns are {', '.join(names)}")
    guessed = next((each for wish in LABELS for each in names if each.casefold() == wish), None)
    lines = [f"name: {_flow(name)}", f"kind: {kind}", f"path: {_flow(str(file.resolve()))}"]
    if label or guessed:
        lines.append(f"label: {_flow(label or guessed)}" + ("" if label else "  # a guess, by its name"))
    else:
        lines.append("# label: the column that models are to predict")
    lines += [f"{option}: {_flow(drafted[option])}" for option in OPTIONS if drafted.get(option)]
    lines.append("columns:")
    for column in drafted["columns"]:
        note = column.pop("note", "")
        lines.append(f"  - {_flow(column)}" + (f"  # {note}" if note else ""))
    text = "".join(f"  {'- ' if not place else '  '}{line}\n" for place, line in enumerate(lines))
    return HEAD + text if head else text


OPTIONS: Final = ("csv", "missing", "dates", "ranges", "channel_axis")
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]*[A-Za-z0-9_]|[A-Za-z_]")


def _flow(value: object) -> str:
    """Return a value as YAML on one line; a text that is no plain name stands between quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(f'"{each}"' if _PLAIN.fullmatch(str(each)) else _flow(each) for each in value) + "]"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _kind(file: Path) -> str:
    with file.open("rb") as raw:
        head = raw.read(len(NPY))
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK") and file.suffix == ".npz":
        return "npz"
    return "csv"


def _table(file: Path, kind: str) -> dict[str, Any]:
    csv: dict[str, Any] = _csv_options(file) if kind == "csv" else {}
    options = CsvOptions.model_validate(csv)
    names = _csv_names(file, options) if kind == "csv" else column_names(file)
    columns = tuple(ColumnEntry(name=name, type="text") for name in names)
    entry = DatasetEntry(name="draft", kind=kind, path=file, csv=options, columns=columns)
    seen = {name: _Seen() for name in names}
    for part in parts(entry, file, names):
        for name, cells in part.cells.items():
            seen[name].take(map(cell_of, cells.tolist()) if isinstance(cells, np.ndarray) else cells)
    marks = _marks(seen.values()) if kind == "csv" else (".", "")
    csv |= {
        key: mark for key, mark, usual in zip(("decimal", "thousands"), marks, (".", ""), strict=True) if mark != usual
    }
    drafted: dict[str, Any] = {"columns": [], "csv": csv, "missing": {}, "dates": {}}
    for name, found in seen.items():
        drafted["columns"].append(_column(name, found, marks, drafted))
    return drafted


def _column(name: str, seen: _Seen, marks: tuple[str, str], drafted: dict[str, Any]) -> dict[str, Any]:
    """Return a column's entry; what it needs besides is put into `drafted`."""
    known = [text for text in seen.texts if text not in seen.absent]
    form = None if marks in seen.forms and known else date_form(known) if not seen.more else None
    if known and (marks in seen.forms or form):
        if seen.absent:
            drafted["missing"][name] = sorted(seen.absent)
        if form:
            drafted["dates"][name] = form
        codes = not form and not seen.more and len(known) <= FEW and all(re.fullmatch("[0-9]+", text) for text in known)
        held = ", ".join(sorted(known, key=int)) if codes else ""
        return {"name": name, "type": "number", **({"note": f"holds {held}: a category?"} if codes else {})}
    if not seen.more and 0 < len(seen.texts) <= MOST_LEVELS:
        odd = ", ".join(sorted(seen.absent))
        note = {"note": f"{odd}: a category, or missing?"} if odd else {}
        return {"name": name, "type": "category", "categories": sorted(seen.texts), **note}
    said = "only empty cells" if not seen.texts else f"{len(seen.texts)}{' or more' * seen.more} different texts"
    return {"name": name, "type": "text", "note": f"{said}: recipes do not use it"}


def _marks(columns: Iterable[_Seen]) -> tuple[str, str]:
    """Return the decimal and thousands marks under which most columns hold numbers, the usual ones first."""
    counted = Counter(marks for seen in columns if seen.texts for marks in seen.forms)
    return max(MARKS, key=lambda marks: counted[marks])


def _csv_options(file: Path) -> dict[str, Any]:
    """Return the encoding, separator and header line by which the first lines have the most fields of one number."""
    encoding = _encoding(file)
    lines = first_lines(file, CsvOptions(encoding=encoding))
    if not lines:
        raise BadDataset(f"{file.name} is empty: it needs a header and rows")
    ranked = {mark: _shape([fields_of(line, mark) for line in lines if line]) for mark in SEPARATORS}
    separator = max(SEPARATORS, key=lambda mark: ranked[mark][:2])
    _, width, _ = ranked[separator]
    header = next((at for at, line in enumerate(lines) if len(fields_of(line, separator)) == width), 0)
    options: dict[str, Any] = {} if encoding == "utf-8" else {"encoding": encoding}
    if separator != ",":
        options["separator"] = "tab" if separator == "\t" else separator
    if all(text == "" or NUMBER.fullmatch(text.replace(",", ".")) for text in fields_of(lines[header], separator)):
        return options | {"header": 0, "names": [f"column_{place + 1}" for place in range(width)]}
    return options | ({"header": header + 1} if header else {})


def _shape(rows: Sequence[Sequence[str]]) -> tuple[int, int, int]:
    """Return how many lines have the usual number of fields (none with one field only), and that number."""
    width, count = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
    return (count if width > 1 else 0), width, len(rows)


def _encoding(file: Path) -> str:
    for encoding in ("utf-8", "utf-16"):
        try:
            with opened(file, CsvOptions(encoding=encoding)) as text:
                while text.read(2**20):
                    pass
        except UnicodeError:
            continue
        else:
            return encoding
    return "cp1252"


def _csv_names(file: Path, options: CsvOptions) -> list[str]:
    if options.names:
        return list(options.names)
    with opened(file, options) as text:
        reader = CsvRows(text, options)
        header: list[str] = []
        while reader.line_num < options.header:
            header = next(reader, [])
    return [name.strip() for name in header if name.strip()]


def _npz(file: Path) -> dict[str, Any]:
    names = column_names(file)
    entry = DatasetEntry(name="draft", kind="npz", path=file)
    drafted: dict[str, Any] = {"columns": [], "missing": {}, "dates": {}, "ranges": {}}
    for name in names:
        array = _array_of(entry, file, name)
        if array.ndim in (3, 4):
            drafted["columns"].append({"name": name, "type": "image"})
            drafted |= _image_options(name, array, drafted["ranges"])
        else:
            seen = _Seen()
            for piece in _pieces(array):
                seen.take(map(cell_of, piece.tolist()))
            drafted["columns"].append(_column(name, seen, (".", ""), drafted))
    return drafted


def _array_of(entry: DatasetEntry, file: Path, name: str) -> Any:
    """Read one array, first as images and, where it has another shape, as a column of numbers or texts."""
    image = entry.model_copy(update={"columns": (ColumnEntry(name=name, type="image"),)})
    (part,) = parts(image, file, [name])
    array = np.asarray(part.cells[name])
    if array.ndim in (3, 4):
        return array
    (part,) = parts(entry, file, [name])
    return np.asarray(part.cells[name])


def _pieces(array: Any) -> Iterator[Any]:
    for start in range(0, len(array), 20_000):
        yield array[start : start + 20_000]


def _image_options(name: str, array: Any, ranges: dict[str, Any]) -> dict[str, Any]:
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
    usual = array.dtype in (np.uint8, np.uint16) or (array.dtype.kind == "f" and low >= 0 and high <= 1)
    if not usual:
        ranges[name] = [min(low, 0.0), max(high, 1.0)]
    last = array.ndim == 4 and array.shape[3] <= MOST_CHANNELS < array.shape[1]
    return {"channel_axis": "last"} if last else {}
