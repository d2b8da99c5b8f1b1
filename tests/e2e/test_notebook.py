"""The tutorial's notebook tells the truth: a kernel runs its cells as they stand there, on a real platform."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from undersong.demo import EXAMPLE, load_example
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.profile import save_local_profile

pytestmark = [pytest.mark.process, pytest.mark.exhaustive, pytest.mark.timeout(600)]
NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorial" / "in-a-notebook.ipynb"


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Platform]:
    example = load_example()
    with Platform(tmp_path_factory.mktemp("home"), forks=forks) as running:
        for name in example.HOSPITALS:
            own = example.write_site(name, running.home / "data" / name)
            running.add_site(name, datasets=own, policy=EXAMPLE / "policy.yaml")
        running.wait_sites_online(len(example.HOSPITALS))
        yield running


def outputs(cell: Any) -> list[Any]:
    assert all(each.output_type != "error" for each in cell.outputs), cell.outputs
    return [each.data for each in cell.outputs if "data" in each]


def test_the_notebook_runs_as_it_stands(hospitals: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    save_local_profile(hospitals.profile)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    NotebookClient(notebook, timeout=500, kernel_name="python3").execute(cwd=str(tmp_path))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    sites, trained, metrics, plot, rounds, model, predicted = (outputs(cell) for cell in cells)
    assert sites[-1]["text/plain"].count("True") == len(load_example().HOSPITALS)
    followed = trained[0]["text/html"]
    assert '<progress value="4" max="4">' in followed, "one display, which followed the job to its end"
    assert "succeeded" in followed
    assert len(trained) == 2
    assert metrics[-1]["text/html"].count("<tr") >= 4
    assert "image/png" in plot[-1]
    assert "published" in rounds[-1]["text/html"]
    assert "checks passed" in model[-1]["text/html"]
    assert "probability_" in predicted[-1]["text/plain"]
