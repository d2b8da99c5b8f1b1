"""Rows made for a recipe that has none yet: columns of the types that it takes, and a label that follows from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from undersong.shared.learning.metrics import MEANS, evaluation_layout, setting
from undersong.shared.wire.profiles import RecipeSpec, Task
from undersong.shared.yaml_texts import dump_document

ROWS: Final = 240
SIDE: Final = 28
NAME: Final = "made"
_WORDS: Final = 6  # of a text
_CAME: Final = 0.7  # of the rows have the event


def made_rows(spec: RecipeSpec, params: Mapping[str, Any], folder: Path) -> Path:
    """Write rows and a ``datasets.yaml`` that declares them into a new folder; return the latter."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    score = random.normal(size=ROWS)
    layout = evaluation_layout(spec, params)
    label, survival = _label(layout, score), layout == Task.SURVIVAL
    inputs = spec.inputs or ()
    if "image" in inputs:
        entry = _images(folder, score, label)
    elif "text" in inputs:
        entry = _texts(folder, score, label, random)
    else:
        entry = _table(folder, score, label, random, setting(spec, params, "event") if survival else None)
    declared = folder / "datasets.yaml"
    declared.write_text(dump_document({"datasets": [{"name": NAME, "label": "label", **entry}]}), encoding="utf-8")
    return declared


def _label(layout: str, score: Any) -> Any:
    if layout in (Task.REGRESSION, Task.SURVIVAL):
        return np.round(1000 + 250 * score, 3)
    unknown = layout == Task.NEXT_TOKEN or layout.startswith(MEANS)
    classes = 2 if layout == Task.BINARY or unknown else int(layout.partition(":")[2])
    return np.argsort(np.argsort(score)) * classes // len(score)


def _table(folder: Path, score: Any, label: Any, random: np.random.Generator, event: str | None) -> dict[str, Any]:
    kind = np.where(score + random.normal(size=ROWS) > 0, "x", "y")
    other = random.normal(50, 10, ROWS)
    lines = [f"{a:.6g},{b:.6g},{c},{d:g}" for a, b, c, d in zip(score, other, kind, label, strict=True)]
    lines[::19] = [line.replace(line.split(",")[1], "", 1) for line in lines[::19]]  # a missing value now and then
    names = ["score", "other", "kind", "label"]
    if event is not None:
        names.append(event)
        lines = [f"{line},{came:d}" for line, came in zip(lines, random.random(ROWS) < _CAME, strict=True)]
    (folder / "rows.csv").write_text(",".join(names) + "\n" + "\n".join(lines) + "\n")
    numbers = [{"name": name, "type": "number"} for name in names if name != "kind"]
    return {
        "kind": "csv",
        "path": "rows.csv",
        "columns": [*numbers, {"name": "kind", "type": "category", "categories": ["x", "y"]}],
    }


def _texts(folder: Path, score: Any, label: Any, random: np.random.Generator) -> dict[str, Any]:
    words = np.where(score[:, None] + random.normal(size=(ROWS, _WORDS)) > 0, "good", "bad")
    lines = [f'{{"text": "{" ".join(said)}", "label": {value:g}}}' for said, value in zip(words, label, strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    columns = [{"name": "text", "type": "text"}, {"name": "label", "type": "number"}]
    return {"kind": "jsonl", "path": "rows.jsonl", "columns": columns}


def _images(folder: Path, score: Any, label: Any) -> dict[str, Any]:
    random = np.random.default_rng(1)
    bright = np.clip(60 + 25 * score, 0, 120)[:, None, None]
    pixels = (bright + random.integers(0, 100, (ROWS, SIDE, SIDE))).astype(np.uint8)
    np.savez(folder / "rows.npz", pixels=pixels, label=label.astype(np.float64))
    columns = [{"name": "pixels", "type": "image"}, {"name": "label", "type": "number"}]
    return {"kind": "npz", "path": "rows.npz", "columns": columns}
