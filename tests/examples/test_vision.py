"""The example of images in a small version: scikit-learn's digits in place of MNIST, and files made here."""

import gzip
import importlib.util
import struct
import tarfile
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from undersong.recipes.catalogue import load_file
from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.recipes.protocol import source_digest
from undersong.recipes.supervised import ModelShape
from undersong.shared.wire.profiles import Task
from undersong.simulate import simulate

VISION = Path(__file__).parents[2] / "examples" / "vision"
NETWORKS = VISION / "networks.py"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"vision_{name}", VISION / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def job(name: str, **changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((VISION / name).read_text()), **changes}


def parts_of(count: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    found = {}
    for part in ("train", "test"):
        found[f"x_{part}"] = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        found[f"y_{part}"] = random.integers(0, 10, count, dtype=np.uint8)
    return found


@pytest.mark.parametrize(
    ("model", "sample", "parameters"),
    [("2nn", (1, 28, 28), 199_210), ("cnn", (1, 28, 28), 1_663_370), ("small-cnn", (3, 32, 32), 122_570)],
)
def test_the_networks_are_those_of_the_paper(model: str, sample: tuple[int, ...], parameters: int) -> None:
    built = module("networks").build(ModelShape(sample, 10, Task.MULTICLASS), model)
    assert sum(each.numel() for each in built.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "partition", "rounds", "least"),
    [
        ("mnist-2nn.yaml", "iid", 4, 0.6),
        pytest.param("mnist-shards.yaml", "shards:2", 10, 0.5, marks=pytest.mark.exhaustive),
    ],
)
def test_digits_are_learned_by_simulated_clients(
    name: str, partition: str, rounds: int, least: float, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    module("prepare").write("mnist", named(module("run").digits()), folder)
    (folder / "data.yaml").write_text((VISION / "mnist-data.yaml").read_text())
    short = job(name, rounds=rounds, evaluation={"every": rounds})
    run = simulate(
        short,
        folder / "data.yaml",
        clients=10,
        partition=partition,
        recipes=[NETWORKS],
        workers=0,
        out=tmp_path / "out",
    )
    assert run.metrics["examples"] == 360
    assert run.metrics["accuracy"] > least
    assert (tmp_path / "out" / "metrics.svg").read_text().startswith("<svg")


def named(parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{axis}_{part}": array for part, pair in parts.items() for axis, array in zip("xy", pair, strict=True)}


@pytest.mark.exhaustive
def test_four_agents_learn_digits_together(tmp_path: Path) -> None:
    found = module("run").run(module("run").digits(), tmp_path, "2nn", 4)
    assert len(found) == 4
    assert found[-1] > 0.7


def test_each_site_declares_its_own_part_and_allows_the_recipe(tmp_path: Path) -> None:
    run = module("run")
    declared = run.deal(run.digits(), tmp_path)
    rows = 0
    for site, document in declared.items():
        (tmp_path / f"{site}.yaml").write_text(yaml.safe_dump(document))
        data = load_dataset(read_datasets(tmp_path / f"{site}.yaml")["mnist"])
        assert data.features.shape[1:] == (1, 8, 8)
        rows += len(data.label)
    assert rows == 1797
    assert run.policy()["recipes"][0]["digest"] == source_digest(NETWORKS)


def test_colour_images_are_taken_from_a_local_file_and_trained_on(tmp_path: Path) -> None:
    prepare, made = module("prepare"), parts_of(8, (32, 32, 3))
    np.savez(tmp_path / "local.npz", **made)
    arrays = prepare.cifar10(tmp_path / "local.npz")
    assert np.array_equal(arrays["x_train"][0, 1], made["x_train"][0, :, :, 1])
    prepare.write("cifar10", arrays, tmp_path)
    (tmp_path / "data.yaml").write_text((VISION / "cifar10-data.yaml").read_text())
    data = load_dataset(read_datasets(tmp_path / "data.yaml")["cifar10"])
    recipe, params = load_file(NETWORKS), job("cifar10.yaml")["recipe"]["params"]
    model = recipe.initial(data.shape, params, {}, 0).tensors
    assert recipe.train(model, data, params, {}, 0, lambda _: None).examples == 8


def test_the_archive_of_colour_images_is_read_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, made = module("prepare"), parts_of(10, (3, 32, 32))
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(5):
            rows = slice(2 * number, 2 * number + 2)
            add(archive, f"data_batch_{number + 1}", made["x_train"][rows], made["y_train"][rows])
        add(archive, "test_batch", made["x_test"], made["y_test"])
    with pytest.raises(prepare.Unfit, match="not the published"):
        prepare.cifar10(path)
    monkeypatch.setitem(prepare.PUBLISHED, path.name, prepare._digest(path.read_bytes()))
    assert all(np.array_equal(array, made[name]) for name, array in prepare.cifar10(path).items())


def add(archive: Any, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    content = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1).astype(np.uint8).tobytes()
    entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
    entry.size = len(content)
    archive.addfile(entry, BytesIO(content))


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_of_other_content_are_refused(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = module("prepare")
    made = parts_of(3, (28, 28))
    for name, (file, head, shape) in prepare.IDX.items():
        monkeypatch.setitem(prepare.IDX, name, (file, head, (3, *shape[1:])))
        content = struct.pack(">" + "I" * (head // 4), *range(head // 4)) + made[name].tobytes()
        path = tmp_path / (f"{file}.gz" if packed else file)
        path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(prepare.Unfit, match="x_train is not the published one"):
        prepare.mnist(tmp_path)
    for name, array in made.items():
        monkeypatch.setitem(prepare.PUBLISHED, name, prepare._digest(array.tobytes()))
    assert all(np.array_equal(array, made[name]) for name, array in prepare.mnist(tmp_path).items())
    (tmp_path / path.name).write_bytes(gzip.compress(content[:-1]) if packed else content[:-1])
    with pytest.raises(prepare.Unfit, match="bytes: it is not that of MNIST"):
        prepare.mnist(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None}, "no array x_test"),
        ({"y_train": np.full(4, 10)}, "labels 0 to 9"),
        ({"x_train": np.zeros((4, 28, 28), np.uint8)}, "no colour images"),
        ({"x_train": np.full((4, 32, 32, 3), np.nan)}, "whole numbers"),
        ({"y_test": np.full(4, -1)}, "whole numbers"),
    ],
)
def test_an_npz_file_of_something_else_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = {name: array for name, array in (parts_of(4, (32, 32, 3)) | change).items() if array is not None}
    np.savez(tmp_path / "local.npz", **made)
    prepare = module("prepare")
    with pytest.raises(prepare.Unfit, match=message):
        prepare.cifar10(tmp_path / "local.npz")
