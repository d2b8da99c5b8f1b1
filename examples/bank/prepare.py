"""Bring a copy of the Lending Club loans to this folder: python examples/bank/prepare.py --from lending_club.csv

The file is that of the R package modeldata, written by `write.csv(modeldata::lending_club, "lending_club.csv",
row.names = FALSE)`, packed by gzip or not. It is not carried here.
"""

import argparse
import csv
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

HERE: Final = Path(__file__).resolve().parent
LABEL: Final = "bad"


def columns() -> list[str]:
    """Return the names of the columns that the declaration beside this file has."""
    (entry,) = yaml.safe_load((HERE / "lending-data.yaml").read_text())["datasets"]
    return [column["name"] for column in entry["columns"]]


def rows(source: Path) -> Iterator[dict[str, str]]:
    """Yield the file's rows, with `bad` 1 where R's column Class says so; raises ValueError for another file."""
    packed = source.read_bytes()[:2] == b"\x1f\x8b"
    with gzip.open(source, "rt", newline="") if packed else source.open(newline="") as file:
        for row in csv.DictReader(file):
            made = row if LABEL in row else {**row, LABEL: str(int(row.get("Class") == LABEL))}
            if missing := [name for name in columns() if name not in made]:
                raise ValueError(f"{source} has no column {missing[0]}: it is not modeldata's lending_club")
            yield {name: made[name] for name in columns()}


def prepare(source: Path, folder: Path = HERE) -> int:
    """Write `lending_club.csv.gz` to the folder and return how many rows it has."""
    found = list(rows(source))
    with gzip.open(folder / "lending_club.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, columns())
        writer.writeheader()
        writer.writerows(found)
    return len(found)


def main() -> None:
    """Copy the file that the command line names."""
    parser = argparse.ArgumentParser(description="Bring a copy of the Lending Club loans to this folder.")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="the CSV file, packed by gzip or not")
    try:
        count = prepare(parser.parse_args().source)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{count} loans: {HERE / 'lending_club.csv.gz'}\n")


if __name__ == "__main__":
    main()
