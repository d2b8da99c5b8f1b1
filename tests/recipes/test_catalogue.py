"""The catalogue, the protocol and recipes of one's own."""

import ast
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from undersong.recipes.catalogue import BUILT_IN, load_file, load_recipe, recipe_specs
from undersong.recipes.protocol import Dataset, Recipe, RecipeError, source_digest
from undersong.shared.ids import is_digest
from undersong.shared.learning.metrics import evaluation_layout, layout_length
from undersong.shared.wire.profiles import Task

ROOT = Path(__file__).parents[2]
OWN = ROOT / "examples" / "own-recipe"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_recipes_fit_the_protocol(name) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    assert recipe.spec.name == name
    assert is_digest(recipe.spec.digest)
    if recipe.spec.task is not Task.SUMMARY:
        assert layout_length(evaluation_layout(recipe.spec, {})) > 0
    jsonschema.Draft202012Validator.check_schema(recipe.spec.params_schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"no such parameter": 1}, recipe.spec.params_schema)


def test_specs_need_no_torch() -> None:
    """The agent's parent and the coordinator read specs without loading a training library."""
    code = "import sys; from undersong.recipes import catalogue as c; c.recipe_specs(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_a_digest_covers_every_source_file() -> None:
    """Each recipe's digest covers the modules of this package that it imports."""
    for name in BUILT_IN:
        files = {ROOT / "recipes" / f"{name}.py"}
        while True:
            wanted = {ROOT / "recipes" / f"{module}.py" for file in files for module in imports(file)} - {
                ROOT / "recipes" / "__init__.py"
            }
            if wanted <= files:
                break
            files |= wanted
        assert load_recipe(name).spec.digest == source_digest(*files), name


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "undersong.recipes":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("undersong.recipes."):
            found.add((node.module or "").removeprefix("undersong.recipes."))
    return found


def test_an_own_recipe_is_found_by_file_and_by_folder() -> None:
    assert load_recipe("svm", [OWN]) is load_recipe("svm", [OWN / "svm.py"])
    assert [spec.name for spec in recipe_specs([OWN])] == [*BUILT_IN, "network", "svm"]
    with pytest.raises(RecipeError, match="unknown"):
        load_recipe("svm")


BODY = (OWN / "svm.py").read_text()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("1 / 0", "cannot be imported"),
        ("RECIPE = 3", "no RECIPE"),
        ("", "no RECIPE"),
        (BODY.replace("source_digest(Path(__file__))", "'ab' * 32"), "digest"),
        (BODY.replace('name="svm"', 'name="tabular"'), "used twice"),
    ],
    ids=["raises", "not a recipe", "empty", "lies about its digest", "takes a name"],
)
def test_an_own_recipe_that_is_none_is_refused(tmp_path: Path, source, says) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(RecipeError, match=says):
        recipe_specs([tmp_path])


def test_code_runs_only_after_its_digest_and_the_bytes_that_have_it(tmp_path: Path) -> None:
    """A file that is exchanged while it runs is refused, and compiled code beside it is not taken for it."""
    file, ran = tmp_path / "svm.py", tmp_path / "ran"
    file.write_text(f"open({str(ran)!r}, 'w').close()\n" + BODY)
    with pytest.raises(RecipeError, match="not allowed; the policy would need digest"):
        load_file(file, {"0" * 64})
    assert not ran.exists()
    assert load_file(file, {source_digest(file)}).spec.name == "svm"
    assert ran.exists()
    assert not (tmp_path / "__pycache__").exists()
    file.write_text(f"with open({str(file)!r}, 'a') as file: file.write('#')\n" + BODY)
    with pytest.raises(RecipeError, match="as its digest"):
        load_file(file, {source_digest(file)})


def test_null_changes_nothing() -> None:
    recipe = load_recipe("null")
    data = Dataset("none", (), np.zeros((0, 0)), np.zeros(0), np.arange(0), np.arange(0))
    model = recipe.initial(data.shape, {"parameters": 7}, {}, 0)
    result = recipe.train(model.tensors, data, {}, {}, 0, lambda _: None)
    assert np.array_equal(result.tensors["weights"], np.zeros(7))
    assert result.examples == 1
    assert recipe.evaluate(model.tensors, data, {}, {}).size == layout_length("binary")
    assert recipe.predict(model.tensors, {"x": [1, 2]}, {}).tolist() == [0, 0]


def test_the_list_can_be_printed() -> None:
    command = [sys.executable, "-m", "undersong.recipes", str(OWN)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*BUILT_IN, "network", "svm"]
