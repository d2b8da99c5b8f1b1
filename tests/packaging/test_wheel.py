"""The wheel lives beside other people's packages: it brings `undersong` and nothing else (decision 23)."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import undersong
from tests.packaging.conftest import OTHERS, OWN, ROOT, Installed, contents

HERE = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.process


def test_a_wheel_holds_one_package_with_all_its_files(installed: Installed) -> None:
    names = contents(installed.wheel)
    info = f"undersong-{undersong.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"undersong", info}
    listed = subprocess.run(
        ["git", "ls-files", "--", "undersong", *OTHERS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kept = [path for path in listed.stdout.split() if not (ROOT / path).is_symlink() and not path.endswith(".md")]
    assert len(kept) > 500
    assert {path if path.startswith("undersong/") else f"undersong/{path}" for path in kept} - names == set()
    assert "undersong/py.typed" in names


def test_an_environment_keeps_its_own_packages(installed: Installed) -> None:
    """Whichever is imported first, ours or theirs; each is itself."""
    both = ["import shared, services, recipes", "import undersong.client, undersong.recipe, undersong.services"]
    seen = "; print(shared.OWNER, services.OWNER, recipes.OWNER, undersong.shared.__name__, undersong.__file__)"
    for first, second in (both, reversed(both)):
        words = installed.python(f"{first}; {second}{seen}").removeprefix(f"{OWN} {OWN} {OWN} ").split()
        assert words[0] == "undersong.shared"
        assert Path(words[1]).is_relative_to(installed.environment)


def test_the_command_says_its_version_and_its_help(installed: Installed) -> None:
    assert installed.run("undersong", "--version") == f"{PROJECT['version']}\n" == f"{undersong.__version__}\n"
    told = installed.run("undersong", "--help")
    assert {"up", "job", "agent", "verify"} <= set(re.findall(r"[a-z]+", told))


def test_a_folder_named_undersong_hides_nothing(installed: Installed, tmp_path: Path) -> None:
    """A script beside a clone imports what is installed, be it the wheel or an editable install like this one."""
    (tmp_path / "undersong").symlink_to(ROOT, target_is_directory=True)
    script = tmp_path / "script.py"
    script.write_text("import undersong.client, undersong.shared.wire; print(undersong.client.__file__)\n")
    assert Path(installed.run("python", str(script)).strip()).is_relative_to(installed.environment)
    beside = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert beside.stdout.strip() == str(ROOT / "undersong" / "client" / "__init__.py"), beside.stderr


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_job_runs_on_the_wheel_alone(installed: Installed) -> None:
    """Services, agents, their own recipe with their own `shared`, the client and the command, all from the wheel."""
    told = installed.run("python", str(HERE / "use.py"), str(installed.folder), str(HERE / "theirs.py"), timeout_s=170)
    state, weights, origin = told.splitlines()
    assert state.startswith("succeeded")
    assert json.loads(weights) == pytest.approx([1.0] * 4, abs=1e-4)  # each site adds one
    assert Path(origin).is_relative_to(installed.environment)
