"""How far the tensors of two model files lie apart."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel

from undersong.errors import UndersongError
from undersong.shared.errors import Refusal
from undersong.shared.learning.tensors import load


class TensorDifference(BaseModel):
    """One tensor: the Euclidean norm of the first file's and of the change; none where only one file has it so."""

    name: str
    shape: str
    norm: float | None = None
    change: float | None = None
    relative: float | None = None


def difference(first: Path, second: Path) -> list[TensorDifference]:
    """Return a row for each tensor of either file, in the order of the files; raises UndersongError for a bad file."""
    try:
        one, other = (load(path.read_bytes()).tensors for path in (first, second))
    except Refusal as error:
        raise UndersongError(f"a model file cannot be read: {error.detail}") from error
    return [_row(name, one.get(name), other.get(name)) for name in dict.fromkeys([*one, *other])]


def _row(name: str, before: np.ndarray | None, after: np.ndarray | None) -> TensorDifference:
    if before is None or after is None or before.shape != after.shape:
        shapes = ["–" if each is None else _shape(each) for each in (before, after)]
        return TensorDifference(name=name, shape=" → ".join(shapes))
    norm = float(np.linalg.norm(before.astype(np.float64).ravel()))
    change = float(np.linalg.norm(after.astype(np.float64).ravel() - before.astype(np.float64).ravel()))
    relative = change / norm if norm > 0 else None
    return TensorDifference(name=name, shape=_shape(before), norm=norm, change=change, relative=relative)


def _shape(tensor: np.ndarray) -> str:
    return " × ".join(map(str, tensor.shape)) or "one number"
