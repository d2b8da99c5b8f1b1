"""A small job of the recipe `slope` and rows for it, for tests of simulations."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from undersong.client.types import Round
from undersong.recipes.protocol import Column, Dataset
from undersong.simulate import Run, simulate

SLOPE = Path(__file__).with_name("slope_recipe.py")
NULL = {"name": "null", "params": {"parameters": 20_000}}
ROWS = 240


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, 3))
    return x, (x @ [1.0, -2.0, 0.5] + random.normal(size=ROWS) > 0).astype(float)


def table() -> Dataset:
    x, y = rows()
    columns = tuple(Column(name=name, type="number") for name in "abc")
    return Dataset("made", columns, x, y, np.arange(180), np.arange(180, ROWS), "ill")


def job(**changes: Any) -> dict[str, Any]:
    return {
        "name": "slopes",
        "model": {"name": "slopes"},
        "recipe": {"name": "slope", "params": {}},
        "data": {"dataset": "made", "label": "ill"},
        "rounds": 5,
        "strategy": {"name": "fedadam"},
    } | changes


def run(document: dict[str, Any], tmp_path: Path, name: str = "run", **conditions: Any) -> Run:
    return simulate(document, table(), out=tmp_path / name, recipes=[SLOPE], **({"workers": 0} | conditions))


def untimed(round_: Round) -> dict[str, Any]:
    return round_.model_dump(exclude={"created_at", "finished_at"})


def write(folder: Path, document: dict[str, Any]) -> list[str]:
    """A job and its data as files; the words of the command."""
    x, y = rows()
    lines = [
        "a,b,c,ill,ward",
        *(f"{','.join(map(str, row))},{label:g},w{at % 4}" for at, (row, label) in enumerate(zip(x, y, strict=True))),
    ]
    (folder / "made.csv").write_text("\n".join(lines) + "\n")
    wards = {"name": "ward", "type": "category", "categories": ["w0", "w1", "w2", "w3"]}
    columns = [*({"name": name, "type": "number"} for name in ("a", "b", "c", "ill")), wards]
    entry = {"name": "made", "kind": "csv", "path": "made.csv", "columns": columns, "label": "ill"}
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [entry]}))
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    data = ["--data", str(folder / "datasets.yaml"), "--recipe", str(SLOPE)]
    return ["simulate", str(folder / "job.yaml"), *data]
