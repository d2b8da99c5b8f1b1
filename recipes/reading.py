"""Reads the rows of a data set's file by the kind that it is declared to be."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from undersong.recipes.entry import BadDataset, DatasetEntry
from undersong.recipes.files import FilePart, array_part, csv_parts, npz_parts, parquet_parts, refusals
from undersong.recipes.pictures import folder_parts
from undersong.recipes.records import jsonl_parts, text_parts

Loader = Callable[[Path, list[str]], Mapping[str, Any]]
"""A recipe's own `load`: from the path and the names of wanted columns to an array of values for each, [rows, …]."""


def parts(
    entry: DatasetEntry, path: Path | None, wanted: Sequence[str], load: Loader | None = None
) -> Iterator[FilePart]:
    """Yield the rows of a data set's file; raises `BadDataset` for a file that cannot be read to its end.

    load: what reads a data set of kind own.
    """
    if entry.kind == "own":
        yield _loaded(entry, path, wanted, load)
        return
    with refusals(path):
        if entry.kind == "sql" and (path is None or not path.exists()):
            raise BadDataset("the rows of its query are not there", "the site's agent takes them; its log says why not")
        if path is None or not path.is_file():
            said = "is no file" if path is not None and path.exists() else "does not exist"
            raise BadDataset("its file is not there", f"there is no file {path}: it {said}")
        yield from _READERS[entry.kind](entry, path, wanted)


def _loaded(entry: DatasetEntry, path: Path | None, wanted: Sequence[str], load: Loader | None) -> FilePart:
    """Return what a recipe's own `load` makes of the file or folder, checked as any other columns are."""
    if load is None:
        raise BadDataset("its file is read by a recipe's own load, and this recipe has none")
    if path is None or not path.exists():
        raise BadDataset("its file is not there", f"there is no {path}")
    if not (path.is_file() or path.is_dir()):
        raise BadDataset("its path leads to no file and no folder", f"{path} is a pipe or a device")
    try:
        made = load(path, list(wanted))
    except BadDataset:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise BadDataset(f"the recipe's load failed with {type(error).__name__}", told) from error
    if not isinstance(made, Mapping):
        said = f"the recipe's load returned {type(made).__name__}"
        raise BadDataset(f"{said}, and a mapping from columns' names to arrays is needed")
    return array_part(entry, {str(name): values for name, values in made.items()}, wanted)


_READERS: Final = {
    "csv": csv_parts, "jsonl": jsonl_parts, "lines": text_parts, "parquet": parquet_parts, "npz": npz_parts,
    "images": folder_parts,
    "sql": parquet_parts,  # the agent's snapshot
}  # fmt: skip
