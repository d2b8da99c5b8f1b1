"""A first ``datasets.yaml`` entry made from a data file, for the data's owner to read and correct.

This is the one place that guesses, and every guess is written into the text that the owner reads. The entry can be
loaded unchanged: the options are tried on all rows.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from undersong.recipes.entry import NUMBER, BadDataset, ColumnEntry, DatasetEntry
from undersong.recipes.files import NPY, CsvRows, column_names, first_lines, opened, refusals
from undersong.recipes.hints import ABSENT, SEPARATORS, date_form, fields_of
from undersong.recipes.options import CsvOptions, text_of
from undersong.recipes.reading import parts
from undersong.recipes.records import LINE, record_names
from undersong.recipes.values import MOST_CHANNELS, Floats, NumberCells, cell_of, is_changed, number_form
from undersong.shared.files import open_regular
from undersong.shared.names import hint

MOST_LEVELS: Final = 50  # distinct texts up to which a column is drafted as a category
MOST_SEEN: Final = 2_000  # distinct texts of a column that are looked at
MOST_TEXT: Final = 200  # characters of such a text
FEW: Final = 10  # whole numbers that may be codes
FEW_WORDS: Final = 3  # different words between numbers that may stand for "not known"
NEARLY_ALL: Final = 0.8  # the share of a text file's first lines that make it a table
EMPTY: Final = "only empty cells"
ONLY_TEXTS: Final = "only recipes for texts use it"
RARE: Final = 0.1  # the share of a column's cells that such words are at most
SENTINEL: Final = re.compile(r"-?9+(?:[.,]0+)?")  # numbers that often stand for "not known"
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")  # of images
LONGEST: Final = 200  # characters of a name that can be declared
LONG: Final = 15  # characters of a number that float64 surely holds
LABELS: Final = ("label", "target", "outcome", "class", "y")
MARKS: Final = ((".", ""), (",", ""), (".", ","), (",", "."), (".", "'"), (",", " "), (".", " "))
HEAD: Final = """\
# Read this and correct it: types, categories and missing values are guesses, docs/data.md has every option.
# Names, types, categories and the number of rows leave the site (docs/data.md has all of it); rows never do.
datasets:
"""


FORMS: Final = {marks: number_form(*marks) for marks in MARKS}


@dataclass(slots=True)
class _Seen:
    """What a column holds: its distinct texts, as far as they were counted."""

    texts: Counter[str] = field(default_factory=Counter)
    cells: int = 0  # that are not empty
    more: bool = False
    forms: set[tuple[str, str]] = field(
        default_factory=lambda: set(MARKS)
    )  # in which all texts with digits are numbers
    absent: set[str] = field(default_factory=set)  # texts that usually stand for "not known"
    words: Counter[str] = field(default_factory=Counter)  # other texts without a digit
    too_large: bool = False  # whether a number is none that a number column can hold
    sentinel: bool = False  # whether a number looks as if it stood for "not known"

    def take(self, cells: Iterable[str]) -> None:
        for text, count in Counter(cell.strip() for cell in cells).items():
            if text == "":
                continue
            self.cells += count
            if len(text) > MOST_TEXT:
                self.more, self.forms = True, set()
                continue
            self._sort(text, count)
            if len(self.texts) < MOST_SEEN or text in self.texts:
                self.texts[text] += count
            else:
                self.more = True

    def _sort(self, text: str, count: int) -> None:
        if text.casefold() in ABSENT:
            self.absent.add(text)
        elif not any(character.isdigit() for character in text):
            if len(self.words) < MOST_LEVELS or text in self.words:
                self.words[text] += count
        else:
            self.sentinel |= bool(SENTINEL.fullmatch(text))
            self.forms = {marks for marks in self.forms if FORMS[marks].fullmatch(text)}
            self.too_large |= bool(self.forms) and _too_large(text, self.forms)

    @property
    def has_numbers(self) -> bool:
        """Whether every text with a digit is a number in some form, and one of them is seen."""
        return bool(self.forms) and any(text not in self.absent and text not in self.words for text in self.texts)

    def usual_forms(self) -> set[tuple[str, str]]:
        """Return the forms in which nearly all texts are numbers."""
        known = {text: count for text, count in self.texts.items() if text not in self.absent}
        least = (1 - RARE) * sum(known.values())
        fitting = {marks: sum(n for text, n in known.items() if form.fullmatch(text)) for marks, form in FORMS.items()}
        return {marks for marks, count in fitting.items() if count >= max(least, 1)}

    @property
    def not_known(self) -> list[str] | None:
        """Return the words that may stand for "not known" between numbers; None where there are too many for that."""
        if len(self.words) > FEW_WORDS or self.words.total() > RARE * self.cells:
            return None
        return sorted([*self.absent, *self.words])


def _too_large(text: str, forms: Iterable[tuple[str, str]]) -> bool:
    """Return whether a number is infinite as float64, or changed by it, in one of these forms."""
    if NUMBER.fullmatch(text):
        return is_changed(text) or not np.isfinite(float(text))
    if len(text) <= LONG:
        return False
    readers = (NumberCells("", decimal=decimal, thousands=thousands) for decimal, thousands in forms)
    return any(reader.texts([text])[1] is not None for reader in readers)


def draft_text(file: Path, name: str | None = None, label: str | None = None, *, head: bool = True) -> str:
    """Return a ``datasets.yaml`` with one entry for a file, or only the entry's lines; raises `BadDataset`."""
    kind = _kind(file)
    name = name or file.name.split(".")[0] or "data"
    drafted = {"npz": _npz, "lines": _lines}[kind](file) if kind in ("npz", "lines") else _table(file, kind)
    names = [column["name"] for column in drafted["columns"]]
    if label is not None and label not in names:
        raise BadDataset(f"{file.name} has no column {label}{hint(label, names)}")
    usable = [column["name"] for column in drafted["columns"] if column["type"] in ("number", "category")]
    if label is not None and label not in usable:
        raise BadDataset(_no_label(file, next(each for each in drafted["columns"] if each["name"] == label)))
    guessed = next((each for wish in LABELS for each in usable if each.casefold() == wish), None)
    lines = [f"name: {_flow(name)}", f"kind: {kind}", f"path: {_flow(str(file.resolve()))}"]
    if label or guessed:
        lines.append(f"label: {_flow(label or guessed)}" + ("" if label else "  # a guess, by its name"))
    else:
        lines.append("# label: the column that models are to predict")
    lines += [f"{option}: {_flow(drafted[option])}" for option in OPTIONS if drafted.get(option)]
    if drafted.get("left_out"):
        lines.append(f"# left out, as their names have more than {LONGEST} characters: {drafted['left_out']} columns")
    lines.append("columns:")
    for column in drafted["columns"]:
        notes = "; ".join(column.pop("notes", ()))
        lines.append(f"  - {_flow(column)}" + (f"  # {_visible(notes)}" if notes else ""))
    text = "".join(f"  {'- ' if not place else '  '}{line}\n" for place, line in enumerate(lines))
    return HEAD + text if head else text


