"""The page for users of TensorFlow Federated tells the truth: its job files run by its commands."""

import json
import re
import shlex
import shutil
from pathlib import Path

from typer.testing import CliRunner

from tests.pages import sh_commands
from undersong.cli import app

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "migrate" / "tff.md").read_text()


def test_the_jobs_of_the_page_run(tmp_path: Path, monkeypatch) -> None:
    folder = shutil.copytree(ROOT / "examples" / "hospital", tmp_path / "hospital")
    monkeypatch.chdir(folder)
    for job in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        (folder / f"{job.splitlines()[0].removeprefix('name: ')}.yaml").write_text(job)
    for line in sh_commands(PAGE):
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], "--workers", "0"])
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
    average, noisy = (json.loads((folder / name / "run.json").read_text()) for name in ("average", "noisy"))
    assert [round_["number"] for round_ in average["rounds"] if round_["kind"] == "train"] == [1, 2, 3, 4]
    assert "epsilon" in json.dumps(noisy)
