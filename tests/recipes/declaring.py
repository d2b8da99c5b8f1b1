"""Data sets of one entry, declared in a folder, and what is said of those that cannot be read."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from undersong.recipes.datasets import BadDataset, describe_dataset, load_dataset, read_datasets

Y = {"name": "y", "type": "number"}


def declared(folder: Path, columns: list[dict[str, Any]], **entry: Any) -> Any:
    """The entry `d` of a datasets.yaml in the folder."""
    document = {"name": "d", "kind": "csv", "path": "data.csv", "columns": columns, "test_fraction": 0, **entry}
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [document]}))
    return read_datasets(folder / "datasets.yaml")["d"]


def refused(entry: Any) -> BadDataset:
    with pytest.raises(BadDataset) as caught:
        describe_dataset(entry)
    with pytest.raises(BadDataset) as again:
        load_dataset(entry)
    assert again.value.explain() == caught.value.explain(), "a job is told what the description is told"
    assert caught.value.detail.startswith("data set d: ")
    return caught.value
