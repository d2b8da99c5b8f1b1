"""A loaded version as a file that runs without this platform: ONNX, a program of PyTorch, or a model of MLflow.

Preparation (order of categories, standardisation, flags of missing values, intervals) is inside. Each is compared with
the platform's own predictions over drawn rows before it is written.
"""

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import yaml

from undersong.client.loaded import LoadedModel
from undersong.errors import UndersongError
from undersong.shared.errors import Refusal

if TYPE_CHECKING:
    import torch

INSTALL: Final = "pip install 'undersong[export]'"
CLOSE: Final = 1e-5
"""By how much an export may differ: in probabilities, or in standard deviations of a label that is a number."""
DRAWN: Final = 64
FEW: Final = 3
OUTPUTS: Final = {"regression": "value", "survival": "log_hazard_ratio"}
OPSET: Final = 20
ML_OPSET: Final = 4
_OWN: Final = "undersong/"
NOTES: Final = (
    "Each input is a column, [rows, 1]: float64 with NaN where missing, or a category's text, empty where missing. "
    "A row with an unknown category or an infinite number gives NaN."
)


@dataclass(frozen=True, slots=True)
class _Export:
    """What is written: the module, rows to try it with (codes float64[n, columns]), and what the platform says."""

    model: LoadedModel
    module: "torch.nn.Module"
    codes: npt.NDArray[np.float64]
    said: npt.NDArray[np.float64]

    @property
    def output(self) -> str:
        """The name of what comes out, which no column has."""
        name = OUTPUTS.get(self.model.task, "probabilities")
        while any(column.name == name for column in self.model.columns):
            name += "_"
        return name

    @property
    def about(self) -> dict[str, Any]:
        """What the file says of itself."""
        columns = [column.model_dump(mode="json", exclude_none=True) for column in self.model.columns]
        spec = self.model.predictor.recipe.spec
        return {
            "version_id": self.model.version_id,
            "federation_id": self.model.federation_id,
            "content_digest": self.model.content_digest,
            "recipe": {"name": spec.name, "digest": spec.digest},
            "task": self.model.task,
            "classes": list(self.model.classes),
            "columns": columns,
            "output": self.output,
            "notes": NOTES,
        }

    def compare(self, found: npt.NDArray[np.float64], what: str, rows: int = DRAWN) -> None:
        """Raise UndersongError unless these answers are the platform's of the first rows."""
        wanted = self.said[:rows]
        label = getattr(self.module, "label", (0.0, 1.0))
        scale = abs(float(label[1])) if self.model.task == "regression" else 1.0
        apart = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
        if not apart <= CLOSE * scale:
            said = f"the {what} does not predict what the recipe does: its answers differ by up to {apart:.3g}"
            raise UndersongError(said, remedy="predict with undersong predict; please report this with the recipe")


def export_model(model: LoadedModel, form: str, out: Path) -> None:
    """Write a version in one of `FORMS`; raises UndersongError for what cannot be exported, and OSError."""
    if out.exists():
        raise UndersongError(f"{out} exists", remedy="name another path, or remove it")
    with _needs():
        export = _prepared(model)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            made = Path(folder) / out.name
            FORMS[form](export, made)
            shutil.move(made, out)


def write_onnx(export: _Export, out: Path) -> None:
    """Write ONNX with an input for each column; compared by onnxruntime where that is installed."""
    import onnx
    import torch
    from onnx import compose, helper

    with _exporting():
        program = torch.onnx.export(
            _program(export),
            dynamo=True,
            input_names=["columns"],
            output_names=[export.output],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # noqa: S101 (said by dynamo=True)
    proto = compose.add_prefix(program.model_proto, _OWN, rename_outputs=False)  # a column may have any other name
    graph = proto.graph
    nodes, inputs = _column_nodes(export.model, f"{_OWN}columns")
    body = [*nodes, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(body)
    graph.input.extend(inputs)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
    helper.set_model_props(proto, {key: _text(value) for key, value in export.about.items()})
    proto.doc_string, proto.producer_name = NOTES, "undersong"
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, out)
    if find_spec("onnxruntime") is not None:
        for rows in (DRAWN, FEW):
            feeds = {name: cells[:rows] for name, cells in _feeds(export).items()}
            with _exporting():
                found = run_onnx(out, feeds)
            export.compare(found, "ONNX graph", rows)


def run_onnx(file: Path, feeds: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return what onnxruntime computes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(feeds))[0])


def write_torch(export: _Export, out: Path) -> None:
    """Write a program of PyTorch (`torch.export`), which `torch.export.load` reads without this platform."""
    import torch

    with _exporting():
        program = _program(export)
        target = out.with_suffix(".pt2")
        torch.export.save(program, target, extra_files={"undersong.json": json.dumps(export.about)})
    target.rename(out)


def _program(export: _Export) -> Any:
    """Return the module as a program for any number of rows; raises what `torch.export` does for another."""
    import torch

    rows = ({0: torch.export.Dim("rows")},)
    return torch.export.export(export.module, (torch.from_numpy(export.codes),), dynamic_shapes=rows)


