"""The hospital example's data and yardsticks: the same recipe on pooled records and at each hospital alone.

Run as a script it prints the table: python examples/hospital/compare.py [federated.safetensors]
"""

import csv
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from undersong.recipes.catalogue import load_recipe
from undersong.recipes.datasets import load_dataset, movable_document, read_datasets
from undersong.recipes.protocol import Dataset, Tensors
from undersong.recipes.reference import compare as compare_models
from undersong.shared.learning.tensors import load

HERE: Final = Path(__file__).resolve().parent
HOSPITALS: Final = ("cleveland", "hungarian", "switzerland", "va")


class Row(NamedTuple):
    """One line of the table: how well a model does on records that no training saw."""

    name: str
    accuracy: float
    auc: float


def write_site(hospital: str, folder: Path) -> dict[str, Any]:
    """Write one hospital's rows, and no other's, to `folder` and return the document of its datasets.yaml."""
    document = movable_document(HERE / "datasets" / f"{hospital}.yaml")
    (entry,) = document["datasets"]
    folder.mkdir(parents=True, exist_ok=True)
    with (
        Path(entry["path"]).open(newline="") as everything,
        (folder / "heart_disease.csv").open("w", newline="") as own,
    ):
        records = csv.DictReader(everything)
        writer = csv.DictWriter(own, records.fieldnames or ())
        writer.writeheader()
        writer.writerows(record for record in records if record["site"] == hospital)
    entry["path"] = str(folder.resolve() / "heart_disease.csv")
    return document


def site_data() -> dict[str, Dataset]:
    """Return every hospital's rows as the job names them, split as its agent splits them."""
    data = job()["data"]
    found = {name: read_datasets(HERE / "datasets" / f"{name}.yaml") for name in HOSPITALS}
    return {name: load_dataset(found[name][data["dataset"]], data["features"], data["label"]) for name in HOSPITALS}


def job() -> dict[str, Any]:
    """Return the job document."""
    document = yaml.safe_load((HERE / "job.yaml").read_text())
    if not isinstance(document, dict):
        raise TypeError("job.yaml holds no mapping")
    return document


def compare(federated: Path | None = None) -> list[Row]:
    """Return the table's rows: the federated model of this file (if given), the pooled one, each hospital's own."""
    spec = job()
    recipe, params, rounds = load_recipe(spec["recipe"]["name"]), spec["recipe"]["params"], int(spec["rounds"])
    tensors: Tensors | None = load(federated.read_bytes()).tensors if federated else None
    scores = compare_models(recipe, site_data(), params, rounds=rounds, federated=tensors)
    titles = {"federated": "federated", "pooled": "pooled (all records in one place)"}
    return [Row(titles.get(name, f"{name} alone"), row["accuracy"], row["auc"]) for name, row in scores.items()]


def main() -> None:
    """Print the table."""
    rows = compare(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    width = max(len(row.name) for row in rows)
    lines = [f"{'model':{width}}  accuracy    AUC"]
    lines += [f"{row.name:{width}}     {row.accuracy:.3f}  {row.auc:.3f}" for row in rows]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
