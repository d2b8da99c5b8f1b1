"""The files of data sets, read without guesses: every cell of a CSV file as its text, other kinds as they are typed.

A part of a file is some of its rows: for each wanted column the cells, and the line or row where each was found.
"""

import codecs
import csv
import gzip
import io
import lzma
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.entry import BadDataset, DatasetEntry
from undersong.recipes.hints import LINES, about_header
from undersong.recipes.options import CsvOptions
from undersong.recipes.values import cell_of
from undersong.shared.names import hint

Cells = Sequence[str] | npt.NDArray[Any]
PART_ROWS: Final = 20_000
PART_CELLS: Final = 2_000_000  # a part of a file with very many columns has fewer rows
MOST_NAMED: Final = 50  # columns in a message
MOST_CELL: Final = 16 * 2**20  # characters
MOST_ROW: Final = 32 * 2**20  # characters of a row, and of a line: they are bounded while they are read
PART_CHARACTERS: Final = 64 * 2**20  # a part of a file with very long rows has fewer of them
NPY: Final = b"\x93NUMPY"
FOREIGN: Final = (
    (b"PK\x03\x04", "a zip archive or a workbook (.xlsx): export its sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "a workbook (.xls): export its sheet as CSV"),
    (b"PAR1", "a Parquet file: declare kind: parquet"),
    (NPY, "an array of numpy (.npy): save it as .npz"),
    (b"SQLite format 3", "a database: export its table as CSV"),
)
UNREADABLE: Final = (OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, SyntaxError,
                     zlib.error, lzma.LZMAError, tokenize.TokenError, zipfile.BadZipFile, csv.Error)  # fmt: skip
"""What libraries raise for files that are cut, damaged or of another kind."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Some rows of a file: the wanted columns' cells, and where each row begins (`line 7`, `row 5`)."""

    cells: dict[str, Cells]
    places: Sequence[int]
    unit: str

    def where(self, row: int) -> str:
        """Return where a row of this part is in the file."""
        return f"{self.unit} {self.places[row]}"


@contextmanager
def refusals(path: Path | None) -> Iterator[None]:
    """Say as `BadDataset` what libraries raise for a file that they cannot read."""
    try:
        yield
    except ImportError as error:
        package = error.name or str(error)
        remedy = "install the agent with its packages: pip install 'undersong[agent]'"
        raise BadDataset(f"its file needs the package {package}: {remedy}") from None
    except UNREADABLE as error:
        cut = isinstance(error, EOFError | zlib.error | lzma.LZMAError | zipfile.BadZipFile | gzip.BadGzipFile)
        why = "is cut or damaged" if cut else "cannot be read"
        said = f"{path}: {type(error).__name__}: {getattr(error, 'strerror', None) or error}"
        raise BadDataset(f"its file {why}", said) from error


def csv_parts(entry: DatasetEntry, path: Path, wanted: Sequence[str]) -> Iterator[FilePart]:
    """Yield the rows of a CSV file, each cell as its text."""
    options = entry.csv
    with opened(path, options) as file:
        reader = CsvRows(file, options)
        try:
            header = _header(reader, options, path, wanted)
            takes = {name: header.index(name) for name in wanted}
            yield from _rows(reader, header, takes)
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise BadDataset(
                    "its file ends inside a quoted cell",
                    f"the quote opened at or before line {reader.line_num} is never closed; if {options.quote} "
                    'is an ordinary character there, declare csv: {quote: ""}',
                ) from None
            told = f"line {reader.line_num}: {error}; a quoted cell starts and ends with {options.quote}"
            raise BadDataset("its file has a line that is no CSV", told) from None
        except UnicodeDecodeError as error:
            raise undecodable(path, options, error) from None


class CsvRows:
    """The rows of a CSV file as texts, in the strict form, none longer than `MOST_ROW` characters.

    Raises `BadDataset` for a longer row (or a line, which is not read to its end), and `csv.Error`.
    """

    def __init__(self, file: IO[str], options: CsvOptions) -> None:
        csv.field_size_limit(MOST_CELL)
        self.characters = 0  # read so far
        self._row_began = 0
        self._reader = csv.reader(
            self._lines(file),
            delimiter=options.separator,
            quotechar=options.quote or None,
            quoting=csv.QUOTE_MINIMAL if options.quote else csv.QUOTE_NONE,
            skipinitialspace=options.separator != " ",
            strict=True,
        )

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        self._row_began = self.characters
        return next(self._reader)

    @property
    def line_num(self) -> int:
        """How many lines were read."""
        return self._reader.line_num

    def _lines(self, file: IO[str]) -> Iterator[str]:
        for number, line in bounded_lines(file):
            self.characters += len(line)
            if "\0" in line:
                told = f"line {number} holds a NUL character; if the file is UTF-16, declare csv: {{encoding: utf-16}}"
                raise BadDataset("its file holds what is no text", told)
            if self.characters - self._row_began > MOST_ROW:
                raise _too_long("row", number)
            yield line


def bounded_lines(file: IO[str]) -> Iterator[tuple[int, str]]:
    """Yield each line with its number, from 1; raises `BadDataset` for one longer than `MOST_ROW` characters.

    No more than that is read of it.
    """
    for number, line in enumerate(iter(lambda: file.readline(MOST_ROW + 1), ""), 1):
        if len(line) > MOST_ROW:
            raise _too_long("line", number)
        yield number, line


def _too_long(what: str, number: int) -> BadDataset:
    told = f"line {number}: is it CSV, with the quote character and the ends of lines as declared?"
    return BadDataset(f"its file has a {what} of more than {MOST_ROW:,} characters", told)


def _rows(reader: CsvRows, header: Sequence[str], takes: dict[str, int]) -> Iterator[FilePart]:
    rows: list[list[str]] = []
    lines: list[int] = []
    before, most = reader.line_num, max(1, min(PART_ROWS, PART_CELLS // max(1, len(header))))
    full_at = reader.characters + PART_CHARACTERS
    for row in reader:
        line, before = before + 1, reader.line_num
        if not row:
            continue  # an empty line is no row
        if len(row) != len(header):
            raise _ragged(header, row, line)
        rows.append(row)
        lines.append(line)
        if len(rows) == most or reader.characters > full_at:
            yield _part(rows, lines, takes)
            rows, lines, full_at = [], [], reader.characters + PART_CHARACTERS
    if rows:
        yield _part(rows, lines, takes)


def _part(rows: list[list[str]], lines: list[int], takes: dict[str, int]) -> FilePart:
    columns = list(zip(*rows, strict=True))
    return FilePart({name: columns[place] for name, place in takes.items()}, lines, "line")


def _ragged(header: Sequence[str], row: Sequence[str], line: int) -> BadDataset:
    evidence = [f"line {line} has {len(row)} fields, the header has {len(header)}: {listed(header)}"]
    if len(row) == len(header) + 1 and row[-1] == "":
        evidence.append("the line ends with a separator that the header does not have")
    elif len(row) > len(header):
        evidence.append("a cell that holds the separator must stand between quotes")
    return BadDataset("its file has a row with another number of fields than its header", *evidence)


def _header(reader: CsvRows, options: CsvOptions, path: Path, wanted: Sequence[str]) -> list[str]:
    """Read up to the header and return its names; raises `BadDataset` where they cannot be used."""
    if options.header == 0:
        return list(options.names)
    header: list[str] = []
    while reader.line_num < options.header:
        found = next(reader, None)
        if found is None:
            raise BadDataset(f"its file has no line {options.header} with the names of its columns")
        header = [name.strip() for name in found]
    named = [name for name in header if name]
    if twice := repeated(named):
        raise BadDataset("its header names a column twice", f"{listed(twice)} in {listed(header)}")
    check_columns(wanted, named, about_header(first_lines(path, options), wanted, options.separator))
    return header


def check_columns(wanted: Sequence[str], found: Sequence[str], help_: str = "") -> None:
    """Raise `BadDataset`, with what was found and the likeliest remedy, where wanted columns are not in the file."""
    known = set(found)
    absent = [name for name in wanted if name not in known]
    if absent:
        evidence = [f"the columns found are: {listed(found) or 'none'}{help_}"]
        evidence += [f"{name}{hint(name, found)}" for name in absent[:MOST_NAMED] if not help_]
        raise BadDataset(f"its file has no column {listed(absent)}", *evidence)


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that stand there more than once, sorted."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def listed(names: Sequence[str]) -> str:
    """Return the names with commas, at most `MOST_NAMED` of them."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


@contextmanager
def opened(path: Path, options: CsvOptions) -> Iterator[IO[str]]:
    """Open a CSV file, packed by gzip or not, as text."""
    with path.open("rb") as raw:
        head = raw.read(16)
        raw.seek(0)
        for mark, said in FOREIGN:
            if head.startswith(mark):
                raise BadDataset("its file is no CSV", f"{path} is {said}")
        with gzip.GzipFile(fileobj=raw) if head.startswith(b"\x1f\x8b") else raw as plain:
            unicode = codecs.lookup(options.encoding).name == "utf-8"
            encoding = "utf-8-sig" if unicode else options.encoding  # which reads files without a mark too
            buffered: Any = plain
            with io.TextIOWrapper(buffered, encoding=encoding, errors="strict", newline="") as file:
                yield file


def first_lines(path: Path, options: CsvOptions) -> list[str]:
    """Return the first lines of a CSV file without their ends, as far as they can be decoded; raises `BadDataset`."""
    lines: list[str] = []
    with opened(path, options) as file:
        try:
            lines.extend(line.rstrip("\r\n") for _, line in islice(bounded_lines(file), LINES))
        except UNREADABLE:
            return lines
    return lines


def undecodable(path: Path, options: CsvOptions, error: UnicodeDecodeError) -> BadDataset:
    """Return a refusal that names the encoding which the file probably has."""
    with path.open("rb") as raw:
        head = raw.read(200)
    likely = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-16-le" if b"\0" in head else "cp1252"
    if likely == codecs.lookup(options.encoding).name:
        return BadDataset("its file is cut or damaged", f"{options.encoding}: {error.reason}")
    told = f"{options.encoding} has no byte 0x{error.object[error.start]:02x} there; the likeliest is {likely}"
    return BadDataset("its file is not in the declared encoding", f"{told}: declare csv: {{encoding: {likely}}}")


def parquet_parts(entry: DatasetEntry, path: Path, wanted: Sequence[str]) -> Iterator[FilePart]:
    """Yield the rows of a Parquet file by its own types."""
    from pyarrow import parquet  # at a site that has such files only

    with parquet.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)
        if twice := repeated(names):
            raise BadDataset("its file names a column twice", listed(twice))
        check_columns(wanted, names)
        first = 1
        for batch in file.iter_batches(PART_ROWS, columns=list(wanted)):
            cells = {name: _arrow_cells(entry, name, batch.column(name)) for name in wanted}
            yield FilePart(cells, range(first, first + batch.num_rows), "row")
            first += batch.num_rows


def _arrow_cells(entry: DatasetEntry, name: str, column: Any) -> Cells:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        if name in entry.dates:
            raise BadDataset(f"column {name} holds dates already: take it out of dates")
        stamps = column.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False)
        return _days(stamps.to_numpy(zero_copy_only=False))
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and column.null_count == 0):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    readable = (
        pa.types.is_integer(kind), pa.types.is_boolean(kind), pa.types.is_decimal(kind), pa.types.is_null(kind),
        pa.types.is_string(kind), pa.types.is_large_string(kind), pa.types.is_string_view(kind),
    )  # fmt: skip
    if not any(readable):
        raise BadDataset(f"column {name} is of type {kind} in its file, which cannot be used")
    declared = entry.column(name)
    values = column.to_pylist()
    if declared is not None and declared.type == "number":
        values = [int(value) if isinstance(value, bool) else value for value in values]
    return [cell_of(value) for value in values]


def _days(stamps: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return moments as float64 days since 1970-01-01 (UTC), NaN where there is none."""
    made = stamps.astype("datetime64[us]").astype(np.int64) / 86_400e6
    return np.where(np.isnat(stamps), np.nan, made)


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet or npz file; raises `BadDataset`."""
    with refusals(path):
        if path.suffix == ".npz":
            with path.open("rb") as raw, closing(np.load(raw, allow_pickle=False)) as arrays:
                return list(arrays.files)
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            return list(file.schema_arrow.names)


def npz_parts(entry: DatasetEntry, path: Path, wanted: Sequence[str]) -> Iterator[FilePart]:
    """Yield all rows of the arrays of an npz file."""
    with path.open("rb") as raw:
        if raw.read(len(NPY)) == NPY:
            raise BadDataset("its file is no .npz", f"{path} holds one array (.npy): save it by name with numpy.savez")
    with path.open("rb") as raw, closing(np.load(raw, allow_pickle=False)) as file:
        if twice := repeated(file.files):  # numpy would read the last
            raise BadDataset("its file names an array twice", listed(twice))
        check_columns(wanted, file.files)
        arrays = {name: _array(file, name) for name in wanted}
    yield array_part(entry, arrays, wanted)


def array_part(entry: DatasetEntry, found: Mapping[str, Any], wanted: Sequence[str]) -> FilePart:
    """Return arrays as rows; raises `BadDataset` for other types and shapes, and different numbers of rows."""
    check_columns(wanted, list(found))
    arrays = {name: _texts_or_array(found[name]) for name in wanted}
    if entry.columns and any(array.ndim == 0 for array in arrays.values()):
        raise BadDataset("its file holds a single value where an array of rows is expected")
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise BadDataset("its arrays have different numbers of rows", told)
    rows = next(iter(sizes.values()), 0)
    cells = {name: _array_cells(entry, name, array) for name, array in arrays.items()}
    return FilePart(cells, range(1, rows + 1), "row")


def _texts_or_array(values: Any) -> npt.NDArray[Any]:
    """Return values as an array; texts of any lengths stay objects. Raises `BadDataset` for rows of several shapes, and
    for values that are no array, or are masked.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise BadDataset("its columns hold masked values, whose mask would be lost: give NaN for missing numbers")
    try:
        made = np.asarray(values)
    except ValueError as error:
        raise BadDataset("its columns hold rows of different shapes", str(error)) from None
    except Exception as error:  # noqa: BLE001 (what a recipe returns converts itself, and may raise anything)
        told = f"{type(error).__name__}: {error}"
        raise BadDataset(f"its columns hold {type(values).__name__}, which gives no array", told) from None
    return np.asarray(values, object) if made.dtype.kind == "U" and not isinstance(values, np.ndarray) else made


def _array(file: Any, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(file[name])
    except ValueError as error:
        told = f"array {name}: {error}"
        if "pickle" in str(error) or "Object" in str(error):
            raise BadDataset(f"column {name} holds Python objects (pickle), which are never read", told) from None
        raise


def _array_cells(entry: DatasetEntry, name: str, array: npt.NDArray[Any]) -> Cells:
    declared = entry.column(name)
    if declared is not None and declared.type == "image":
        return array
    if array.ndim != 1:
        shape = "x".join(map(str, array.shape))
        raise BadDataset(f"column {name} is an array of {shape}, and a column of numbers has one value for each row")
    if array.dtype.kind == "M":
        return _days(array)
    if array.dtype == object and all(isinstance(value, str) for value in array):
        return [str(value) for value in array]
    if array.dtype.kind not in "iufbU":
        raise BadDataset(f"column {name} is of type {array.dtype} in its file, which cannot be used")
    return array