def write_mlflow(export: _Export, out: Path) -> None:
    """Write a folder in MLflow's model format, with the flavours onnx and python_function."""
    import onnx

    out.mkdir()
    write_onnx(export, out / "model.onnx")
    needs = [f"{name}=={installed(name)}" for name in ("numpy", "onnx")] + ["mlflow", "onnxruntime", "pandas"]
    kinds = {"category": "object"}
    inputs = [_tensor(each.name, kinds.get(each.type, "float64"), [-1, 1]) for each in export.model.columns]
    shape = [-1, len(export.model.classes)] if export.model.classes else [-1]
    outputs = [_tensor(export.output, "float64", shape)]
    described = {
        "flavors": {
            "onnx": {
                "code": None, "data": "model.onnx", "onnx_version": onnx.__version__,
                "providers": ["CPUExecutionProvider"],
            },
            "python_function": {
                "loader_module": "mlflow.onnx", "data": "model.onnx", "python_version": "3.11",
                "env": {"virtualenv": "python_env.yaml"},
            },
        },
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs)},
        "metadata": export.about,
        "model_uuid": export.model.content_digest[:32],
    }  # fmt: skip
    (out / "MLmodel").write_text(yaml.safe_dump(described, sort_keys=False), "utf-8")
    (out / "requirements.txt").write_text("\n".join(needs) + "\n", "utf-8")
    python = {"python": "3.11", "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    (out / "python_env.yaml").write_text(yaml.safe_dump(python), "utf-8")


def _tensor(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    """Return an entry of a signature in MLflow's form."""
    return {"name": name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}


FORMS: Final[Mapping[str, Callable[[_Export, Path], None]]] = {
    "onnx": write_onnx,
    "torch": write_torch,
    "mlflow": write_mlflow,
}


def _prepared(model: LoadedModel) -> _Export:
    """Return the module with rows that were drawn, after it was compared with the recipe's predictions."""
    import torch

    from undersong.recipes.exported import drawn_codes, module_of

    try:
        module, codes = module_of(model.predictor), drawn_codes(model.predictor, DRAWN)
        said = model.predictor.scores(_cells(model, codes))
    except Refusal as refusal:
        raise UndersongError(f"{model.version_id} cannot be exported: {refusal.detail}") from refusal
    said = np.stack([1 - said, said], axis=1) if model.task == "binary" else said
    made = _Export(model, module, codes, said)
    with torch.no_grad():
        made.compare(module(torch.from_numpy(codes)).numpy(), "exported module")
    return made


def _cells(model: LoadedModel, codes: npt.NDArray[np.float64]) -> dict[str, list[Any]]:
    """Return rows as a person has them: texts of categories, None where missing."""
    return {
        column.name: [None if np.isnan(each) else _cell(column.categories, each) for each in codes[:, place].tolist()]
        for place, column in enumerate(model.columns)
    }


def _cell(categories: tuple[str, ...] | None, value: float) -> object:
    return categories[int(value)] if categories else value


def _feeds(export: _Export) -> dict[str, npt.NDArray[Any]]:
    """Return rows as an exported graph takes them."""
    return {
        column.name: np.array([each or "" for each in cells], object)[:, None]
        if column.type == "category"
        else np.array([np.nan if each is None else each for each in cells], np.float64)[:, None]
        for column, cells in zip(export.model.columns, _cells(export.model, export.codes).values(), strict=True)
    }


def _column_nodes(model: LoadedModel, joined: str) -> tuple[list[Any], list[Any]]:
    """Return an input for each column, and the nodes that make one tensor of them: a category's text is its place."""
    from onnx import TensorProto, helper

    nodes, inputs, parts = [], [], []
    for place, column in enumerate(model.columns):
        if column.type != "category":
            inputs.append(helper.make_tensor_value_info(column.name, TensorProto.DOUBLE, ["rows", 1]))
            parts.append(column.name)
            continue
        inputs.append(helper.make_tensor_value_info(column.name, TensorProto.STRING, ["rows", 1]))
        texts, coded, double = list(column.categories or ()), f"{_OWN}code_{place}", f"{_OWN}place_{place}"
        empty = [] if "" in texts else [""]
        nodes.append(
            helper.make_node(
                "LabelEncoder", [column.name], [coded], domain="ai.onnx.ml", keys_strings=[*texts, *empty],
                values_floats=[*map(float, range(len(texts))), *(np.nan for _ in empty)], default_float=-1.0,
            )
        )  # fmt: skip
        nodes.append(helper.make_node("Cast", [coded], [double], to=TensorProto.DOUBLE))
        parts.append(double)
    nodes.append(helper.make_node("Concat", parts, [joined], axis=1))
    return nodes, inputs


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _needs() -> Iterator[None]:
    """Say in one line which package is not installed."""
    try:
        yield
    except ImportError as error:
        if (error.name or "undersong").startswith("undersong"):
            raise
        raise UndersongError(f"an export needs {error.name}, which is not installed", remedy=INSTALL) from error


@contextmanager
def _exporting() -> Iterator[None]:
    """Keep what PyTorch's exporters say of their own insides off the terminal; raise UndersongError where they fail."""
    names = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield
        except ImportError:
            raise
        except Exception as error:
            first: BaseException = error
            while first.__cause__ is not None:
                first = first.__cause__
            why = next((line for line in str(first).splitlines() if line.strip()), type(first).__name__)
            remedy = "in the recipe's module take sizes from x.shape (len(x) fixes the number of rows), or use predict"
            raise UndersongError(f"PyTorch cannot export the recipe's module: {why}", remedy=remedy) from error
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
