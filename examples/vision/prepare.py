"""Bring a data set to this folder: python examples/vision/prepare.py mnist [--from PATH]

Without `--from` the published files are fetched from where they lie. PATH is a folder with the four IDX files of MNIST
(packed by gzip or not), the archive cifar-10-binary.tar.gz, or an npz file with x_train, y_train, x_test and y_test.
What a file unpacks to must be the published bytes; images of an npz file of CIFAR-10 are taken as they are.
"""

import argparse
import gzip
import hashlib
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

HERE: Final = Path(__file__).resolve().parent
MNIST: Final = "https://storage.googleapis.com/cvdf-datasets/mnist/"
CIFAR10: Final = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARRAYS: Final = ("x_train", "y_train", "x_test", "y_test")
IDX: Final = {
    "x_train": ("train-images-idx3-ubyte", 16, (60_000, 28, 28)),
    "y_train": ("train-labels-idx1-ubyte", 8, (60_000,)),
    "x_test": ("t10k-images-idx3-ubyte", 16, (10_000, 28, 28)),
    "y_test": ("t10k-labels-idx1-ubyte", 8, (10_000,)),
}
"""Of each array of MNIST its file, the length of the file's head, and the shape of the bytes after it."""
PUBLISHED: Final = {
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
}
"""SHA-256 of the bytes of MNIST's arrays, and of the archive of CIFAR-10."""
MOST_BYTES: Final = 200 * 2**20
RECORD: Final = 1 + 3 * 32 * 32  # of CIFAR-10: a label, then red, green and blue
Arrays = dict[str, npt.NDArray[np.uint8]]


class Unfit(ValueError):
    """The file is not the data set that was asked for."""


def mnist(source: Path | None) -> Arrays:
    """Return MNIST's arrays; raises `Unfit`, OSError."""
    if source is not None and source.is_file():
        found = _of_npz(source)
    else:
        found = {name: _idx(name, source) for name in ARRAYS}
    for name, (_, _, shape) in IDX.items():
        if found[name].shape != shape or _digest(found[name].tobytes()) != PUBLISHED[name]:
            raise Unfit(f"{name} is not the published one of MNIST")
    return found


def cifar10(source: Path | None) -> Arrays:
    """Return CIFAR-10's arrays, images [n, channels, height, width]; raises `Unfit`, OSError."""
    if source is not None and zipfile.is_zipfile(source):
        found = _of_npz(source)
        for part in ("train", "test"):
            images, labels = found[f"x_{part}"], found[f"y_{part}"]
            if images.shape[1:] == (32, 32, 3):
                found[f"x_{part}"] = images = np.ascontiguousarray(np.moveaxis(images, 3, 1))
            if images.shape[1:] != (3, 32, 32) or labels.shape != images.shape[:1] or not (labels < 10).all():
                raise Unfit(f"{source} has no colour images of 32x32 with labels 0 to 9")
        return found
    archive = _fetched(CIFAR10) if source is None else source.read_bytes()
    if _digest(archive) != PUBLISHED["cifar-10-binary.tar.gz"]:
        raise Unfit("the archive is not the published cifar-10-binary.tar.gz")
    with tarfile.open(fileobj=BytesIO(archive), mode="r:gz") as opened:
        return _batches(opened)


def _of_npz(source: Path) -> Arrays:
    with np.load(source, allow_pickle=False) as opened:
        if missing := [name for name in ARRAYS if name not in opened]:
            raise Unfit(f"{source} has no array {missing[0]}")
        found = {name: np.asarray(opened[name]) for name in ARRAYS}
    if odd := [name for name, array in found.items() if array.dtype.kind not in "iu" or not _is_byte(array)]:
        raise Unfit(f"{odd[0]} of {source} does not hold whole numbers from 0 to 255")
    return {
        name: array.astype(np.uint8).reshape(-1) if name[0] == "y" else array.astype(np.uint8)
        for name, array in found.items()
    }


def _is_byte(array: npt.NDArray[np.generic]) -> bool:
    return not array.size or (int(array.min()) >= 0 and int(array.max()) <= 255)


def _idx(name: str, folder: Path | None) -> npt.NDArray[np.uint8]:
    """Return one file of MNIST without its head."""
    file, head, shape = IDX[name]
    if folder is None:
        content = _unpacked(_fetched(f"{MNIST}{file}.gz"))
    elif (folder / file).exists():
        content = (folder / file).read_bytes()
    else:
        content = _unpacked((folder / f"{file}.gz").read_bytes())
    if len(content) != head + int(np.prod(shape)):
        raise Unfit(f"{file} has {len(content)} bytes: it is not that of MNIST")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _unpacked(content: bytes) -> bytes:
    with gzip.open(BytesIO(content)) as opened:
        return opened.read(MOST_BYTES)


def _batches(archive: tarfile.TarFile) -> Arrays:
    def rows(names: Iterator[str]) -> npt.NDArray[np.uint8]:
        parts = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
        return np.frombuffer(b"".join(part.read() for part in parts if part), np.uint8).reshape(-1, RECORD)

    train = rows(f"data_batch_{number}.bin" for number in range(1, 6))
    test = rows(iter(["test_batch.bin"]))
    return {
        "x_train": train[:, 1:].reshape(-1, 3, 32, 32), "y_train": train[:, 0],
        "x_test": test[:, 1:].reshape(-1, 3, 32, 32), "y_test": test[:, 0],
    }  # fmt: skip


def _fetched(url: str) -> bytes:
    sys.stderr.write(f"fetching {url}\n")
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (one of the two addresses above)
        content: bytes = answer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise Unfit(f"{url} answers with more than {MOST_BYTES} bytes")
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(name: str, arrays: Arrays, folder: Path = HERE) -> None:
    """Write the files that the declaration beside this one names."""
    label = {"mnist": "digit", "cifar10": "object"}[name]
    for part in ("train", "test"):
        columns = {"pixels": arrays[f"x_{part}"], label: arrays[f"y_{part}"]}
        np.savez(folder / f"{name}-{part}.npz", **columns)


def main() -> None:
    """Prepare what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=("mnist", "cifar10"))
    parser.add_argument("--from", dest="source", type=Path, help="local files, in place of those on the web")
    options = parser.parse_args()
    try:
        found = (mnist if options.name == "mnist" else cifar10)(options.source)
        write(options.name, found)
    except (OSError, EOFError, Unfit, zipfile.BadZipFile, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{len(found['y_train'])} images for training and {len(found['y_test'])} for the test: {HERE}\n")


if __name__ == "__main__":
    main()
