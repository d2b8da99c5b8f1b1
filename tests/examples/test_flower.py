"""The Flower examples: on a platform as under Flower itself, by an interpreter that has flwr installed beside ours.

flwr asks for older versions of typer, rich and fastapi than the platform has, so it is installed without them, into an
environment of its own in build/flower, which sees ours.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.pages import sh_commands
from tests.recipes.test_flower_app import LINEAR, QUICKSTART, written
from undersong.recipes.flower_app import REQUIREMENTS
from undersong.services.agent.runner import landlock

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.process,
    pytest.mark.timeout(900),
    pytest.mark.skipif(landlock.version() < 4, reason="this kernel cannot close everything to recipes"),
]


@pytest.fixture(scope="session")
def interpreter() -> Path:
    """Return a Python with flwr; skips where it cannot be installed."""
    home = ROOT / "build" / "flower"
    python, done = home / "bin" / "python", home / "installed"
    if done.exists():
        return python
    venv.create(home, clear=True, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), *REQUIREMENTS]
    if (made := subprocess.run(install, capture_output=True, text=True, check=False)).returncode != 0:
        pytest.skip(f"flwr cannot be installed here: {made.stderr[-300:]}")
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    done.touch()
    return python


def test_the_recipe_does_what_flower_does(interpreter: Path) -> None:
    """The tests of the recipe itself, which need flwr."""
    command = [str(interpreter), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/recipes/test_flower.py"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-1000:]
    assert " passed" in made.stdout
    assert "skipped" not in made.stdout


def test_the_commands_of_the_page_run(interpreter: Path, tmp_path: Path) -> None:
    page = ROOT / "docs" / "migrate" / "flower.md"
    folder = shutil.copytree(ROOT / "examples" / "flower", tmp_path / "flower")
    for line in sh_commands(page.read_text()):
        words = shlex.split(line)
        if words[0] == "pip":
            assert words[3:] == list(REQUIREMENTS)
            continue
        start = [str(interpreter), *(["-P", "-m"] if words[0] == "undersong" else []), *words[words[0] == "python" :]]
        made = subprocess.run(start, cwd=folder, capture_output=True, text=True, check=False)
        assert made.returncode == 0, line + made.stdout[-2000:] + made.stderr[-2000:]
    assert json.loads((folder / "run" / "run.json").read_text())["rounds"]


def test_both_apps_learn_on_a_platform_as_under_flower(interpreter: Path, tmp_path: Path) -> None:
    """Under `pairwise`, in confined children, on the same rows; logistic regression has no chance in it."""
    written(QUICKSTART, tmp_path / "own" / "quickstart.py")
    written(LINEAR, tmp_path / "own" / "linear.py")
    digits = ROOT / "examples" / "flower" / "digits.py"
    subprocess.run([sys.executable, str(digits), str(tmp_path / "sites")], check=True)
    script = Path(__file__).with_name("flower_federation.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    made = subprocess.run(
        [str(interpreter), str(script), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-3000:]
    found = json.loads(made.stdout.splitlines()[-1])
    linear, quickstart = found["linear"], found["quickstart"]
    assert linear["state"] == quickstart["state"] == "succeeded"
    assert linear["here"]["examples"] == quickstart["here"]["examples"] > 300
    assert linear["here"]["test_logloss"] == pytest.approx(linear["flower"]["test_logloss"], rel=0.01)
    assert linear["here"]["accuracy"] == pytest.approx(linear["flower"]["accuracy"], abs=0.01)
    assert quickstart["here"]["eval_acc"] == pytest.approx(quickstart["flower"]["eval_acc"], abs=0.05)
    assert quickstart["here"]["eval_acc"] > 0.9
