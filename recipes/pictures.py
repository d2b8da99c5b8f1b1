"""Images of a folder: a manifest, which is a CSV file, names a file in each row, and Pillow reads it."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.entry import BadDataset, DatasetEntry
from undersong.recipes.files import FilePart, csv_parts
from undersong.recipes.options import ImageOptions
from undersong.shared.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
MODES: Final = {"grey": "L", "rgb": "RGB"}
EXACT: Final = {"grey": ("L", "1"), "rgb": ("RGB", "P")}
"""Pillow's modes of files that hold these channels already."""
CONVERTED: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Those of eight bits or fewer a channel."""
MOST_PIXELS: Final = 100_000_000  # of one file, as it is stored
PART_BYTES: Final = 64 * 2**20


def folder_parts(entry: DatasetEntry, path: Path, wanted: Sequence[str]) -> Iterator[FilePart]:
    """Yield the manifest's rows, images as uint8[n, channels, height, width]; rows without a file are left out."""
    options = entry.images
    assert options is not None  # noqa: S101 (checked when it was declared)
    name = next(column.name for column in entry.columns if column.type == "image")
    absent = {"", *entry.missing_of(name)}
    at_once = max(1, PART_BYTES // (math.prod(options.shape)))
    for part in csv_parts(entry, path, wanted):
        if name not in wanted:
            yield part
            continue
        files = [str(cell).strip() for cell in part.cells[name]]
        rows = [row for row, file in enumerate(files) if file not in absent]
        for start in range(0, len(rows), at_once):
            chosen = rows[start : start + at_once]
            cells: dict[str, Any] = {
                key: [cells[row] for row in chosen] for key, cells in part.cells.items() if key != name
            }
            cells[name] = np.stack([_read(options, files[row], part.where(row)) for row in chosen])
            yield FilePart(cells, [part.places[row] for row in chosen], part.unit)


def _read(options: ImageOptions, file: str, where: str) -> npt.NDArray[np.uint8]:
    """Return a file's image, uint8[channels, height, width]; raises `BadDataset`."""
    place = PurePosixPath(file)
    if place.is_absolute() or ".." in place.parts or "\0" in file:
        raise _bad("is no path below its folder", f"{where}: {file}")
    path = options.folder / place
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise BadDataset("its images need the package Pillow: pip install 'undersong[agent]'") from None
    try:
        with (
            os.fdopen(open_regular(path), "rb") as opened,
            warnings.catch_warnings(action="ignore"),  # of damaged metadata, and of sizes that are looked at here
            Image.open(opened, formats=FORMATS) as image,
        ):
            pixels = np.array(_fitted(options, image, f"{where}: {file}"), np.uint8)
    except FileNotFoundError:
        raise _bad("is not in its folder", f"{where}: there is no file {path}") from None
    except UnidentifiedImageError:
        raise _bad("is no image that can be read", f"{where}: {file} is none of {', '.join(FORMATS)}") from None
    except BadDataset:
        raise
    except Exception as error:  # noqa: BLE001 (Pillow's readers of formats raise anything where a file is damaged)
        raise _bad("is cut or damaged", f"{where}: {file}: {error}") from None
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def _fitted(options: ImageOptions, image: Image, told: str) -> Image:
    """Return the image in the declared size and channels, exactly, or made so where `fit` allows it."""
    from PIL.Image import Resampling

    mode, size = MODES[options.channels], (options.width, options.height)
    if image.width * image.height > MOST_PIXELS:
        raise _bad(f"has more than {MOST_PIXELS:,} pixels", told)
    if image.mode not in CONVERTED:
        said = f"{told} has the mode {image.mode}: store it with 8 bits, or as npz"
        raise _bad("has pixels of more than 8 bits", said)
    if not options.fit:
        if image.size != size:
            found = f"{image.height} high and {image.width} wide"
            raise _bad("has another size than its declaration", f"{told} is {found}: fit: true scales it")
        if image.mode not in EXACT[options.channels]:
            said = f"{told} has the mode {image.mode}, and channels is {options.channels}: fit: true converts it"
            raise _bad("has other channels than its declaration", said)
    if image.mode != mode:
        image = image.convert(mode)
    return image if image.size == size else image.resize(size, Resampling.BILINEAR)


def _bad(what: str, told: str) -> BadDataset:
    return BadDataset(
        f"an image {what}", f"{told}; correct it, or list the file under missing of its column to leave its row out"
    )