def _no_label(file: Path, column: Mapping[str, Any]) -> str:
    """Say why no model can predict a drafted column."""
    if column["type"] != "text":
        return f"the column {column['name']} holds images, and a label is a number or a category"
    found = column["notes"][0].split(":")[0]
    if found == EMPTY:
        return f"{file.name} has no value in the column {column['name']}: a label needs rows with one"
    return f"the column {column['name']} holds {found}, and a label is a number or a category of up to {MOST_LEVELS}"


OPTIONS: Final = ("csv", "missing", "dates", "ranges", "channel_axis")
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]*[A-Za-z0-9_]|[A-Za-z_]")


def _visible(note: str) -> str:
    """Return a note as one line without control characters, which YAML does not allow in comments either."""
    return "".join(character if character.isprintable() else " " for character in note)


def _flow(value: object) -> str:
    """Return a value as YAML on one line; a text that is no plain name is quoted."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(f'"{each}"' if _PLAIN.fullmatch(str(each)) else _flow(each) for each in value) + "]"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return "".join(map(_escaped, json.dumps(value, ensure_ascii=False)))
    return str(value)


def _escaped(character: str) -> str:
    """Return a character as YAML's quotes need it: by its code where it is invisible or forbidden."""
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"


def _kind(file: Path) -> str:
    try:
        with os.fdopen(open_regular(file), "rb") as raw:
            head = raw.read(len(NPY))
    except OSError as error:
        raise BadDataset(f"it cannot be read: {error.strerror}") from None
    if head.startswith(b"PAR1"):
        return "parquet"
    if set(file.suffixes) & {".jsonl", ".ndjson"}:
        return "jsonl"
    if head.startswith(b"PK") and file.suffix == ".npz":
        return "npz"
    return "lines" if _holds_lines(file) else "csv"


