"""A first ``datasets.yaml`` entry made from a data file, for the data's owner to read and correct."""

import csv
from pathlib import Path
from typing import Any, Final

from recipes.datasets import BadDataset

MOST_LEVELS: Final = 50  # distinct texts up to which a column is taken for a category


def draft_entry(file: Path, name: str | None = None) -> dict[str, Any]:
    """Return a ``datasets.yaml`` entry for a CSV file; raises `BadDataset`."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.reader(lines, strict=True))
    if not rows:
        raise BadDataset(f"{file} is empty: it needs a header and rows")
    header, body = rows[0], [row for row in rows[1:] if row]
    if any(len(row) != len(header) for row in body):
        raise BadDataset(f"{file} has rows with another number of fields than its header")
    columns = [_column(title, [row[place] for row in body]) for place, title in enumerate(header)]
    return {"name": name or file.stem, "kind": "csv", "path": str(file.resolve()), "columns": columns}


def _column(name: str, cells: list[str]) -> dict[str, Any]:
    known = {cell.strip() for cell in cells} - {""}
    try:
        for cell in known:
            float(cell)
    except ValueError:
        return {"name": name, "type": "category", "categories": sorted(known)[:MOST_LEVELS]}
    return {"name": name, "type": "number"}
