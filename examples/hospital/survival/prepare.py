"""Bring two cohorts of breast cancer to this folder: python examples/hospital/survival/prepare.py [--from PATH]

They are the data sets rotterdam and gbsg of the R package survival, which are not carried here. Without `--from` they
are fetched from Rdatasets. PATH is a folder with rotterdam.csv and gbsg.csv as R's write.csv writes them, or one file
of both with the columns of the declaration beside this file, packed by gzip or not.

The time is that to recurrence or death, as the manual of the package recommends: a death after the follow-up for
recurrence had ended (of 43 patients in Rotterdam) is cut short where that ended. In which hospital a patient was is not
published: those of Rotterdam are dealt in turn to three sites, those of the German study are the fourth.
"""

import argparse
import io
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

HERE: Final = Path(__file__).resolve().parent
FILE: Final = "cohorts.csv.gz"
RDATASETS: Final = "https://vincentarelbundock.github.io/Rdatasets/csv/survival/"
PUBLISHED: Final = {"rotterdam": (2982, 1670), "gbsg": (686, 299)}
"""Patients of each cohort, and how many had a recurrence or died."""
COUNTS: Final = ("nodes", "pgr", "er")
SITES: Final = ("rotterdam-1", "rotterdam-2", "rotterdam-3", "gbsg")
COLUMNS: Final = ("site", "age", "meno", "size", "grade", *COUNTS, "hormon", "time", "event")
SIZES: Final = {"<=20": 0, "20-50": 1, ">50": 2}
SECONDS: Final = 60.0


def cohorts(source: Path | None) -> pd.DataFrame:
    """Return the rows of both cohorts, with the cohort as `site`; raises ValueError for other files, OSError."""
    if source is not None and source.is_file():
        found = pd.read_csv(source)
    else:
        tables = {name: pd.read_csv(_fetched(name) if source is None else source / f"{name}.csv") for name in PUBLISHED}
        found = pd.concat([rotterdam(tables["rotterdam"]), gbsg(tables["gbsg"])])
    _check_columns(found, COLUMNS)
    return found[list(COLUMNS)]


def rotterdam(table: pd.DataFrame) -> pd.DataFrame:
    """Return R's rotterdam with the columns of the declaration."""
    _check_columns(table, ("size", "recur", "rtime", "death", "dtime"))
    recurred, late = table.recur == 1, (table.recur == 0) & (table.death == 1) & (table.rtime < table.dtime)
    time = np.where(recurred | late, table.rtime, table.dtime)
    event = (recurred | ((table.death == 1) & ~late)).astype(int)
    return table.assign(site="rotterdam", size=table["size"].map(SIZES), time=time, event=event)


def gbsg(table: pd.DataFrame) -> pd.DataFrame:
    """Return R's gbsg with the columns of the declaration; sizes are in millimetres there."""
    _check_columns(table, ("size", "rfstime", "status"))
    size = np.digitize(table["size"], [20, 50], right=True)
    return table.assign(site="gbsg", size=size, time=table.rfstime, event=table.status)


def check_published(rows: pd.DataFrame, wanted: Mapping[str, tuple[int, int]] = PUBLISHED) -> None:
    """Raise ValueError unless each cohort has as many patients and events as are published."""
    for name, (patients, events) in wanted.items():
        own = rows[rows.site == name]
        if (len(own), int(own.event.sum())) != (patients, events):
            raise ValueError(
                f"{name} has {len(own)} patients with {int(own.event.sum())} events, and {patients} with {events} are "
                "published: it is another file"
            )


def write(rows: pd.DataFrame, folder: Path = HERE) -> Path:
    """Write the file that the declaration names, with the logarithm of 1 + count in place of long-tailed counts."""
    made = rows.assign(**{name: np.log1p(rows[name]).round(5) for name in COUNTS})
    dealt = made.groupby("site").cumcount() % 3 + 1
    made["site"] = np.where(made.site == "gbsg", "gbsg", "rotterdam-" + dealt.astype(str))
    path = folder / FILE
    made.to_csv(path, index=False, compression={"method": "gzip", "mtime": 0})
    return path


def _check_columns(table: pd.DataFrame, names: tuple[str, ...]) -> None:
    if missing := [name for name in names if name not in table]:
        raise ValueError(f"there is no column {missing[0]}: it is not a cohort of R's package survival")


def _fetched(name: str) -> io.BytesIO:
    with urllib.request.urlopen(f"{RDATASETS}{name}.csv", timeout=SECONDS) as answer:  # noqa: S310 (https)
        return io.BytesIO(answer.read())


def main() -> None:
    """Prepare the files that the command line names."""
    parser = argparse.ArgumentParser(description="Bring two cohorts of breast cancer to this folder.")
    parser.add_argument("--from", dest="source", type=Path, help="a folder with both CSV files, or one file of both")
    try:
        rows = cohorts(parser.parse_args().source)
        check_published(rows)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{len(rows)} patients: {write(rows)}\n")


if __name__ == "__main__":
    main()