def _holds_lines(file: Path) -> bool:
    """Return whether a text file is no table: no separator divides (nearly) all of its first lines alike."""
    if not set(file.suffixes) & {".txt", ".text"}:
        return False
    lines = [line for line in first_lines(file, CsvOptions(encoding=_encoding(file))) if line.strip()]
    alike = max(_shape([fields_of(line, mark) for line in lines])[0] for mark in SEPARATORS) if lines else 0
    return bool(lines) and alike < NEARLY_ALL * len(lines)


def _table(file: Path, kind: str) -> dict[str, Any]:
    csv: dict[str, Any] = _csv_options(file) if kind == "csv" else {}
    options = CsvOptions.model_validate(csv)
    found_names = _csv_names(file, options) if kind == "csv" else _names(file, kind)
    names = [name for name in found_names if len(name) <= LONGEST]
    if not names:
        raise BadDataset(f"its header holds no name of 1 to {LONGEST} characters")
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
    drafted: dict[str, Any] = {"columns": [], "csv": csv, "missing": {}, "dates": {}, "nearly": set()}
    drafted["left_out"] = len(found_names) - len(names)
    for name, found in seen.items():
        drafted["columns"].append(_column(name, found, marks, drafted))
    entry = entry.model_copy(update={"csv": CsvOptions.model_validate(csv)})
    _note_sentinels(entry, seen, drafted)
    return drafted


def _lines(file: Path) -> dict[str, Any]:
    """Return the one column of a file of texts: their words never become categories, which leave the site."""
    encoding = _encoding(file)
    told = {} if encoding == "utf-8" else {"encoding": encoding}
    return {"columns": [{"name": LINE, "type": "text", "notes": [f"each line a text: {ONLY_TEXTS}"]}], "csv": told}


def _column(name: str, seen: _Seen, marks: tuple[str, str], drafted: dict[str, Any]) -> dict[str, Any]:
    """Return a column's entry; what it needs besides is put into `drafted`."""
    known = [text for text in seen.texts if text not in seen.absent and text not in seen.words]
    absent = seen.not_known
    numbers = seen.has_numbers and marks in seen.forms and not seen.too_large
    form = None if numbers or seen.more else date_form(known)
    if absent is not None and (numbers or form):
        if absent:
            drafted["missing"][name] = absent
        if form:
            drafted["dates"][name] = form
        return {"name": name, "type": "number", "notes": _number_notes(seen, known, absent, form)}
    nearly = _nearly(seen, known, marks)
    if nearly:
        drafted["nearly"].add(name)
    if not seen.more and 0 < len(seen.texts) <= MOST_LEVELS:
        odd = [f"{', '.join(sorted(seen.absent))}: a category, or missing?"] if seen.absent else []
        return {
            "name": name,
            "type": "category",
            "categories": sorted(seen.texts),
            "notes": odd + nearly,
        }
    said = EMPTY if not seen.texts else f"{len(seen.texts)}{' or more' * seen.more} different texts"
    large = ["numbers that are larger, or have more digits, than a number column holds"] if seen.too_large else []
    return {
        "name": name,
        "type": "text",
        "notes": [
            f"{said}: {ONLY_TEXTS if seen.texts else 'recipes do not use it'}",
            *large,
            *nearly,
            *_pictures(known),
        ],
    }


def _pictures(known: Sequence[str]) -> list[str]:
    """Return what to do with a column that names files of images."""
    if not known or not all(text.casefold().endswith(SUFFIXES) for text in known):
        return []
    return ["files of images? kind: images reads them, see Folders of images in docs/data.md"]


def _number_notes(seen: _Seen, known: Sequence[str], absent: Sequence[str], form: str | None) -> list[str]:
    notes = []
    if not form and not seen.more and len(known) <= FEW and all(re.fullmatch("[0-9]+", text) for text in known):
        notes.append(f"holds {', '.join(sorted(known, key=int))}: a category?")
    if absent:
        notes.append(f"{', '.join(absent)}: taken for missing, is that right?")
    return notes


