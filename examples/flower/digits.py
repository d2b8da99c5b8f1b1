"""Write scikit-learn's digits as the rows of four sites: `python digits.py FOLDER`.

The rows of a site are those that the apps take under Flower as one of the partitions 0 to 3 of 4.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

SITES = ("north", "south", "east", "west")


def main(folder: Path) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    names = [f"p{at}" for at in range(64)]
    columns = "".join(f"      - {{name: {name}, type: number}}\n" for name in [*names, "digit"])
    for at, site in enumerate(SITES):
        mine = order[at :: len(SITES)]
        table = np.column_stack([x[mine], y[mine]])
        np.savetxt(folder / f"{site}.csv", table, "%g", ",", header=",".join([*names, "digit"]), comments="")
        entry = f"  - name: digits\n    kind: csv\n    path: {site}.csv\n    label: digit\n    columns:\n{columns}"
        (folder / f"{site}.yaml").write_text(f"datasets:\n{entry}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "sites"))
