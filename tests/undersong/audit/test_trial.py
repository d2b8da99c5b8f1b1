"""A job that is tried on mock data runs as it is, in the recipe's real child process."""

from pathlib import Path
from typing import Any

import pytest

from undersong.audit.trainer import declared
from undersong.audit.trial import try_job
from undersong.errors import UndersongError
from undersong.recipes.declaration import DatasetEntry
from undersong.recipes.mock import describe_entry, write_mock

pytestmark = pytest.mark.process
JOB: dict[str, Any] = {
    "name": "trial",
    "recipe": {"name": "tabular", "params": {"epochs": 2}},
    "data": {"dataset": "ward", "label": "sick"},
    "rounds": 2,
}


@pytest.fixture
def twin(declarations: Path, tmp_path: Path) -> Path:
    return write_mock(describe_entry(declared(declarations, "ward")), tmp_path / "twin", 1)


async def test_a_job_runs_on_a_twin_of_its_data(twin: Path, tmp_path: Path) -> None:
    told: list[float] = []
    made = await try_job(JOB, twin, (), tmp_path / "t", told.append)
    assert (made.rounds, made.training_rows + made.metrics["examples"]) == (2, 500)
    assert made.parameters == 17  # eight numbers and whether each is missing, and the bias
    assert 0.35 < made.metrics["accuracy"] < 0.65, "labels of a twin have nothing to do with its columns"
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": None}, "the job has no data"),
        ({"data": {"dataset": "wart"}}, "declares no data set wart"),
        ({"data": {"dataset": "ward", "features": ["x9"]}}, "no column x9"),
        ({"data": {"dataset": "ward", "label": "well"}}, "no column well"),
        ({"recipe": {"name": "tabluar"}}, "did you mean 'tabular'"),
        ({"recipe": {"name": "tabular", "params": 3}}, "recipe.params"),
        ({"recipe": {"name": "tabular", "params": {"epoch": 3}}}, "tabular has no parameter epoch"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
async def test_a_job_that_cannot_run_is_said_why(
    twin: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UndersongError) as refused:
        await try_job(JOB | changes, twin, (), tmp_path / "t", lambda _: None)
    assert said in refused.value.message
    assert refused.value.remedy


@pytest.mark.exhaustive
async def test_a_job_over_images_runs_on_a_twin(tmp_path: Path) -> None:
    columns = [
        {"name": "scan", "type": "image"},
        {"name": "finding", "type": "category", "categories": ["none", "benign"]},
    ]
    entry = {"name": "scans", "kind": "npz", "path": "absent.npz", "label": "finding", "columns": columns}
    made = describe_entry(DatasetEntry.model_validate(entry), rows=40)
    twin = write_mock(made, tmp_path / "twin", 1)
    job = {"name": "images", "recipe": {"name": "image", "params": {"classes": 2}}, "data": {"dataset": "scans"}}
    found = await try_job(job, twin, (), tmp_path / "t", lambda _: None)
    assert found.training_rows + found.metrics["examples"] == 40
