"""How far tensors moved, and what only one file has."""

from pathlib import Path

import numpy as np
import pytest

from undersong.errors import UndersongError
from undersong.model_difference import difference
from undersong.shared.learning.tensors import Model, Schema, save


def write(path: Path, **tensors: np.ndarray) -> Path:
    path.write_bytes(save(Model(Schema.of(tensors), tensors)))
    return path


def test_each_tensor_is_told(tmp_path: Path) -> None:
    first = write(
        tmp_path / "a", w=np.array([[3.0, 4.0]], np.float32), b=np.zeros(2, np.float32), old=np.ones(1, np.float32)
    )
    second = write(
        tmp_path / "b", w=np.array([[3.0, 4.5]], np.float32), b=np.ones(2, np.float32), new=np.ones((1, 2), np.float32)
    )
    found = {each.name: each for each in difference(first, second)}
    assert (found["w"].norm, found["w"].change, found["w"].relative) == (5.0, 0.5, 0.1)
    assert found["w"].shape == "1 × 2"
    assert (found["b"].norm, found["b"].relative) == (0.0, None)
    assert (found["old"].shape, found["new"].shape) == ("1 → –", "– → 1 × 2")
    assert found["old"].change is None


def test_what_is_no_model_file_is_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "a", w=np.zeros(1, np.float32))
    (tmp_path / "bad").write_bytes(b"\x00" * 20)
    with pytest.raises(UndersongError, match="cannot be read"):
        difference(good, tmp_path / "bad")
