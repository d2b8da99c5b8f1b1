"""Compares what recipes learn on a GPU with what they learn on the CPU: python -m tests.gpu.check

Built-in recipes and an own `TorchRecipe` are trained for a round in the confined process that agents use, in float32
and bfloat16, by one process and by two; with `--image` in containers that get the GPUs (docker's `--gpus`). Without a
GPU it says that it did not run, and ends well. `--device cpu` runs the same against itself, to try this script.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from undersong.recipes.catalogue import load_file, load_recipe
from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.recipes.protocol import Recipe, Tensors, round_sums
from undersong.services.agent.runner.docker import DockerLauncher
from undersong.services.agent.runner.process import ProcessLauncher
from undersong.services.agent.runner.protocol import RunOrder, Setup
from undersong.services.agent.runner.warm import WarmRunner
from undersong.services.agent.settings import DockerSettings
from undersong.services.agent.site.description import OPEN_POLICY
from undersong.shared.learning.tensors import load, save
from undersong.shared.wire.manifest import DataRef

OWN: Final = Path(__file__).parents[2] / "examples" / "vision" / "networks.py"
TOLERANCE: Final = {"float32": 0.02, "bfloat16": 0.2}
"""Largest difference of the update from that of the CPU in float32, relative to its norm."""
LOCAL: Final = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05}
DATASETS: Final = """
datasets:
  - {name: rows, kind: csv, path: rows.csv, label: y,
     columns: [{name: a, type: number}, {name: b, type: number}, {name: c, type: number}, {name: y, type: number}]}
  - {name: images, kind: npz, path: images.npz, label: y,
     columns: [{name: pixels, type: image}, {name: y, type: number}]}
  - {name: series, kind: csv, path: series.csv, columns: [{name: v, type: number}],
     dates: {at: "%Y-%m-%d %H:%M"},
     series: {time: at, target: v, lags: 4, horizon: 1, every: 1 h},
     split: {by: time, column: at, test_from: 2024-01-08 00:00}}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A recipe, its parameters and the data set that it is trained on."""

    name: str
    recipe: str
    data: str
    params: Mapping[str, Any]


CASES: Final = (
    Case("tabular, two layers", "tabular", "rows", {**LOCAL, "hidden": [16, 16]}),
    Case("image, cnn in groups", "image", "images", {**LOCAL, "normalisation": "group"}),
    Case("image, residual", "image", "images", {**LOCAL, "model": "resnet", "channels": [8, 16], "blocks": 1}),
    Case("series, gru", "series", "series", {**LOCAL, "model": "gru"}),
    Case("own, 5x5 convolutions", "networks", "images", {**LOCAL, "model": "cnn"}),
)


@dataclass(frozen=True, slots=True)
class Way:
    """Where and how a case is trained."""

    device: str
    precision: str = "float32"
    processes: int = 1
    image: str | None = None


class Site:
    """A folder with generated rows, images and a series."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        self.folder = folder
        self.work = folder / "work" / "task"
        self.work.mkdir(parents=True)
        (folder / "models").mkdir()
        x = random.normal(size=(200, 3))
        label = (x @ [1.0, -2.0, 0.5] > 0).astype(int)
        lines = [",".join([*(f"{value:.6f}" for value in row), str(y)]) for row, y in zip(x, label, strict=True)]
        (folder / "rows.csv").write_text("\n".join(["a,b,c,y", *lines]) + "\n")
        labels = random.integers(0, 10, 100)
        pixels = random.integers(0, 128, (100, 16, 16)) + (12 * labels)[:, None, None]
        np.savez(folder / "images.npz", pixels=pixels.astype(np.uint8), y=labels.astype(np.float64))
        hours = [f"2024-01-{1 + hour // 24:02} {hour % 24:02}:00,{np.sin(hour / 4):.6f}" for hour in range(200)]
        (folder / "series.csv").write_text("\n".join(["at,v", *hours]) + "\n")
        (folder / "datasets.yaml").write_text(DATASETS)

    def order(self, case: Case, way: Way) -> tuple[RunOrder, Tensors]:
        """Return the order of a round, and the tensors that it starts from."""
        recipe: Recipe = load_file(OWN) if case.recipe == "networks" else load_recipe(case.recipe)
        data = load_dataset(read_datasets(self.folder / "datasets.yaml")[case.data])
        sums = round_sums(recipe, data, case.params, {}, 0) if recipe.spec.statistics else None
        context = {} if sums is None else {"statistics": [float(value) for value in sums]}
        first = recipe.initial(data.shape, case.params, context, 0)
        model = self.folder / "models" / "model"
        model.write_bytes(save(first))
        params = {**case.params, "precision": way.precision}
        order = RunOrder(
            "train", case.recipe, recipe.spec.digest, params, DataRef(dataset=case.data), context, 1, self.work, model
        )
        return order, first.tensors

    def runner(self, way: Way) -> WarmRunner:
        """Return the runner that an agent would have."""
        inside = way.image is None
        setup = Setup(
            str(self.folder / "datasets.yaml"),
            (str(OWN),),
            (load_file(OWN).spec.digest,),
            device=way.device,
            processes=way.processes,
            isolate_network=inside,
            confine=inside,
            reads=(str(self.folder / "models"),),
            writes=(str(self.folder / "work"),),
        )
        files = {name: [self.folder / file] for name, file in (("images", "images.npz"), ("rows", "rows.csv"))}
        launcher = ProcessLauncher(self.folder) if inside else self._containers(way)
        return WarmRunner(
            launcher, setup, taken=self.folder / "taken", data=files | {"series": [self.folder / "series.csv"]}
        )

    def _containers(self, way: Way) -> DockerLauncher:
        return DockerLauncher(
            DockerSettings(image=str(way.image)),
            replace(OPEN_POLICY.resources, gpus=-1 if way.device == "cuda" else 0),
            folder=self.folder / "work",
            models=self.folder / "models",
            device=way.device,
        )


