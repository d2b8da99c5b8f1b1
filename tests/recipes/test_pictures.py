"""Images of a folder that a manifest names."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.recipes.declaring import declared, refused
from undersong.recipes.datasets import BadDataset, describe_dataset, load_dataset
from undersong.recipes.declaration import read_declarations
from undersong.recipes.entry import DatasetEntry

COLUMNS = [{"name": "file", "type": "image"}, {"name": "y", "type": "number"}]
GREY = {"folder": "pictures", "height": 4, "width": 6, "channels": "grey"}


def made(folder: Path, rows: list[Any], images: dict[str, Any] | None = None, **more: Any) -> DatasetEntry:
    """A manifest of (file, label, pixels): uint8 arrays are written, bytes as they are, None not at all."""
    (folder / "pictures" / "inner").mkdir(parents=True, exist_ok=True)
    for name, _, pixels in rows:
        if isinstance(pixels, bytes):
            (folder / "pictures" / name).write_bytes(pixels)
        elif pixels is not None:
            Image.fromarray(pixels).save(folder / "pictures" / name)
    lines = ["file,y,person", *(f"{name},{label},p{place % 3}" for place, (name, label, _) in enumerate(rows))]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    entry = {"kind": "images", "path": "manifest.csv", "label": "y", "images": GREY | (images or {}), **more}
    return declared(folder, COLUMNS, **entry)


def grey(value: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


def test_files_are_the_images_of_their_rows(tmp_path: Path) -> None:
    rows = [("a.png", 1, grey(51)), ("inner/b.png", 0, grey(255)), ("", 1, None), ("c.bmp", 1, grey(0))]
    entry = made(tmp_path, rows)
    data = load_dataset(entry)
    assert data.features.shape == (3, 1, 4, 6), "a row without a file is left out"
    assert data.features[:, 0, 0, 0] == pytest.approx([0.2, 1, 0])
    assert data.label.tolist() == [1, 0, 1]
    schema = describe_dataset(entry)
    assert (schema.kind, schema.rows, schema.columns[0].shape) == ("images", 3, (1, 4, 6))
    assert schema.columns[0].dtype == "uint8"
    assert entry.schema_document().columns[0].shape == (1, 4, 6), "known before a file is read"


def test_colours_sizes_and_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a person stay together; large images are read a few at a time."""
    monkeypatch.setattr("undersong.recipes.pictures.PART_BYTES", 200)
    red = np.zeros((8, 12, 3), np.uint8)
    red[..., 0] = 255
    rows = [(f"{place}.png", place % 2, red if place % 2 else grey(102)) for place in range(9)]
    entry = made(tmp_path, rows, {"channels": "rgb", "fit": True}, split={"by": "hash", "column": "person"})
    data = load_dataset(entry)
    assert data.features.shape == (9, 3, 4, 6)
    assert data.features[1, :, 0, 0].tolist() == [1, 0, 0]
    assert data.features[0, :, 0, 0] == pytest.approx([0.4] * 3)
    assert {int(row) % 3 for row in data.train}.isdisjoint({int(row) % 3 for row in data.test})


@pytest.mark.parametrize(
    ("rows", "said", "told"),
    [
        ([("a.png", 1, grey(1)), ("b.png", 1, None)], "is not in its folder", "line 3: there is no file"),
        ([("a.png", 1, b"no image")], "is no image that can be read", "line 2: a.png is none of PNG"),
        ([("a.png", 1, grey(1, 5, 5))], "another size", "5 high and 5 wide: fit: true scales it"),
        ([("a.png", 1, np.zeros((4, 6, 3), np.uint8))], "other channels", "fit: true converts it"),
        ([("../manifest.csv", 1, None)], "no path below its folder", "line 2"),
        ([("/etc/hostname", 1, None)], "no path below its folder", "line 2"),
        ([("inner", 1, None)], "cut or damaged", "inner"),
        ([("a.png", 1, np.zeros((4, 6), np.uint16))], "more than 8 bits", "I;16"),
    ],
)
def test_a_bad_file_is_refused_with_its_row(tmp_path: Path, rows: Any, said: str, told: str) -> None:
    entry = made(tmp_path, rows)
    refusal = refused(entry)
    assert said in refusal.detail
    assert told in refusal.explain()
    assert rows[-1][0] not in refusal.detail, "names of files stay at the site"
    assert "list the file under missing" in refusal.explain()
    left_out = made(tmp_path, [*rows, ("z.png", 1, grey(9))], missing={"file": [rows[-1][0]]})
    assert load_dataset(left_out).features[-1, 0, 0, 0] == pytest.approx(9 / 255)


def test_a_file_that_is_cut_and_one_with_too_many_pixels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (4, 6), np.uint8)
    entry = made(tmp_path, [("a.png", 1, noisy)])
    whole = (tmp_path / "pictures" / "a.png").read_bytes()
    (tmp_path / "pictures" / "a.png").write_bytes(whole[:-30])
    assert "cut or damaged" in refused(entry).detail
    monkeypatch.setattr("undersong.recipes.pictures.MOST_PIXELS", 20)
    assert "pixels" in refused(entry).detail


@pytest.mark.filterwarnings("error")
def test_a_damaged_file_is_read_or_refused_whatever_pillow_raises(tmp_path: Path) -> None:
    entry = made(tmp_path, [("a.tiff", 1, grey(9))])
    whole = (tmp_path / "pictures" / "a.tiff").read_bytes()
    for place in range(4, len(whole) - 24):  # header and tags
        damaged = bytearray(whole)
        damaged[place] = 2
        (tmp_path / "pictures" / "a.tiff").write_bytes(damaged)
        with suppress(BadDataset):
            load_dataset(entry)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    entry = made(tmp_path, [("a.png", 1, None)])
    os.mkfifo(tmp_path / "pictures" / "a.png")
    assert "it is a named pipe, and a file is expected" in refused(entry).explain()


@pytest.mark.parametrize(
    ("changes", "place", "said"),
    [
        ({"images": None}, "/images", "where its images are"),
        ({"kind": "csv"}, "/images", "is for kind images"),
        ({"columns": COLUMNS[1:]}, "/columns", "one column of type image"),
        ({"filter": {"file": "a.png"}}, "/columns", "holds files"),
        ({"images": GREY | {"hight": 3}}, "/images/hight", "height"),
        ({"images": GREY | {"width": 0}}, "/images/width", ""),
        ({"channel_axis": "last"}, "/channel_axis", "npz"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], place: str, said: str) -> None:
    document = {"name": "d", "kind": "images", "path": "m.csv", "label": "y", "images": GREY, "columns": COLUMNS}
    document = {key: value for key, value in (document | changes).items() if value is not None}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [document]}))
    faults = read_declarations(tmp_path / "datasets.yaml").faults["d"]
    assert any(fault.path.endswith(place) and said in fault.message for fault in faults), faults