def _nearly(seen: _Seen, known: Sequence[str], marks: tuple[str, str]) -> list[str]:
    """Return what keeps a column from being one of numbers, where nearly all its cells are numbers."""
    odd = [text for text in known if not FORMS[marks].fullmatch(text)] + list(seen.words)
    count = sum(seen.texts[text] for text in odd)
    if seen.too_large or not odd or count > RARE * seen.cells:
        return []
    shown = ", ".join(sorted(odd)[:FEW_WORDS]) + (f" and {len(odd) - FEW_WORDS} more" * (len(odd) > FEW_WORDS))
    return [f"numbers but for {shown}: correct these, or list under missing what stands for it, and declare number"]


def _note_sentinels(entry: DatasetEntry, seen: Mapping[str, _Seen], drafted: Mapping[str, Any]) -> None:
    """Note the numbers such as -999 that lie far outside the rest of their column; `drafted` says how it is read.

    Columns that hold nearly only numbers are looked at too: once the other cells are seen to, these would be left.
    """
    dates, nearly = drafted["dates"], drafted["nearly"]
    looked = {c["name"]: c for c in drafted["columns"] if c["type"] == "number" or c["name"] in nearly}
    looked = {name: column for name, column in looked.items() if seen[name].sentinel and name not in dates}
    for name, numbers in _numbers(entry, looked, drafted["missing"], nearly).items():
        looks = np.array([bool(SENTINEL.fullmatch(text_of(value))) for value in numbers.tolist()], bool)
        odd, rest = numbers[looks], numbers[~looks]
        if not rest.size:
            continue
        low, high = rest[0], rest[-1]
        spread = max(high - low, 1.0)
        far = [text_of(n) for n in odd.tolist() if (n < 0 <= low) or low - n > spread or n - high > spread]
        if far:
            listed = ", ".join(far)
            looked[name]["notes"].append(
                f"{listed} far outside the rest ({low:g} to {high:g}): if that stands for not known, "
                f"declare missing: {{{_flow(name)}: [{listed}]}}"
            )


def _numbers(
    entry: DatasetEntry, names: Iterable[str], missing: Mapping[str, Sequence[str]], nearly: Set[str]
) -> dict[str, Floats]:
    """Return the distinct numbers of columns, sorted; of those in `nearly` other cells are left out."""
    decimal, thousands = entry.csv.decimal, entry.csv.thousands
    form = FORMS[decimal, thousands]
    readers = {n: NumberCells(n, missing.get(n, ()), decimal=decimal, thousands=thousands) for n in names}
    read: dict[str, Floats] = {name: np.zeros(0) for name in readers}
    for part in parts(entry, entry.path, list(readers)) if readers else ():
        for name, found in part.cells.items():
            cells = found
            if name in nearly:
                texts = map(cell_of, found.tolist()) if isinstance(found, np.ndarray) else found
                cells = [text for text in texts if form.fullmatch(text.strip())]
            numbers, _ = readers[name].typed(cells) if isinstance(cells, np.ndarray) else readers[name].texts(cells)
            read[name] = np.union1d(read[name], numbers[np.isfinite(numbers)])
    return read


def _marks(columns: Iterable[_Seen]) -> tuple[str, str]:
    """Return the decimal and thousands marks under which most columns hold (nearly) only numbers, usual ones first."""
    counted = Counter(marks for seen in columns if seen.texts for marks in seen.forms or seen.usual_forms())
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


def _names(file: Path, kind: str) -> list[str]:
    if kind != "jsonl":
        return column_names(file)
    with refusals(file):
        return record_names(file)


def _csv_names(file: Path, options: CsvOptions) -> list[str]:
    if options.names:
        return list(options.names)
    with refusals(file), opened(file, options) as text:
        reader = CsvRows(text, options)
        header: list[str] = []
        while reader.line_num < options.header:
            header = next(reader, [])
    return [name.strip() for name in header if name.strip()]


def _npz(file: Path) -> dict[str, Any]:
    names = column_names(file)
    entry = DatasetEntry(name="draft", kind="npz", path=file)
    drafted: dict[str, Any] = {"columns": [], "missing": {}, "dates": {}, "ranges": {}, "nearly": set()}
    seen: dict[str, _Seen] = {}
    for name in names:
        array = _array_of(entry, file, name)
        if array.ndim in (3, 4):
            drafted["columns"].append({"name": name, "type": "image"})
            drafted |= _image_options(name, array, drafted["ranges"])
        else:
            seen[name] = _Seen()
            for piece in _pieces(array):
                seen[name].take(map(cell_of, piece.tolist()))
            drafted["columns"].append(_column(name, seen[name], (".", ""), drafted))
    _note_sentinels(entry, seen, drafted)
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
