"""Rows made for a recipe that has none yet: columns of the types that it takes, and a label that follows from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from undersong.shared.learning.metrics import MEANS, evaluation_layout
from undersong.shared.wire.profiles import RecipeSpec, Task
from undersong.shared.yaml_texts import dump_document

ROWS: Final = 240
SIDE: Final = 28
NAME: Final = "made"
_WORDS: Final = 6  # of a text


def made_rows(spec: RecipeSpec, params: Mapping[str, Any], folder: Path) -> Path:
    """Write rows and a ``datasets.yaml`` that declares them into a new folder; return the latter."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    score = random.normal(size=ROWS)
    label = _label(evaluation_layout(spec, params), score)
    inputs = spec.inputs or ()
    if "image" in inputs:
        entry = _images(folder, score, label)
    elif "text" in inputs:
        entry = _texts(folder, score, label, random)
    else:
        entry = _table(folder, score, label, random)
    declared = folder / "datasets.yaml"
    declared.write_text(dump_document({"datasets": [{"name": NAME, "label": "label", **entry}]}), encoding="utf-8")
    return declared


def _label(layout: str, score: Any) -> Any:
    if layout == Task.REGRESSION:
        return np.round(1000 + 250 * score, 3)
    classes = 2 if layout == Task.BINARY or layout.startswith(MEANS) else int(layout.partition(":")[2])
    return np.argsort(np.argsort(score)) * classes // len(score)


def _table(folder: Path, score: Any, label: Any, random: np.random.Generator) -> dict[str, Any]:
    kind = np.where(score + random.normal(size=ROWS) > 0, "x", "y")
    other = random.normal(50, 10, ROWS)
    lines = [f"{a:.6g},{b:.6g},{c},{d:g}" for a, b, c, d in zip(score, other, kind, label, strict=True)]
    lines[::19] = [line.replace(line.split(",")[1], "", 1) for line in lines[::19]]  # a missing value now and then
    (folder / "rows.csv").write_text("score,other,kind,label\n" + "\n".join(lines) + "\n")
    numbers = [{"name": name, "type": "number"} for name in ("score", "other", "label")]
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
