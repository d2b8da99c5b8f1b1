"""What updates left out: read once, from the newest round whose answer was kept, and by no other job."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.services.agent.repository.test_local_tensors import manifest
from undersong.services.agent.repository.residuals import Residuals
from undersong.shared.ids import JobId, RoundId


class Answers(set[str]):
    """The rounds that were answered."""

    def residuals(self, folder: Path) -> Residuals:
        return Residuals(folder / "residuals", self.__contains__)


def vector(value: float, size: int = 3) -> np.ndarray:
    return np.full(size, value, np.float32)


def first(kept: Residuals, asked: Any, parameters: int = 3) -> float | None:
    found = kept.before(asked, parameters)
    return None if found is None else float(found[0])


def test_only_a_round_whose_answer_was_kept_counts(tmp_path: Path) -> None:
    answers = Answers()
    kept = answers.residuals(tmp_path)
    one, two = manifest(1), manifest(2)
    assert first(kept, one) is None
    kept.keep(one, vector(1))
    assert first(kept, two) is None, "killed before the answer was kept: nothing was sent, nothing is left out"
    answers.add(one.round_id)
    assert first(kept, two) == 1
    kept.keep(two, vector(2))
    again = manifest(2, attempt=2)
    assert first(kept, again) == 1, "the first try is not counted in the second"
    answers.add(two.round_id)
    assert first(kept, again) == 1
    kept.keep(again, vector(3))
    assert first(answers.residuals(tmp_path), manifest(3)) == 1, "killed in the second try: as if it had not been"
    answers.add(again.round_id)
    assert first(kept, manifest(3)) == 3
    assert first(kept, manifest(4, job_id=JobId("job_other"))) is None


def test_few_rounds_are_kept_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    answers = Answers()
    kept = answers.residuals(tmp_path)
    for number in range(1, 9):
        kept.keep(manifest(number), vector(number))
    (folder,) = (tmp_path / "residuals").iterdir()
    assert len(list(folder.iterdir())) == 3
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("harm", ["empty", "cut", "garbage", "size", "type"])
def test_a_damaged_file_is_none_and_stops_no_round(tmp_path: Path, harm: str) -> None:
    answers = Answers()
    kept, one = answers.residuals(tmp_path), manifest(1)
    answers.add(one.round_id)
    kept.keep(one, vector(1) if harm != "type" else vector(1).astype(np.float64))
    path = next((tmp_path / "residuals").rglob("*.safetensors"))
    content = path.read_bytes()
    damaged = {"empty": b"", "cut": content[:-3], "garbage": b"\xff" * 90}
    path.write_bytes(damaged.get(harm, content))
    assert first(kept, manifest(2), 4 if harm == "size" else 3) is None
    kept.keep(manifest(2), vector(2))


def test_a_round_without_a_name_is_not_answered(tmp_path: Path) -> None:
    kept = Residuals(tmp_path, lambda round_id: round_id == RoundId("none"))
    kept.keep(manifest(1), vector(1))
    assert first(kept, manifest(2)) is None
