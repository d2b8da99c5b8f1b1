"""A round reads what the newest round before it left, and no other job, recipe or data set does."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.services.aggregator.conftest import make_manifest
from undersong.services.agent.repository import local_tensors
from undersong.services.agent.repository.local_tensors import LocalTensors
from undersong.shared.ids import Digest, VersionId
from undersong.shared.wire.manifest import DataRef, ModelRef, RecipeRef, RoundManifest

MODEL = ModelRef(version_id=VersionId("ver_01k5z0000000000000000000aa"), digest=Digest("0" * 64))


def manifest(number: int, **changes: Any) -> RoundManifest:
    return make_manifest(model=MODEL, number=number, **changes)


def made(folder: Path, text: str) -> Path:
    path = folder / "made"
    path.write_text(text)
    return path


def seen(kept: LocalTensors, asked: RoundManifest, folder: Path) -> str | None:
    copy = kept.before(asked, folder)
    return None if copy is None else copy.read_text()


def test_a_round_that_is_tried_again_starts_from_the_same_file(tmp_path: Path) -> None:
    kept = LocalTensors(tmp_path / "local")
    assert seen(kept, manifest(1), tmp_path) is None
    kept.keep(manifest(1), made(tmp_path, "one"))
    kept.keep(manifest(3), made(tmp_path, "three"))
    assert seen(kept, manifest(1), tmp_path) is None
    assert seen(kept, manifest(3, attempt=2), tmp_path) == "one"
    kept.keep(manifest(3, attempt=2), made(tmp_path, "three again"))
    assert seen(LocalTensors(tmp_path / "local"), manifest(4), tmp_path) == "three again"
    kept.keep(manifest(5), None)
    assert seen(kept, manifest(6), tmp_path) == "three again"


@pytest.mark.parametrize(
    "changes",
    [
        {"job_id": "job_other"},
        {"recipe": RecipeRef(name="other", digest="1" * 64)},
        {"data": DataRef(dataset="other")},
    ],
)
def test_no_other_job_recipe_or_data_set_reads_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    kept = LocalTensors(tmp_path / "local")
    kept.keep(manifest(1), made(tmp_path, "one"))
    assert seen(kept, manifest(2, **changes), tmp_path) is None


def test_few_rounds_are_kept_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    kept = LocalTensors(tmp_path / "local")
    for number in range(1, 30):
        kept.keep(manifest(number), made(tmp_path, str(number)))
    (folder,) = (tmp_path / "local").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["27.safetensors", "28.safetensors", "29.safetensors"]
    assert folder.stat().st_mode & 0o077 == 0


def test_what_was_not_used_for_long_is_erased(tmp_path: Path) -> None:
    kept = LocalTensors(tmp_path / "local")
    kept.forget()
    kept.keep(manifest(1), made(tmp_path, "one"))
    kept.keep(manifest(1, job_id="job_other"), made(tmp_path, "one"))
    old = next((tmp_path / "local").iterdir())
    past = time.time() - local_tensors.FORGET_AFTER_S - 60
    for path in old.iterdir():
        os.utime(path, (past, past))
    kept.forget()
    assert len(list((tmp_path / "local").iterdir())) == 1
    assert not old.exists()
