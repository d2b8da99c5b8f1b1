"""The reference pages: no drift from the code, no field without a description, no link that leads nowhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from undersong.cli import app
from undersong.recipes.catalogue import load_recipe
from undersong.reference.pages import DOCUMENTS, PAGES, SETTINGS, TRAINING, files, page
from undersong.reference.schemas import Pages, anchor, undescribed
from undersong.reference.tables import table
from undersong.services.agent.__main__ import parser
from undersong.shared.learning.strategies import STRATEGIES

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs/reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    """`make docs` writes it."""
    assert (FOLDER / f"{name}.md").read_text("utf-8") == page(name)


def test_there_are_no_other_pages() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {name for name, _ in files()}


@pytest.mark.parametrize("form", [*DOCUMENTS, *SETTINGS.values()], ids=lambda form: form.__name__)
def test_every_field_is_described(form: type[BaseModel]) -> None:
    assert undescribed(form.model_json_schema()) == []


@pytest.mark.parametrize("name", TRAINING)
def test_every_parameter_of_a_recipe_is_described_and_has_its_default(name: str) -> None:
    schema = load_recipe(name).spec.params_schema
    assert undescribed(schema) == []
    assert all("default" in entry for entry in schema["properties"].values())


def test_a_field_without_a_description_is_found() -> None:
    class Inner(BaseModel):
        depth: int

    class Outer(BaseModel):
        inner: list[Inner]

    assert undescribed(Outer.model_json_schema()) == ["Outer.inner", "Inner.depth"]


def test_every_command_and_option_is_described() -> None:
    assert [name for name, text in _described("undersong", typer.main.get_command(app)) if not text] == []
    made = parser()
    (chosen,) = (action for action in made._actions if action.dest == "command")
    options = [action for one in chosen.choices.values() for action in one._actions]  # type: ignore[union-attr]
    assert len(options) > 15
    assert [action.option_strings for action in options if not action.help] == []


def _described(name: str, command: Any) -> Iterator[tuple[str, str | None]]:
    if name != "undersong":
        yield name, command.help
    yield from ((f"{name} {parameter.name}", parameter.help) for parameter in command.params)
    for each, inner in getattr(command, "commands", {}).items():
        yield from _described(f"{name} {each}", inner)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    text = page(name)
    headings = [anchor(line.lstrip("# ")) for line in text.splitlines() if line.startswith("#")]
    assert len(set(headings)) == len(headings)
    for path, fragment in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        assert (FOLDER / path).exists()
        assert path or fragment in headings


def test_every_strategy_is_in_the_description_of_the_api() -> None:
    document = json.loads((ROOT / "docs/openapi/coordinator.json").read_text())
    part = document["components"]["schemas"]["StrategyPart"]["properties"]
    assert part["name"]["enum"] == sorted(STRATEGIES)


def test_kinds_of_values_in_words() -> None:
    """Limits are told once, where the value is; parts are linked to."""

    class Part(BaseModel):
        size: int

    class Form(BaseModel):
        parts: dict[str, Part] | None = None
        pairs: list[tuple[float, str]] = []

    text = Pages(Form.model_json_schema()).sections("A form")
    assert "| `parts` | mapping of names to [mapping](#partsname) | – |  |" in text
    assert "| `pairs` | list of [number, text] | – |  |" in text
    assert "### `parts.NAME`" in text


def test_a_bar_in_a_cell_is_no_column() -> None:
    assert table(("a", "b"), [("x|y", "z")]).splitlines()[-1] == r"| x\|y | z |"
    assert table(("a",), []) == ""
