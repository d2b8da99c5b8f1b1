"""Reads the rows of a data set's file by the kind that it is declared to be."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from undersong.recipes.entry import BadDataset, DatasetEntry
from undersong.recipes.files import FilePart, csv_parts, npz_parts, parquet_parts, refusals
from undersong.recipes.pictures import folder_parts
from undersong.recipes.records import jsonl_parts, text_parts


def parts(entry: DatasetEntry, path: Path | None, wanted: Sequence[str]) -> Iterator[FilePart]:
    """Yield the rows of a data set's file; raises `BadDataset` for a file that cannot be read to its end."""
    with refusals(path):
        if entry.kind == "sql" and (path is None or not path.exists()):
            raise BadDataset("the rows of its query are not there", "the site's agent takes them; its log says why not")
        if path is None or not path.is_file():
            said = "is no file" if path is not None and path.exists() else "does not exist"
            raise BadDataset("its file is not there", f"there is no file {path}: it {said}")
        yield from _READERS[entry.kind](entry, path, wanted)


_READERS: Final = {
    "csv": csv_parts, "jsonl": jsonl_parts, "lines": text_parts, "parquet": parquet_parts, "npz": npz_parts,
    "images": folder_parts,
    "sql": parquet_parts,  # the agent's snapshot
}  # fmt: skip
