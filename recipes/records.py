"""Files of one record a line: JSON objects (jsonl), or plain texts (lines), packed by gzip or not."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from undersong.recipes.entry import BadDataset, DatasetEntry
from undersong.recipes.files import (
    PART_CHARACTERS,
    PART_ROWS,
    FilePart,
    bounded_lines,
    check_columns,
    listed,
    opened,
    undecodable,
)
from undersong.recipes.options import CsvOptions

LINE: Final = "text"
"""The one column of a file of plain lines."""


def jsonl_parts(entry: DatasetEntry, path: Path, wanted: Sequence[str]) -> Iterator[FilePart]:
    """Yield the rows of a file with a JSON object in each line; a key that is left out, and null, are missing."""
    known = frozenset(wanted)
    names: dict[str, None] = {}

    def record(number: int, line: str) -> dict[str, str]:
        found = _object(line, number)
        if len(names) < PART_ROWS:
            names.update(dict.fromkeys(found))
        return {name: _cell(value, name, number) for name, value in found.items() if name in known}

    for part in _parts(entry, path, wanted, record):
        check_columns([name for name in wanted if name not in names], list(names))
        yield part


def text_parts(entry: DatasetEntry, path: Path, wanted: Sequence[str]) -> Iterator[FilePart]:
    """Yield the lines of a file, each as the one column `text`; empty lines are no rows."""
    check_columns(wanted, [LINE], f"; a file of plain lines has the one column {LINE}")
    yield from _parts(entry, path, wanted, lambda _, line: {LINE: line})


def _parts(entry: DatasetEntry, path: Path, wanted: Sequence[str], record: Any) -> Iterator[FilePart]:
    rows: list[dict[str, str]] = []
    places: list[int] = []
    size = 0
    with opened(path, entry.csv) as file:
        try:
            for number, line in bounded_lines(file):
                text = line.rstrip("\r\n")
                if "\0" in text:
                    raise BadDataset("its file holds what is no text", f"line {number} holds a NUL character")
                if not text.strip():
                    continue
                rows.append(record(number, text))
                places.append(number)
                size += len(text)
                if len(rows) == PART_ROWS or size > PART_CHARACTERS:
                    yield _part(rows, places, wanted)
                    rows, places, size = [], [], 0
        except UnicodeDecodeError as error:
            raise undecodable(path, entry.csv, error) from None
    if rows:
        yield _part(rows, places, wanted)


def _part(rows: list[dict[str, str]], places: list[int], wanted: Sequence[str]) -> FilePart:
    return FilePart({name: [row.get(name, "") for row in rows] for name in wanted}, places, "line")


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=str)
    except (ValueError, RecursionError) as error:
        said = error.args[0] if isinstance(error, _Twice) else "is no JSON"
        raise BadDataset("its file has a line that is no JSON object", f"line {number}: {said}") from None
    if not isinstance(found, dict):
        raise BadDataset("its file has a line that is no JSON object", f"line {number} is another value")
    return found


class _Twice(ValueError):
    """A JSON object names a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"names {listed(sorted({n for n in names if names.count(n) > 1}))} twice")
    return found


def _no_constant(text: str) -> None:
    raise _Twice(f"holds {text}, which is no JSON")


def _cell(value: Any, name: str, number: int) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    told = f"line {number}, column {name}: a list or an object; write each value under a name of its own"
    raise BadDataset(f"column {name} holds a list or an object, which cannot be used", told)


def record_names(path: Path) -> list[str]:
    """Return the keys of a file's JSON objects, in the order in which they come; raises `BadDataset`."""
    names: dict[str, None] = {}
    with opened(path, CsvOptions()) as file:
        for number, line in bounded_lines(file):
            if line.strip():
                names.update(dict.fromkeys(_object(line, number)))
    return list(names)
