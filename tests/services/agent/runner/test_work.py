"""What a child keeps in memory between orders, and when it reads the site's files again."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from tests.recipes.test_pictures import grey, made
from undersong.recipes.protocol import source_digest
from undersong.services.agent.runner.protocol import SUMS_FILE, RunOrder, Setup
from undersong.services.agent.runner.work import Workshop
from undersong.shared.wire.manifest import DataRef

OF_A_FOLDER = '''
import numpy as np
from torch import nn
from undersong.recipe import TorchRecipe


def build(shape) -> nn.Module:
    """A layer."""
    return nn.Linear(shape.inputs, 1)


def load(path, columns):
    """Rows of a folder."""
    rows = np.array([float(each.read_text()) for each in sorted(path.iterdir())])
    return {"x": rows, "y": rows > 0}


RECIPE = TorchRecipe(__file__, build=build, load=load, inputs=("number",), record_params=None)
'''

OF_IMAGES = '''
import numpy as np
from torch import nn
from undersong.recipe import TorchRecipe


def build(shape) -> nn.Module:
    """A layer over the pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(24, 1))


class OfPixels(TorchRecipe):
    def statistics(self, data, params, seed):
        """Sum the pixels."""
        return np.array([0, 0, data.features.sum()])


RECIPE = OfPixels(__file__, build=build, inputs=("image",), record_params=None)
'''


def test_a_folder_of_a_recipes_own_is_read_again_once_a_file_in_it_changed(tmp_path: Path) -> None:
    rows, recipe = tmp_path / "rows", tmp_path / "folders.py"
    rows.mkdir()
    recipe.write_text(OF_A_FOLDER)
    for at in range(3):
        (rows / f"{at}.txt").write_text("1")
    columns = [{"name": name, "type": "number"} for name in "xy"]
    own = {"name": "d", "kind": "own", "path": "rows", "label": "y", "columns": columns, "test_fraction": 0}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [own]}))
    digest = source_digest(recipe)
    workshop = Workshop(Setup(str(tmp_path / "datasets.yaml"), (str(recipe),), (digest,)).frame())
    data = DataRef(dataset="d", features=("x",), label="y")
    order = RunOrder("statistics", "folders", digest, {}, data, {}, 1, tmp_path)

    def total() -> float:
        workshop.run(order.frame(), lambda _: None)
        return float(np.fromfile(tmp_path / SUMS_FILE)[2])

    assert total() == 3
    (rows / "1.txt").write_text("5")
    assert total() == 7


def test_images_are_read_again_once_one_of_them_changed(tmp_path: Path) -> None:
    """Their manifest, a CSV file, stays as it is."""
    made(tmp_path, [("a.png", 0, grey(10)), ("inner/b.png", 1, grey(30))])
    recipe = tmp_path / "images.py"
    recipe.write_text(OF_IMAGES)
    digest = source_digest(recipe)
    workshop = Workshop(Setup(str(tmp_path / "datasets.yaml"), (str(recipe),), (digest,)).frame())
    data = DataRef(dataset="d", features=("file",), label="y")
    order = RunOrder("statistics", "images", digest, {}, data, {}, 1, tmp_path)

    def total() -> float:
        workshop.run(order.frame(), lambda _: None)
        return float(np.fromfile(tmp_path / SUMS_FILE)[2])

    before = total()
    assert total() == before
    Image.fromarray(grey(90)).save(tmp_path / "pictures" / "inner" / "b.png")
    assert total() > before
