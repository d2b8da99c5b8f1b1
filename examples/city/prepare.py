"""Write `parking.csv.gz` anew from the file of UCI: python examples/city/prepare.py --from dataset.csv

A car park's occupancy rate is occupancy over capacity, clipped to 0..1; its moments are rounded to half hours, and each
is kept once. Two car parks with too few records are left out.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Final

import pandas as pd

HERE: Final = Path(__file__).resolve().parent
SHORT: Final = ("BHMBRTARC01", "NIA North")  # 88 and 162 records, where others have about 1,300
NAMES: Final = {"SystemCodeNumber": "car_park", "LastUpdated": "time", "Capacity": "capacity", "Occupancy": "occupancy"}


def prepared(records: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the declaration beside this file; raises ValueError for another file."""
    records = records.rename(columns=NAMES)
    if missing := [name for name in NAMES.values() if name not in records]:
        raise ValueError(f"there is no column {missing[0]}: it is not UCI's file of Birmingham's car parks")
    records = records[~records.car_park.isin(SHORT)]
    at = pd.to_datetime(records.time).dt.round("30min")
    rate = (records.occupancy / records.capacity).clip(0, 1)
    turn = (at.dt.hour + at.dt.minute / 60) / 24 * 2 * math.pi
    made = pd.DataFrame({"car_park": records.car_park, "at": at.dt.strftime("%Y-%m-%d %H:%M"), "rate": rate.round(5)})
    for place in (1, 2):
        made[f"sine_{place}"] = turn.map(lambda value, place=place: math.sin(place * value)).round(4)
        made[f"cosine_{place}"] = turn.map(lambda value, place=place: math.cos(place * value)).round(4)
    made["weekend"] = (at.dt.day_of_week >= 5).astype(int)
    return made.drop_duplicates(["car_park", "at"]).sort_values(["car_park", "at"])


def main() -> None:
    """Prepare the file that the command line names."""
    parser = argparse.ArgumentParser(description="Write parking.csv.gz anew from the file of UCI.")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="the CSV file, packed by gzip or not")
    try:
        made = prepared(pd.read_csv(parser.parse_args().source))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    made.to_csv(HERE / "parking.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    sys.stdout.write(f"{len(made)} records of {made.car_park.nunique()} car parks: {HERE / 'parking.csv.gz'}\n")


if __name__ == "__main__":
    main()
