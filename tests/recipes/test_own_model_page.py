"""docs/own-model.md tells the truth: each recipe on it is loaded from a file as a site does, and learns."""

import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.recipes.test_torch_recipe import EXAMPLE, made
from undersong.recipe import TorchRecipe
from undersong.recipes.catalogue import load_file
from undersong.recipes.local_training import LOSSES, STEPS
from undersong.recipes.reference import score, train_in_one_place
from undersong.shared.yaml_texts import load_document

PAGE = (Path(__file__).parents[2] / "docs" / "own-model.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(JOB,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_first_recipe_is_the_example() -> None:
    assert BLOCKS[0] == EXAMPLE.read_text()


@pytest.mark.parametrize("block", BLOCKS, ids=["torch", "sklearn", "numpy"])
def test_every_recipe_learns(tmp_path: Path, block: str) -> None:
    file = tmp_path / f"page_{abs(hash(block))}.py"
    file.write_text(block)
    recipe = load_file(file)
    model = train_in_one_place(recipe, made(), {}, rounds=20)
    assert score(recipe, model, made(), {})["auc"] > 0.9


def test_the_job_is_one_that_its_recipe_takes() -> None:
    recipe: Any = load_file(EXAMPLE)
    params = load_document(JOB)["recipe"]["params"]
    Draft202012Validator(recipe.spec.params_schema).validate(params)
    assert recipe.settings(params)["schedule"] == "cosine"


def test_every_option_and_argument_is_named() -> None:
    import inspect

    ranges = (Path(__file__).parents[2] / "docs" / "reference" / "job.md").read_text()
    assert all(f"`{name}`" in ranges for name in STEPS | LOSSES)
    wanted = inspect.signature(TorchRecipe).parameters.keys() - {
        "source",
        "build",
        "loss",
        "name",
        "version",
        "description",
    }
    assert all(f"| `{name}` |" in PAGE for name in wanted)
