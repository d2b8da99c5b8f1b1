"""The container runner on a real Docker engine: what a recipe can reach in there, and that killing kills."""

import asyncio
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from undersong.recipes.protocol import source_digest
from undersong.services.agent.domain.rules import Resources, TaskFailure
from undersong.services.agent.runner.docker import LABEL, DockerLauncher
from undersong.services.agent.runner.folders import fresh
from undersong.services.agent.runner.protocol import RunOrder, Setup
from undersong.services.agent.runner.warm import WarmRunner
from undersong.services.agent.settings import DockerSettings, Mount
from undersong.shared.learning.tensors import Model, Schema, load, save
from undersong.shared.wire.manifest import DataRef

IMAGE = "undersong-test-stub"
MIB = 2**20
ROOT = Path(__file__).parents[4]

HOSTILE = (Path(__file__).parents[1] / "hostile_recipe.py").read_text()
PROBE = """
import os, socket, json
from pathlib import Path
import numpy as np
from undersong.recipes.protocol import TrainResult, source_digest
from undersong.shared.wire.profiles import RecipeSpec, Task

class Probe:
    def __init__(self):
        self.spec = RecipeSpec(name="probe", version="1", digest=source_digest(Path(__file__)), task=Task.BINARY)
    def initial(self, shape, params, context, seed): raise NotImplementedError
    def predict(self, model, rows, params): return np.zeros(0)
    def train(self, model, data, params, context, seed, progress):
        progress(0.1)
        if params.get("bytes"): np.ones(int(params["bytes"]) // 8).sum()
        if params.get("sleep_s"):
            import time; time.sleep(params["sleep_s"])
        return TrainResult(model, 1, 0.0)
    def evaluate(self, model, data, params, context): raise NotImplementedError
    def statistics(self, data, params, seed):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        def refused(path):
            try: Path(path).write_text("x"); return 0.0
            except OSError: return 1.0
        interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
        return np.array([float(os.getuid()), float(int(status["CapEff"], 16)), float(status["NoNewPrivs"]),
                         float(len(interfaces)), refused("/etc/x"), refused(params["models"] + "/x"), refused("/x")])

RECIPE = Probe()
"""


def engine_runs() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0


pytestmark = [pytest.mark.docker, pytest.mark.skipif(not engine_runs(), reason="no Docker engine")]


@pytest.fixture(scope="module")
def image():
    """An image with nothing in it: the interpreter comes in by read-only mounts."""
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(folder)
    subprocess.run(["docker", "import", "-", IMAGE], input=empty.getvalue(), capture_output=True, check=True)
    yield IMAGE
    subprocess.run(["docker", "image", "rm", "-f", IMAGE], capture_output=True, check=False)