async def trained(site: Site, way: Way, cases: Sequence[Case]) -> dict[str, tuple[np.ndarray, float]]:
    """Return each case's update as one vector, and the seconds of its round."""
    runner, found = site.runner(way), {}
    try:
        for case in cases:
            order, first = site.order(case, way)
            began = time.monotonic()
            made = await runner.run(order, lambda _: None, limit_s=600)
            assert made.tensors is not None
            after = load(made.tensors.read_bytes()).tensors
            moved = [after[name] - value for name, value in first.items() if value.dtype == np.float32]
            found[case.name] = np.concatenate([each.ravel() for each in moved]), time.monotonic() - began
    finally:
        await runner.close()
    return found


def ways(device: str, image: str | None) -> Iterator[Way]:
    """Yield what is compared with float32 in one process on the CPU."""
    for precision in TOLERANCE:
        for processes in (1, 2):
            yield Way(device, precision, processes, image)


async def check(device: str, image: str | None, cases: Sequence[Case] = CASES) -> bool:
    """Train everything, print a line for each, and return whether all agree with the CPU."""
    agree = True
    with tempfile.TemporaryDirectory(prefix="undersong-gpu-") as folder:
        site = Site(Path(folder))
        plain = await trained(site, Way("cpu"), cases)
        for way in ways(device, image):
            for name, (moved, took) in (await trained(site, way, cases)).items():
                wanted = plain[name][0]
                off = float(np.linalg.norm(moved - wanted) / np.linalg.norm(wanted))
                holds = off <= TOLERANCE[way.precision]
                agree &= holds
                told = f"{name:24} {device} {way.precision:9} {way.processes} process(es) {took:6.1f} s"
                sys.stdout.write(f"{told}  differs by {off:.1e}  {'ok' if holds else 'DIFFERS'}\n")
    return agree


def gpus() -> list[str]:
    """Return the names of the GPUs that PyTorch finds, asked in a process that ends."""
    code = "import torch; print(*(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the device, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.check", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--image", help="run in containers of this image, with all GPUs (docker's --gpus)")
    options = parser.parse_args(arguments)
    found = gpus() if options.device == "cuda" else []
    if options.device == "cuda" and not found:
        sys.stdout.write("not run: PyTorch finds no GPU here (--device cpu tries the script)\n")
        return 0
    sys.stdout.write(f"on {', '.join(found) or 'the CPU, against itself'}\n")
    return 0 if asyncio.run(check(options.device, options.image)) else 1


if __name__ == "__main__":
    sys.exit(main())
