"""Faults of recipes, each found by running it in the confined child, and named with what helps."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.effort import also
from undersong.errors import UndersongError
from undersong.own_recipes.check import RecipeCheck, check_recipe
from undersong.own_recipes.templates import TEMPLATES
from undersong.services.agent.runner import landlock

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(landlock.version() < 4, reason="this kernel cannot close everything to recipes"),
]
GOOD = TEMPLATES["numpy"].format(name="mine")
STEP = "error = (predict("


def check(folder: Path, text: str, **kwargs: Any) -> RecipeCheck:
    file = folder / "mine.py"
    file.write_text(text)
    (folder / "mine.py.txt").write_text("not for recipes")
    return asyncio.run(check_recipe(file, folder / "check", lambda _: None, **kwargs))


@pytest.mark.parametrize("kind", ["torch", *also("sklearn", "numpy")])
def test_each_template_passes_with_all_walls_up(tmp_path: Path, kind: str) -> None:
    found = check(tmp_path, TEMPLATES[kind].format(name="mine"))
    assert (found.faults, found.name) == ((), "mine")
    assert found.metrics is not None
    assert found.metrics["auc"] > 0.7
    assert "open" not in found.walls.values()
    assert found.walls


OF_TEXTS = """
import torch
from undersong.recipe import TEXT, Pretrained, TorchRecipe

WORDS = Pretrained({"words.txt": "%s"}, beside=__file__)


def encode(texts):
    known = WORDS.path("words.txt").read_text().split()
    return torch.tensor([[float(text.count(word)) for word in known] for text in texts])


def build(shape):
    return torch.nn.Linear(shape.inputs, shape.outputs)


RECIPE = TorchRecipe(__file__, build=build, encode=encode, inputs=TEXT, pretrained=WORDS)
"""


@pytest.mark.exhaustive
def test_a_recipe_of_texts_reads_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "words.txt").write_text("good bad")
    found = check(tmp_path, OF_TEXTS % hashlib.sha256(b"good bad").hexdigest())
    assert found.faults == ()
    assert found.metrics is not None
    assert found.metrics["auc"] > 0.7
    assert "open" not in found.walls.values()


OF_A_FOLDER = """
import numpy as np
from torch import nn
from undersong.recipe import TorchRecipe


def build(shape):
    return nn.Linear(shape.inputs, shape.outputs)


def load(path, columns):
    rows = np.stack([np.frombuffer(file.read_bytes(), "<f8") for file in sorted(path.glob("*.raw"))])
    open(%r)
    return dict(zip(("x", "y"), rows.T))


RECIPE = TorchRecipe(__file__, build=build, load=load, inputs=("number",), record_params=None)
"""


def test_a_recipe_reads_a_folder_by_its_own_load_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for at in range(60):
        (folder / f"{at:02}.raw").write_bytes(np.array([at - 30, at >= 30], "<f8").tobytes())
    columns = [{"name": name, "type": "number"} for name in "xy"]
    entry = {"name": "raw", "kind": "own", "path": "rows", "label": "y", "columns": columns}
    declared = tmp_path / "datasets.yaml"
    declared.write_text(yaml.safe_dump({"datasets": [entry]}))
    found = check(tmp_path, OF_A_FOLDER % str(folder / "00.raw"), data=declared)
    assert found.faults == ()
    assert found.metrics is not None
    assert found.metrics["auc"] == 1
    (tmp_path / "again").mkdir()
    (closed,) = check(tmp_path / "again", OF_A_FOLDER % str(tmp_path / "mine.py"), data=declared).faults
    assert closed.step == "load"
    assert "PermissionError" in closed.message


FAULTS = {
    "no recipe": ("x = 1\n", "import", "has no RECIPE", "recipe new"),
    "a module that is not there": ("import nowhere_at_all\n" + GOOD, "import", "nowhere_at_all", "beside every agent"),
    "a file of the machine": ("open(__file__ + '.txt')\n" + GOOD, "import", "PermissionError", "reach nothing else"),
    "a call to the network": (
        GOOD.replace(STEP, "import socket; socket.create_connection(('127.0.0.1', 80)); " + STEP),
        "train", "Error", "at the place that is named",
    ),
    "another draw each time": (
        GOOD.replace("rate * x.T", "rate * np.random.default_rng().random() * x.T"),
        "train", "another update", "default_rng(seed)",
    ),
    "nothing learned": (
        GOOD.replace('return {"weights": weights', 'return model or {"weights": weights'),
        "train", "changes nothing", "trained tensors",
    ),
    "numbers without end": (GOOD.replace("rate: float = 0.5", "rate: float = 1e300"), "train", "finite number", ""),
    "a wrong shape": (GOOD.replace('"bias": bias}\n\n', '"bias": bias[:, None]}\n\n'), "train", "keep the shapes", ""),
    "scores that are none": (GOOD.replace("return 1 / (1 +", "return 2 / (1 +"), "train", "between 0 and 1", ""),
    "no default": (GOOD.replace("int = 20, rate: float = 0.5", "int, rate"), "import", "needs a default", "correct"),
}  # fmt: skip
FEW = ("no recipe", "a file of the machine", "a call to the network", "another draw each time")


@pytest.mark.parametrize("name", [*FEW, *also(*(name for name in FAULTS if name not in FEW))])
def test_each_fault_is_named_with_its_step_and_remedy(tmp_path: Path, name: str) -> None:
    import re

    text, step, message, remedy = FAULTS[name]
    (found, *_) = check(tmp_path, text).faults
    assert found.step == step, found
    assert re.search(message, found.message), found
    assert remedy in found.remedy
    assert "\n" not in found.message


def test_rows_of_ones_own_are_used(tmp_path: Path) -> None:
    hospital = Path(__file__).parents[3] / "examples" / "hospital" / "datasets" / "cleveland.yaml"
    found = check(tmp_path, GOOD, data=hospital, params={"steps": 5})
    assert not found.faults
    assert found.metrics is not None
    assert found.metrics["examples"] > 40
    (tmp_path / "again").mkdir()
    with pytest.raises(UndersongError, match="declares no data set nothing"):
        check(tmp_path / "again", GOOD, data=hospital, dataset="nothing")
