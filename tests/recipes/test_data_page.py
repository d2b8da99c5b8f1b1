"""docs/data.md tells the truth: each declaration on it is read, and the rows that it describes too."""

import gzip
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image
from pyarrow import parquet

from undersong.recipes import text
from undersong.recipes.datasets import describe_dataset, load_dataset, read_datasets
from undersong.recipes.declaration import ColumnEntry, DatasetEntry
from undersong.recipes.options import CsvOptions, SeriesOptions, SplitOptions, SqlOptions
from undersong.services.coordinator.domain.spec import JobSpec

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
SNIPPETS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CSV = {
    "site,age,sex,severity,sick\nnorth,40,f,None,1\nnorth,-9.0,m,Mild,0\nsouth,1,f,,0\nnorth,NA,m,,1\n": ("heart", 3),
    "Ward 7\nage;weight;sex;admitted;outcome\n40;1.080,5;Male;01.02.2020;sick\n?;'7';0;?;well\n": ("ward", 2),
    "40,1\n50,0\n": ("ward", 2),
}


def test_the_snippets_are_there() -> None:
    assert len(SNIPPETS) == 12


@pytest.mark.parametrize(("snippet", "rows"), list(zip((SNIPPETS[0], *SNIPPETS[3:5]), CSV, strict=True)))
def test_each_csv_declaration_reads_such_a_file(tmp_path: Path, snippet: str, rows: str) -> None:
    (tmp_path / "datasets.yaml").write_text(snippet)
    (tmp_path / "rows.csv").write_bytes(rows.encode("cp1252"))
    name, count = CSV[rows]
    entry = read_datasets(tmp_path / "datasets.yaml")[name]
    assert describe_dataset(entry).rows == count
    assert load_dataset(entry).features.shape == (count, len(entry.columns) - (entry.label is not None))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("visits", (2, 1, 1)),
        ("visits-by-day", (1, 2, 1)),
        ("visits-by-person", (4, 0, 0)),
        ("visits-in-files", (4, 0, 1)),
    ],
)
def test_each_split_divides_such_rows(tmp_path: Path, name: str, parts: tuple[int, ...]) -> None:
    (tmp_path / "datasets.yaml").write_text(SNIPPETS[1])
    rows = "age,sick,part,day,person\n"
    (tmp_path / "later.csv").write_text(rows + "60,1,,,\n")
    rows += "40,1,A,31.12.2022,p\n50,0,A,01.01.2023,p\n30,1,B,30.06.2023,p\n20,0,C,01.07.2023,p\n"
    (tmp_path / "visits.csv").write_text(rows)
    data = load_dataset(read_datasets(tmp_path / "datasets.yaml")[name])
    assert (data.train.size, data.validation.size, data.test.size) == parts


def test_the_evaluation_is_a_job() -> None:
    spec = JobSpec.model_validate(yaml.safe_load(SNIPPETS[2]) | {"federation_id": "fed_01m0dwh5mdaecm6yfk3d8y9c8v"})
    assert (spec.trains, spec.evaluation.part) == (False, "all")


def test_the_image_declaration_reads_such_a_file(tmp_path: Path) -> None:
    (tmp_path / "datasets.yaml").write_text(SNIPPETS[5])
    np.savez(tmp_path / "scans.npz", pixels=np.full((2, 8, 9, 3), 4095), finding=np.array(["none", "benign"]))
    data = load_dataset(read_datasets(tmp_path / "datasets.yaml")["scans"])
    assert (data.features.shape, data.features.max(), data.label.tolist()) == ((2, 3, 8, 9), 1, [0, 1])


def test_the_images_are_those_that_a_manifest_names(tmp_path: Path) -> None:
    (tmp_path / "datasets.yaml").write_text(SNIPPETS[6])
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (100, 50), (255, 0, 0)).save(tmp_path / "pictures" / name)
    (tmp_path / "lesions.csv").write_text("file,finding,patient\na.png,benign,p\nb.jpg,malignant,q\n")
    data = load_dataset(read_datasets(tmp_path / "datasets.yaml")["lesions"])
    assert (data.features.shape, data.label.tolist()) == ((2, 3, 64, 64), [0, 1])


def test_the_series_is_of_such_rows(tmp_path: Path) -> None:
    (tmp_path / "datasets.yaml").write_text(SNIPPETS[7])
    lines = [f"2024-03-{4 + at // 288:02} {at % 288 // 12:02}:{at % 12 * 5:02},{at},0,s\n" for at in range(3 * 288)]
    (tmp_path / "traffic.csv").write_text("at,speed,rain,sensor\n" + "".join(lines))
    data = load_dataset(read_datasets(tmp_path / "datasets.yaml")["traffic"])
    assert (data.columns[0].name, data.columns[-1].name, data.label_name) == ("speed@-11", "rain@0", "speed@+3")
    assert (data.train.size, data.validation.size, data.test.size) == (288 - 14, 288, 288)


def test_the_texts_are_of_such_files(tmp_path: Path) -> None:
    (tmp_path / "datasets.yaml").write_text(SNIPPETS[8])
    (tmp_path / "letters.jsonl.gz").write_bytes(gzip.compress(b'{"letter": "Help", "urgent": true}\n'))
    (tmp_path / "plays.txt").write_bytes(b"Exit, pursued by a bear.\n")
    entries = read_datasets(tmp_path / "datasets.yaml")
    letters, plays = load_dataset(entries["letters"]), load_dataset(entries["plays"])
    assert (letters.features.tolist(), letters.label.tolist()) == (["Help"], [1])
    assert plays.features.tolist() == ["Exit, pursued by a bear."]


def test_the_recipe_for_texts_takes_its_parameters() -> None:
    assert text.RECIPE.settings(yaml.safe_load(SNIPPETS[9])["recipe"]["params"])["task"] == "next_token"


def test_a_declaration_of_kind_own_takes_what_a_recipe_loads(tmp_path: Path) -> None:
    (tmp_path / "datasets.yaml").write_text(SNIPPETS[10])
    (tmp_path / "scans.h5").touch()
    made = {"scan": np.full((2, 4, 4), 4095), "finding": ["benign", "none"]}
    data = load_dataset(read_datasets(tmp_path / "datasets.yaml")["scans"], load=lambda *_: made)
    assert (data.features.max(), data.label.tolist()) == (1, [1, 0])


def test_the_query_is_declared_as_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "datasets.yaml").write_text(SNIPPETS[11])
    entry = read_datasets(tmp_path / "datasets.yaml")["admissions"]
    assert entry.sql is not None
    assert (entry.sql.url_file, entry.sql.row_limit) == (tmp_path / "secrets" / "warehouse.url", 200_000)
    parquet.write_table(pa.table({"age": [40.5], "sex": ["m"], "died": [True]}), tmp_path / "snapshot")
    data = load_dataset(entry.model_copy(update={"path": tmp_path / "snapshot"}))
    assert (data.features.tolist(), data.label.tolist()) == ([[40.5, 1]], [1])


@pytest.mark.parametrize("form", [DatasetEntry, CsvOptions, ColumnEntry, SplitOptions, SeriesOptions, SqlOptions])
def test_every_option_is_on_the_page(form: type[DatasetEntry]) -> None:
    for name in form.model_fields:
        assert re.search(rf"\b{name}:|`{name}`", PAGE), name