class Bench:
    def __init__(self, folder: Path, image: str, *, recipe: str = PROBE, **resources) -> None:
        folder.chmod(0o755)
        self.work, self.models = folder / "work", folder / "models"
        self.task = self.work / "task"
        self.task.mkdir(parents=True)
        self.task.chmod(0o777)
        self.models.mkdir()
        self.recipe = folder / "probe.py"
        self.recipe.write_text(recipe)
        self.name = "hostile" if recipe is HOSTILE else "probe"
        (folder / "datasets.yaml").write_text("datasets: [{name: bench, kind: none}]")
        tensors = {"weights": np.ones(4, np.float32)}
        (self.models / "model").write_bytes(save(Model(Schema.of(tensors), tensors)))
        self.digest = source_digest(self.recipe)
        system = [Path(path) for path in ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache") if Path(path).exists()]
        seen = {path: path.resolve() for path in [*system, Path(sys.base_prefix), Path(sys.prefix), ROOT]}
        settings = DockerSettings(
            image=image,
            command=[sys.executable, "-m", "undersong.services.agent.runner.child"],
            environment={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin", "OMP_NUM_THREADS": "1"},
            mounts=[Mount(source=source, target=str(target)) for target, source in seen.items()],
        )
        limits = {"memory_bytes": 512 * MIB, "file_bytes": 64 * MIB, "model_bytes": MIB, "task_s": 60.0, "cpus": 1.0}
        made = Resources(**{**limits, "disk_bytes": 64 * MIB, "pids": 64, "gpus": 0, **resources})
        launcher = DockerLauncher(settings, made, folder=self.work, models=self.models)
        setup = Setup(
            str(folder / "datasets.yaml"), (str(self.recipe),), (self.digest,), device="cpu", isolate_network=False,
            confine=False, file_bytes=made.file_bytes, disk_bytes=made.disk_bytes,
        )  # fmt: skip
        self.runner = WarmRunner(launcher, setup, taken=folder / "taken")

    async def run(self, kind="train", **params):
        order = RunOrder(
            kind, self.name, self.digest, params, DataRef(dataset="bench"), {}, 1, self.task, self.models / "model"
        )  # fmt: skip
        return await self.runner.run(order, lambda _: None, limit_s=60)

    def containers(self) -> list[str]:
        command = ["docker", "ps", "-aq", "--filter", f"label={LABEL}={self.work}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
async def bench(tmp_path, image):
    made = Bench(tmp_path, image)
    yield made
    await made.runner.close()
    assert made.containers() == []


async def test_a_recipe_reaches_nothing_but_its_task(bench) -> None:
    """Not root, no capability, no network, nothing writable but its folder and /tmp."""
    outcome = await bench.run("statistics", models=str(bench.models))
    uid, capabilities, no_new, interfaces, *refused = np.fromfile(outcome.sums)
    assert uid == (os.geteuid() or 10001)
    assert (capabilities, no_new, interfaces) == (0, 1, 0)
    assert refused == [1, 1, 1]
    made = await bench.run()
    assert made.examples == 1
    assert set(load(made.tensors.read_bytes()).tensors) == {"weights"}
    assert len(bench.containers()) == 1, "the container stays warm"
    described = await bench.runner.describe()
    assert described.own_recipes == ["probe"]


async def test_abort_removes_the_container(bench) -> None:
    work = asyncio.create_task(bench.run(sleep_s=60))
    while not bench.containers():  # noqa: ASYNC110 (the engine tells by being asked)
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    started = time.monotonic()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert time.monotonic() - started < 40  # and not after the minute that the recipe sleeps
    assert bench.containers() == []


async def test_memory_is_limited_and_leftovers_are_removed(tmp_path, image) -> None:
    bench = Bench(tmp_path, image, memory_bytes=256 * MIB)
    with pytest.raises(TaskFailure) as failure:
        await bench.run(bytes=1024 * MIB)
    assert failure.value.code in ("child-died", "out-of-memory")
    await bench.run()
    assert len(bench.containers()) == 1
    await bench.runner.clean()  # as the next agent does after a kill -9
    assert bench.containers() == []
    await bench.runner.close()


async def test_a_hostile_recipe_is_contained(tmp_path, image) -> None:
    """The attacks of `hostile_recipe.py`; after each the runner works on."""
    bench = Bench(tmp_path, image, recipe=HOSTILE)
    secret = tmp_path / "identity.key"
    secret.write_text("a secret of the site")
    folder = str(bench.task)

    async def attack(name: str, limit_s: float = 60.0, **params) -> TaskFailure:
        await asyncio.to_thread(fresh, bench.task, 0o777)
        order = RunOrder(
            "train", "hostile", bench.digest, {"attack": name, **params}, DataRef(dataset="bench"), {}, 1, bench.task,
            bench.models / "model",
        )  # fmt: skip
        with pytest.raises(TaskFailure) as found:
            await bench.runner.run(order, lambda _: None, limit_s=limit_s)
        return found.value

    with socket.create_server(("127.0.0.1", 0)) as listener:
        targets = [str(secret), "/etc/x", str(bench.models / "x"), str(bench.recipe)]
        spied = await attack("spy", secrets=[str(secret), "/etc/shadow"], folders=[], targets=targets)
        assert (spied.code, spied.detail) == ("recipe-error", "Contained"), spied.text
        called = await attack("network", port=listener.getsockname()[1], udp=False)  # into its own loopback
        assert (called.code, called.detail) == ("recipe-error", "Contained"), called.text
    bombed = await attack("bomb", most=300)
    assert (bombed.code, bombed.detail) == ("recipe-error", "BlockingIOError"), bombed.text
    assert (await attack("fill", most=100, folder=folder)).code == "disk-limit"
    assert (await attack("eat", most=2048)).code in ("out-of-memory", "child-died")
    assert (await attack("stubborn", limit_s=4.0)).code == "task-time"
    assert (await attack("link_in_place", folder=folder, to=str(secret))).code == "bad-result"
    waits = await attack("pipe_in_place", limit_s=4.0, folder=folder)
    assert waits.code == "task-time", "the recipe's own side waits for a reader that never comes"
    assert (await attack("babble")).code == "child-died"
    await bench.runner.close()
    assert bench.containers() == []


async def test_a_missing_image_is_told(tmp_path) -> None:
    bench = Bench(tmp_path, "undersong-not-there")
    with pytest.raises(TaskFailure, match="not here"):
        await bench.run()
