"""What a site declares of its data sets in ``datasets.yaml``; every option is described in docs/data.md.

Every scalar of the file is read as the text written there: YAML's own guesses (`no` is false, `1.0` is a number,
`null` is nothing) are never made. Fields turn it into what they are declared to be, and each name that refers to a
column or a level is resolved. What leaves a site of it is listed in docs/data.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from undersong.recipes.checks import Fault, entry_faults
from undersong.recipes.entry import NUMBER, BadDataset, ColumnEntry, DatasetEntry
from undersong.shared.documents import document_faults, pointer
from undersong.shared.errors import FieldError
from undersong.shared.files import read_text
from undersong.shared.names import hint
from undersong.shared.yaml_texts import NOTHING, NotYaml, load_texts

__all__ = [
    "NUMBER",
    "BadDataset",
    "ColumnEntry",
    "DatasetEntry",
    "Declarations",
    "movable_document",
    "read_declarations",
]


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
        found = (*entry_faults(entry), *_same_files(_placed(entry, folder)))
        faults = [FieldError(pointer([*at, *path]), text) for path, text in found]
    except ValidationError as error:
        entry, faults = None, document_faults(error, DatasetEntry, at)
    if name in made.entries or name in made.faults:
        made.entries.pop(name, None)
        made.faults.setdefault(name, []).append(FieldError(pointer([*at, "name"]), f"the name {name} is used twice"))
    elif entry is None or faults:
        made.faults[name] = faults
    else:
        made.entries[name] = _placed(entry, folder)


def _same_files(entry: DatasetEntry) -> Iterator[Fault]:
    """Yield files that are one, so that rows for the test would be trained on, or rows of the site be shown as mock."""
    named: list[tuple[tuple[str, ...], Path]] = [(("path",), entry.path)] if entry.path is not None else []
    named += [(("split", f"{part}_file"), file) for part, file in entry.split.files.items()]
    named += [(("mock",), entry.mock)] if entry.mock is not None else []
    for (first, one), (second, other) in combinations(named, 2):
        if _is_same(one, other):
            yield second, f"{second[-1]} and {first[-1]} are the same file: give one of other rows"


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except (OSError, ValueError):  # it is not there, which is said when it is read
        return False


def _placed(entry: DatasetEntry, folder: Path) -> DatasetEntry:
    """Return the entry with absolute paths."""
    paths: dict[str, Any] = {
        part: folder / value for part in ("path", "mock") if (value := getattr(entry, part)) is not None
    }
    others = {f"{part}_file": folder / value for part, value in entry.split.files.items()}
    if entry.images is not None:
        paths["images"] = entry.images.model_copy(update={"folder": folder / entry.images.folder})
    if entry.sql is not None:
        paths["sql"] = entry.sql.model_copy(update={"url_file": folder / entry.sql.url_file})
    return entry.model_copy(update={**paths, "split": entry.split.model_copy(update=others)})


def movable_document(entries: Mapping[str, DatasetEntry]) -> dict[str, Any]:
    """Return entries as a document with absolute paths, to be written elsewhere."""
    return {"datasets": [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries.values()]}
