"""Bring traffic or electricity to this folder: python examples/city/open_data.py traffic --from los_speed.csv

Neither file is carried here. `traffic`: los_speed.csv of the repository lehaifeng/T-GCN, speeds of 207 sensors every
five minutes from 1 to 7 March 2012, or an npz file with `speed` and `sensor`. `electricity`: the file that R writes by
`write.csv(as.data.frame(fpp2::elecdemand), "elecdemand.csv", row.names = FALSE)`, half hours of 2014 in Victoria, or
the same with the columns time, demand_gw, workday and temp_c.
"""

import argparse
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

HERE: Final = Path(__file__).resolve().parent
FORM: Final = "%Y-%m-%d %H:%M"
SENSORS: Final = (2016, 207)
HALF_HOURS: Final = 17_520
NAMES: Final = {"demand": "demand_gw", "workday": "workday", "temperature": "temp_c"}
SERIES: Final = ("demand_gw", "workday", "temp_c")


def traffic(source: Path) -> pd.DataFrame:
    """Return a row for each sensor and moment; raises ValueError for another file, OSError."""
    if zipfile.is_zipfile(source):
        with np.load(source, allow_pickle=False) as opened:
            if missing := [name for name in ("speed", "sensor") if name not in opened]:
                raise ValueError(f"{source} has no array {missing[0]}: it is not METR-LA's week")
            wide = pd.DataFrame(opened["speed"], columns=opened["sensor"].astype(str))
    else:
        wide = pd.read_csv(source)
    if wide.shape != SENSORS or not all(kind.kind in "fiu" for kind in wide.dtypes):
        raise ValueError(f"{source} has {wide.shape[0]} rows of {wide.shape[1]} columns: it is not METR-LA's week")
    wide.index = pd.Index(pd.date_range("2012-03-01", periods=len(wide), freq="5min").strftime(FORM), name="at")
    long = wide.melt(var_name="sensor", value_name="speed", ignore_index=False).reset_index()
    return long.assign(speed=long.speed.astype(float).round(3))[["sensor", "at", "speed"]]


def electricity(source: Path) -> pd.DataFrame:
    """Return a row for each half hour, with the month; raises ValueError for another file, OSError."""
    found = pd.read_csv(source)
    found = found.rename(columns={name: NAMES.get(name.lower(), name) for name in found})
    if missing := [name for name in SERIES if name not in found]:
        raise ValueError(f"{source} has no column {missing[0]}: it is not fpp2's elecdemand")
    if len(found) != HALF_HOURS:
        raise ValueError(f"{source} has {len(found)} rows, and the half hours of 2014 are {HALF_HOURS}")
    at = pd.date_range("2014-01-01", periods=len(found), freq="30min")
    return found[list(SERIES)].assign(at=at.strftime(FORM), month=at.month)[["at", *SERIES, "month"]]


SETS: Final[Mapping[str, Callable[[Path], pd.DataFrame]]] = {"traffic": traffic, "electricity": electricity}


def write(name: str, source: Path, folder: Path = HERE) -> Path:
    """Write the file that the declaration of this name reads; raises ValueError for another file, OSError."""
    path = folder / f"{name}.csv.gz"
    SETS[name](source).to_csv(path, index=False, compression={"method": "gzip", "mtime": 0})
    return path


def main() -> None:
    """Prepare the file that the command line names."""
    parser = argparse.ArgumentParser(description="Bring a series that is not carried here to this folder.")
    parser.add_argument("name", choices=list(SETS))
    parser.add_argument("--from", dest="source", type=Path, required=True, help="the file, packed by gzip or not")
    given = parser.parse_args()
    try:
        path = write(given.name, given.source)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
