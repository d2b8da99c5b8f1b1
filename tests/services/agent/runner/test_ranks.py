"""Several processes of a site that train together, behind the child's real walls, against one process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from undersong.recipes.catalogue import load_file
from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.recipes.protocol import source_digest
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.runner.process import ProcessLauncher
from undersong.services.agent.runner.protocol import RunOrder, Setup
from undersong.services.agent.runner.warm import WarmRunner
from undersong.shared.learning.tensors import load, save
from undersong.shared.wire.manifest import DataRef

pytestmark = pytest.mark.process
RECIPE = '''
import os
import socket
import sys
from torch import nn
from torch.nn.functional import cross_entropy
from undersong.recipe import IMAGE, ModelShape, TorchRecipe
from undersong.recipes.parallel import ranks


def build(shape: ModelShape, batch_norm: bool = False, exits: bool = False) -> nn.Module:
    """A layer."""
    place = ranks()
    print(f"process {os.getpid()} is {place.rank} of {place.size}", file=sys.stderr)
    ways = ((socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_UNIX, "/run/docker.sock"))
    for family, address in ways if place.size > 1 else ():
        try:
            with socket.socket(family) as opened:
                opened.connect(address)
        except OSError as error:
            print(f"family {family.value}: errno {error.errno}", file=sys.stderr)
    if exits and place.rank:
        raise MemoryError
    between = [nn.BatchNorm1d(12)] if batch_norm else []
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.inputs, 12), *between, nn.ReLU(), nn.Linear(12, 10))


def augment(x, random, noise: float = 0.1):
    """Noise in the pixels."""
    return x + noise * float(random.random())


RECIPE = TorchRecipe(
    __file__, build=build, loss=cross_entropy, augment=augment, task="multiclass", classes=10, inputs=IMAGE
)
'''
PARAMS = {
    "epochs": 2, "batch_size": 9, "learning_rate": 0.05, "momentum": 0.9, "proximal_mu": 0.1, "clip_gradient": 1.0,
    "validation_fraction": 0.2, "patience": 1, "optimiser": "sgd",
}  # fmt: skip


class Site:
    """A folder with a few images, the recipe and its first model."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        self.folder, self.recipe = folder, folder / "layers.py"
        self.recipe.write_text(RECIPE)
        labels = random.integers(0, 10, 64).astype(np.float64)
        np.savez(folder / "images.npz", pixels=random.integers(0, 256, (64, 5, 5), dtype=np.uint8), digit=labels)
        (folder / "datasets.yaml").write_text(
            "datasets: [{name: images, kind: npz, path: images.npz, label: digit, "
            "columns: [{name: pixels, type: image}, {name: digit, type: number}]}]"
        )
        self.digest = source_digest(self.recipe)

    def model(self, **params: object) -> Path:
        data = load_dataset(read_datasets(self.folder / "datasets.yaml")["images"])
        path = self.folder / "model"
        path.write_bytes(save(load_file(self.recipe).initial(data.shape, PARAMS | params, {}, 0)))
        return path

    def runner(self, processes: int) -> WarmRunner:
        (self.folder / "work" / "task").mkdir(parents=True, exist_ok=True)
        setup = Setup(
            str(self.folder / "datasets.yaml"), (str(self.recipe),), (self.digest,), device="cpu", processes=processes,
            reads=(str(self.folder / "model"),), writes=(str(self.folder / "work"),),
        )  # fmt: skip
        files = {"images": [self.folder / "images.npz"]}
        return WarmRunner(ProcessLauncher(self.folder), setup, taken=self.folder / "taken", data=files)

    def order(self, **params: object) -> RunOrder:
        return RunOrder(
            "train", "layers", self.digest, PARAMS | params, DataRef(dataset="images"), {}, 7,
            self.folder / "work" / "task", self.model(**params),
        )  # fmt: skip

    def log(self) -> list[str]:
        return (self.folder / "recipes.log").read_text().splitlines()


async def tensors(runner: WarmRunner, order: RunOrder) -> tuple[dict[str, np.ndarray], float]:
    made = await runner.run(order, lambda _: None, limit_s=120)
    assert made.tensors is not None
    return dict(load(made.tensors.read_bytes()).tensors), made.loss


@pytest.mark.exhaustive
async def test_two_processes_make_the_model_of_one_behind_the_same_walls(tmp_path: Path) -> None:
    site = Site(tmp_path)
    alone, together = site.runner(1), site.runner(2)
    try:
        one, loss = await tensors(alone, site.order())
        for _ in range(2):  # the second round by the same processes
            two, same = await tensors(together, site.order())
        assert same == pytest.approx(loss, rel=1e-5)
        for name, value in one.items():
            np.testing.assert_allclose(two[name], value, rtol=1e-4, atol=1e-6)
        lines = site.log()
        assert {line.split(" ", 2)[2] for line in lines if line.startswith("process")} == {
            "is 0 of 1", "is 0 of 2", "is 1 of 2",
        }  # fmt: skip
        assert len({line.split()[1] for line in lines if line.endswith("is 1 of 2")}) == 1
        if together.closed["network"] == "closed":
            told = {line for line in lines if line.startswith("family")}
            assert "family 1: errno 1" in told, "no socket of another kind than IPv4"
            assert told <= {"family 1: errno 1", "family 2: errno 1", "family 2: errno 101"}, "no way out"
        normal, _ = await tensors(alone, site.order(batch_norm=True, validation_fraction=0, patience=0))
        same_normal, _ = await tensors(together, site.order(batch_norm=True, validation_fraction=0, patience=0))
        assert all(np.array_equal(same_normal[name], value) for name, value in normal.items()), "one trains alone"
        with pytest.raises(TaskFailure) as failed:
            await tensors(together, replace(site.order(), params=PARAMS | {"exits": True}))
        assert failed.value.code == "out-of-memory"
        with pytest.raises(TaskFailure, match="diverged"):
            await tensors(together, site.order(learning_rate=100.0, clip_gradient=0, proximal_mu=1000.0, epochs=5))
        assert (await tensors(together, site.order()))[1] == pytest.approx(loss, rel=1e-5), "new ones are started"
    finally:
        await alone.close()
        await together.close()
