"""Exports of versions: onnxruntime and torch.export compute what the platform predicts, from a person's own rows."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml

from tests.effort import also
from tests.recipes.test_prediction import LABEL, about, rows_of
from tests.recipes.test_tabular import made, trained
from tests.undersong.client.test_loaded import loaded_of
from undersong.client.loaded import LoadedModel
from undersong.errors import UndersongError
from undersong.model_export import CLOSE, export_model, run_onnx
from undersong.recipes import text, trees
from undersong.recipes.prediction import Predictor, predictor_of
from undersong.recipes.protocol import Dataset
from undersong.recipes.tabular import RECIPE
from undersong.shared.learning.tensors import Model, save
from undersong.shared.wire.columns import Column
from undersong.shared.wire.manifest import RecipeRef
from undersong.shared.wire.profiles import Task

CASES: dict[str, dict[str, Any]] = {
    "binary": {},
    "multiclass by a network": {"task": "multiclass", "classes": 3, "model": "mlp", "normalisation": "batch"},
    "regression in intervals": {"task": "regression", "model": "mlp", "normalisation": "group", "bins": 4},
    "trees": {"task": "binary", "depth": 2},
    "trees of three classes": {"task": "multiclass", "classes": 3, "depth": 2},
    "trees that predict numbers": {"task": "regression", "depth": 3},
}
USUAL = ("trees",)


def version(name: str, columns: tuple[Column, ...] | None = None) -> tuple[LoadedModel, Dataset]:
    """A model of this case that was trained here, as `load` gives it."""
    params = CASES[name]
    task = params.get("task", "binary")
    data = made(task=task) if columns is None else made(task=task, columns=columns)
    recipe: Any = trees.RECIPE if name.startswith("trees") else RECIPE
    if recipe is RECIPE:
        schema, tensors = trained(data, params, rounds=1)
        content = save(Model(schema, tensors))
    else:
        content = save(recipe.grow(data, params, 2))
    ref = RecipeRef(name=recipe.spec.name, digest=recipe.spec.digest, params=params)
    label = LABEL if task == "multiclass" else LABEL.model_copy(update={"categories": ("no", "yes")})
    return loaded_of(predictor_of(content, ref, about(data, label)), data), data


def feeds(model: LoadedModel, rows: dict[str, Any]) -> dict[str, np.ndarray]:
    """Rows as a graph of one input for each column takes them."""
    kinds = {column.name: object if column.type == "category" else np.float64 for column in model.columns}
    absent = {name: "" if kind is object else np.nan for name, kind in kinds.items()}
    return {
        name: np.array([[absent[name] if value is None else value] for value in values], kinds[name])
        for name, values in rows.items()
    }


def expected(model: LoadedModel, rows: dict[str, Any]) -> np.ndarray:
    said = model.predictor.scores(rows)
    return np.stack([1 - said, said], axis=1) if model.task == "binary" else said


@pytest.mark.parametrize("name", [*USUAL, *also(*(name for name in CASES if name not in USUAL))])
def test_graphs_predict_what_the_platform_does(name: str, tmp_path: Path) -> None:
    model, data = version(name)
    rows = rows_of(data)
    export_model(model, "onnx", tmp_path / "model.onnx")
    said, found = expected(model, rows), run_onnx(tmp_path / "model.onnx", feeds(model, rows))
    assert np.isnan(data.features[data.test]).any()
    assert np.abs(found - said).max() <= CLOSE
    told = {prop.key: prop.value for prop in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert (told["version_id"], json.loads(told["classes"])) == ("ver_1", list(model.classes))
    export_model(model, "torch", tmp_path / "model.pt2")
    extra = {"undersong.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    with torch.no_grad():
        assert np.abs(program(torch.from_numpy(data.features[data.test])).numpy() - said).max() <= CLOSE
    assert [column["name"] for column in json.loads(extra["undersong.json"])["columns"]] == ["a", "b", "c"]


def test_a_row_that_the_platform_refuses_has_no_answer_and_the_others_have(tmp_path: Path) -> None:
    """Also with columns whose names are those of tensors inside."""
    names = (("probabilities", "number"), ("mean", "number"), ("columns", "category"))
    texts = {"category": ("x", "y", "z")}
    model, _ = version("binary", tuple(Column(name=n, type=kind, categories=texts.get(kind)) for n, kind in names))  # type: ignore[arg-type]
    export_model(model, "mlflow", tmp_path / "folder")
    rows = {"probabilities": [40.0, np.inf, 40.0, None], "mean": [-3.0] * 4, "columns": ["x", "x", "purple", None]}
    found = run_onnx(tmp_path / "folder" / "model.onnx", feeds(model, rows))
    assert np.isnan(found).any(axis=1).tolist() == [False, True, True, False]
    kept = {name: [values[0], values[3]] for name, values in rows.items()}
    assert np.abs(found[[0, 3]] - expected(model, kept)).max() <= CLOSE
    described = yaml.safe_load((tmp_path / "folder" / "MLmodel").read_text())
    assert [each["name"] for each in json.loads(described["signature"]["inputs"])] == list(rows)


def test_what_cannot_be_exported_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = version("binary")
    core, _, shape = RECIPE.module_of(model.predictor.tensors, model.predictor.params)
    texts = LoadedModel("ver_1", "fed_1", "", (), Predictor(text.RECIPE, {}, {}, Task.BINARY), [])
    with pytest.raises(UndersongError, match=r"ver_1 cannot be exported: recipe text has no such form: what can be"):
        export_model(texts, "onnx", tmp_path / "x")
    (tmp_path / "there").touch()
    with pytest.raises(UndersongError, match="there exists"):
        export_model(model, "torch", tmp_path / "there")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UndersongError, match=r"needs onnx, .* → pip install 'undersong\[export\]'"):
        export_model(model, "onnx", tmp_path / "x")
    monkeypatch.setattr(RECIPE, "module_of", _other(model))
    with pytest.raises(UndersongError, match="does not predict what the recipe does"):
        export_model(model, "torch", tmp_path / "x")
    monkeypatch.setattr(RECIPE, "module_of", lambda *_: (_Fixed(core), None, shape))
    with pytest.raises(UndersongError, match=r"cannot export .* → in the recipe's module take sizes from x\.shape"):
        export_model(model, "torch", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


class _Fixed(torch.nn.Module):
    def __init__(self, core: torch.nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.core(x)
        return made.reshape(len(x), 1)


def _other(model: LoadedModel) -> Any:
    core, scores, shape = RECIPE.module_of(model.predictor.tensors, model.predictor.params)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.01)
    return lambda *_: (core, scores, shape)
