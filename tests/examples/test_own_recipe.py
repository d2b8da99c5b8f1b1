"""The example of an own recipe: its README's code runs, and its job fits it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import yaml

from undersong.recipes.catalogue import load_file
from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.recipes.protocol import Dataset
from undersong.recipes.reference import score, train_in_one_place

ROOT = Path(__file__).parents[2]
OWN = ROOT / "examples" / "own-recipe"


def cleveland() -> tuple[Dataset, dict]:
    job = yaml.safe_load((OWN / "job.yaml").read_text())
    entry = read_datasets(ROOT / "examples" / "hospital" / "datasets" / "cleveland.yaml")["heart"]
    return load_dataset(entry, job["data"]["features"], job["data"]["label"]), job


def test_it_learns_and_repeats() -> None:
    data, job = cleveland()
    recipe, params = load_file(OWN / "svm.py"), job["recipe"]["params"]
    jsonschema.validate(params, recipe.spec.params_schema)
    one, two = (train_in_one_place(recipe, data, params, rounds=5) for _ in range(2))
    assert np.array_equal(one["weights"], two["weights"])
    assert score(recipe, one, data, params)["auc"] > 0.7
    assert recipe.predict(one, {c.name: [50.0] for c in data.columns}, params).shape == (1,)


def test_the_readmes_code_runs() -> None:
    code = re.findall(r"```python\n(.*?)```", (OWN / "README.md").read_text(), re.DOTALL)
    assert code
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code[0]], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "auc" in done.stdout
