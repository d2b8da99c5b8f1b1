"""`undersong data …`: a file becomes a declaration that its owner reads and corrects."""

import subprocess
import sys
from pathlib import Path

import yaml

from recipes.datasets import load_dataset, read_datasets


def undersong(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from undersong.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_draft_can_be_loaded_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "ward.csv").write_text("age,sex,sick\n40,f,1\n,m,0\n61,f,1\n")
    done = undersong("data", "init", str(tmp_path / "ward.csv"))
    assert done.returncode == 0, done.stderr
    (tmp_path / "datasets.yaml").write_text(done.stdout)
    entry = read_datasets(tmp_path / "datasets.yaml")["ward"]
    assert [(c.name, c.type, c.categories) for c in entry.columns] == [
        ("age", "number", None),
        ("sex", "category", ("f", "m")),
        ("sick", "number", None),
    ]
    assert load_dataset(entry, ["age"], "sick").label.tolist() == [1, 0, 1]
    assert yaml.safe_load(done.stdout)["datasets"][0]["path"] == str(tmp_path / "ward.csv")


def test_a_file_that_cannot_be_declared_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ward.csv").write_text("age,sick\n40,1,\n")
    done = undersong("data", "init", str(tmp_path / "ward.csv"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "number of fields" in done.stderr
