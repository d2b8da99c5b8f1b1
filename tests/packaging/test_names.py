"""The folders `shared`, `services` and `recipes` are imported below `undersong`, and under no other name."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import OTHERS, ROOT


@pytest.mark.parametrize("name", OTHERS)
def test_no_module_can_exist_twice(name: str) -> None:
    """In the checkout's root Python finds the folder too: it says under which name it is to be imported."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"import undersong.{name}, not {name}" in done.stderr


@pytest.mark.parametrize("name", OTHERS)
def test_the_linter_refuses_the_short_name(name: str) -> None:
    for line in (f"import {name}", f"from {name} import x", f"from {name}.x.y import z", f"import {name}.x as x"):
        command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", "undersong/x.py"]
        done = subprocess.run([*command, "-"], input=f"{line}\n", cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert f"import it as undersong.{name}" in done.stdout, line


@pytest.mark.parametrize("name", OTHERS)
def test_the_links_lead_within_the_checkout(name: str) -> None:
    """Relative, so that a clone may be moved."""
    assert (ROOT / "undersong" / name).readlink() == Path("..", name)
