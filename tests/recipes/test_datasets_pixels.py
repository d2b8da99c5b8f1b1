"""Images of npz files: channels first, in 0..1, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recipes.declaring import Y, declared
from undersong.recipes.datasets import BadDataset, Dataset, describe_dataset, load_dataset


def images(folder: Path, pixels: Any, **entry: Any) -> Dataset:
    np.savez(folder / "data.npz", x=pixels, y=np.arange(len(pixels)) % 2)
    found = declared(folder, [{"name": "x", "type": "image"}, Y], kind="npz", path="data.npz", label="y", **entry)
    describe_dataset(found)
    return load_dataset(found)


def test_images_come_as_channels_first_in_0_to_1(tmp_path: Path) -> None:
    full = np.array([0, 255], np.uint8).repeat(12)
    assert images(tmp_path, full.reshape(2, 3, 4)).features.shape == (2, 1, 3, 4)
    last = images(tmp_path, full.reshape(2, 2, 2, 3), channel_axis="last").features
    assert (last.shape, last.min(), last.max()) == ((2, 3, 2, 2), 0, 1)
    assert images(tmp_path, np.full((2, 2, 2), 65535, np.uint16)).features.max() == 1
    assert images(tmp_path, np.full((2, 2, 2), 0.25)).features.max() == np.float32(0.25)
    scaled = images(tmp_path, np.array([-1.0, 1.0]).repeat(4).reshape(2, 2, 2), ranges={"x": [-1, 1]}).features
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert images(tmp_path, np.full((2, 2, 2), 16), ranges={"x": [0, 16]}).features.max() == 1


@pytest.mark.parametrize(
    ("dtype", "ranges", "scale"),
    [("uint8", {}, None), ("uint16", {}, None), ("float32", {}, None), ("int16", {"x": [-1000, 3000]}, (-1000, 3000))],
)
def test_a_site_tells_how_its_pixels_are_stored(tmp_path: Path, dtype: str, ranges: Any, scale: Any) -> None:
    """And its rows say the same, so that the site's own child compares with what was agreed on."""
    rows = images(tmp_path, np.zeros((2, 2, 2), dtype), ranges=ranges).columns[0]
    entry = declared(
        tmp_path, [{"name": "x", "type": "image"}, Y], kind="npz", path="data.npz", label="y", ranges=ranges
    )
    told = describe_dataset(entry).columns[0]
    assert (told.dtype, told.scale, told.shape) == (dtype, scale, (1, 2, 2))
    assert (rows.dtype, rows.scale) == (dtype, scale)


@pytest.mark.parametrize(
    ("pixels", "entry", "told"),
    [
        (np.zeros((2, 32, 32, 3), np.uint8), {}, "channel_axis: last"),
        (np.zeros((2, 4)), {}, "images must be"),
        (np.full((2, 2, 2), 16), {}, "need the range"),
        (np.full((2, 2, 2), 16.0), {}, "under ranges"),
        (np.full((2, 2, 2), 300, np.int32), {"ranges": {"x": [0, 255]}}, "reach from 300"),
        (np.full((2, 2, 2), np.nan), {}, "not finite"),
        (np.zeros((2, 2, 2), bool), {}, "type bool"),
        (np.zeros((2, 0, 2)), {}, "no pixels"),
    ],
)
def test_images_that_would_be_misread_are_refused(tmp_path: Path, pixels: Any, entry: Any, told: str) -> None:
    with pytest.raises(BadDataset) as caught:
        images(tmp_path, pixels, **entry)
    assert told in caught.value.explain()
