"""Data sets that cannot be read: reported by name, by agent and doctor alike, while the site serves the others."""

import gzip
import io
import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from tests.effort import also
from tests.pace import Deadline
from tests.services.agent.conftest import AgentProcess
from tests.services.agent.fake_platform import FakePlatform
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.runner.process import ProcessChannel, ProcessLauncher
from undersong.services.agent.runner.protocol import RunOrder, Setup
from undersong.services.agent.runner.warm import WarmRunner
from undersong.shared.wire.manifest import DataRef

pytestmark = pytest.mark.process

COLUMNS = [{"name": "x", "type": "number"}, {"name": "y", "type": "number"}]
ROWS = "x,y\n" + "".join(f"{row},{row % 2}\n" for row in range(30))


def entry(name: str, file: str, **changes: Any) -> dict[str, Any]:
    kind = file.removesuffix(".gz").rpartition(".")[2]
    return {"name": name, "kind": kind, "path": file, "label": "y", "columns": COLUMNS, **changes}


def write_bad(folder: Path) -> list[dict[str, Any]]:
    """Declarations of data sets of which none can be read, with their files."""
    whole = io.BytesIO()
    np.savez_compressed(whole, x=np.arange(500.0), y=np.zeros(500))
    np.save(folder / "array.npy", np.zeros(3))
    (folder / "array.npy").rename(folder / "array.npz")
    np.savez(folder / "short.npz", x=np.zeros(30), y=np.zeros(29))
    (folder / "cut.npz").write_bytes(whole.getvalue()[:-300])
    (folder / "cut.csv.gz").write_bytes(gzip.compress(ROWS.encode())[:-20])
    (folder / "broken.parquet").write_bytes(b"PAR1....PAR1")
    (folder / "ragged.csv").write_text("x,y\n1,0,\n")
    (folder / "folder.csv").mkdir()
    (folder / "loop.csv").symlink_to("loop.csv")
    names = (
        "array.npz",
        "short.npz",
        "cut.npz",
        "cut.csv.gz",
        "broken.parquet",
        "ragged.csv",
        "folder.csv",
        "gone.csv",
        "loop.csv",
        "no\0path.csv",
    )
    return [entry(name, name) for name in names] + [entry("typo", "good.csv", label="yy")]


GOOD = {"good.csv.gz", "good.parquet", "good.npz"}


def write_good(folder: Path) -> list[dict[str, Any]]:
    """A data set of each other kind, to be read in a child behind all walls."""
    (folder / "good.csv.gz").write_bytes(gzip.compress(ROWS.encode()))
    np.savez(folder / "good.npz", x=np.arange(30.0), y=np.arange(30) % 2)
    parquet.write_table(pa.table({"x": np.arange(30.0), "y": np.arange(30) % 2}), folder / "good.parquet")
    return [entry(name, name) for name in sorted(GOOD)]


def wait_for(found: Callable[[], Any]) -> Any:
    deadline = Deadline(60)
    while not (value := found()):
        assert not deadline.over(), "nothing was found"
        time.sleep(0.05)
    return value


def test_bad_data_sets_stop_no_good_one(
    make_agent: Callable[..., AgentProcess], platform: FakePlatform, tmp_path: Path
) -> None:
    """Also while the agent runs: a file that is replaced by a bad one, and by a good one again."""
    agent = make_agent(data_again_s=0.2)
    folder, good = agent.folder, agent.folder / "good.csv"
    bad = write_bad(folder)
    good.write_text(ROWS)
    agent.write("datasets.yaml", {"datasets": [bad[0], entry("good", "good.csv"), *bad[1:], *write_good(folder)]})
    (folder / "policy.yaml").unlink()
    agent.start()

    def served() -> list[str]:
        names = {schema["name"] for schema in platform.profiles[-1]["datasets"]} if platform.profiles else set()
        assert names >= GOOD or not names, "good ones are always served"
        return sorted(names - GOOD)

    wait_for(lambda: served() == ["good"])
    told = {event["dataset"]: event["reason"] for event in agent.events("dataset.unreadable")}
    assert set(told) == {each["name"] for each in bad}
    assert "did you mean 'y'" in told["typo"]
    allowed = yaml.safe_load((folder / "policy.yaml").read_text())["datasets"]
    assert set(allowed) == {"good", *GOOD, *told} - {"typo"}, "what is declared is allowed, readable or not"
    doctor = [sys.executable, "-c", "from undersong.cli import main; main()", "doctor", "--json", "--agent"]
    done = subprocess.run([*doctor, str(folder / "agent.yaml")], capture_output=True, text=True, timeout=60)
    found = {each["subject"]: each for each in json.loads(done.stdout) if each["subject"].startswith("data set")}
    assert {name: each["detail"] for name, each in found.items() if each["state"] == "fault"} == {
        f"data set {name}": reason for name, reason in told.items()
    }, "the doctor says the same"
    assert found["data set good"]["detail"] == "30 rows, 2 columns"

    part = folder / "part"
    part.write_text("x,y\n1,zero\n")
    part.replace(good)
    wait_for(lambda: served() == [])
    (reason,) = {e["reason"] for e in agent.events("dataset.unreadable") if e["dataset"] == "good"}
    assert "line 2, column y: 'zero'" in reason
    part.write_text(ROWS)
    part.replace(good)
    wait_for(lambda: served() == ["good"])
    (folder / "gone.csv").write_text(ROWS)
    wait_for(lambda: served() == ["gone.csv", "good"])
    assert agent.kill(signal.SIGTERM) == 0
    assert "zero" not in str(platform.profiles), "values stay in the site's own log"


class Bench:
    """A runner over a folder of data sets, with a memory limit; `before` runs in the child before its own program."""

    def __init__(self, folder: Path, *datasets: dict[str, Any], before: str = "") -> None:
        (folder / "work").mkdir()
        (folder / "datasets.yaml").write_text(yaml.safe_dump({"datasets": list(datasets)}))
        self.folder = folder
        code = f"{before}\nfrom undersong.services.agent.runner.child import main\nmain()"
        launcher = ProcessLauncher(folder, command=(sys.executable, "-c", code))
        files = {each["name"]: [folder / each["path"]] for each in datasets}
        paths = tuple(str(file) for each in files.values() for file in each)
        setup = Setup(
            str(folder / "datasets.yaml"), device="cpu", memory_bytes=2**30, writes=(str(folder / "work"),), data=paths
        )
        self.runner = WarmRunner(launcher, setup, taken=folder / "taken", data=files)


async def test_a_missing_package_is_named_by_each_data_set_that_needs_it(tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text(ROWS)
    (tmp_path / "some.parquet").write_bytes(b"PAR1....PAR1")
    before = "import sys; sys.modules['pyarrow'] = None"
    bench = Bench(tmp_path, entry("p", "some.parquet"), entry("good", "good.csv"), before=before)
    found = await bench.runner.describe()
    assert [schema["name"] for schema in found.datasets] == ["good"]
    assert "needs the package pyarrow" in found.unread["p"]


async def test_a_data_set_that_is_too_large_for_memory_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text(ROWS)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**10,)})
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as file:
        file.writestr("x.npy", header.getvalue())
        file.writestr("y.npy", header.getvalue())
    bench = Bench(tmp_path, entry("huge", "huge.npz"), entry("good", "good.csv"))
    found = await bench.runner.describe()
    assert [schema["name"] for schema in found.datasets] == ["good"]
    assert "memory" in found.unread["huge"].lower()


async def test_a_data_set_that_ends_the_child_stops_no_other(tmp_path: Path) -> None:
    """A library that crashes on a file: here numpy's reader is exchanged for one that does."""
    (tmp_path / "good.csv").write_text(ROWS)
    np.savez(tmp_path / "crash.npz", x=np.zeros(3), y=np.zeros(3))
    before = "import numpy, os; numpy.load = lambda *_, **__: os.abort()"
    bench = Bench(tmp_path, entry("crash", "crash.npz"), entry("good", "good.csv"), before=before)
    found = await bench.runner.describe()
    assert [schema["name"] for schema in found.datasets] == ["good"]
    assert "child-died" in found.unread["crash"]


@pytest.mark.parametrize("replaced", ["good.csv", *also("datasets.yaml")])
async def test_a_file_that_is_replaced_fails_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: str
) -> None:
    """Behind all walls, which are about the old file: between two orders, and while a child has one already."""
    file, others = tmp_path / "good.csv", iter(range(100))
    file.write_text(ROWS)
    bench = Bench(tmp_path, entry("good", "good.csv"))
    send, moments = ProcessChannel.send, list[str]()

    def replace() -> None:
        part = tmp_path / "part"
        part.write_text(f"{ROWS}{next(others)},1\n" if replaced == "good.csv" else (tmp_path / replaced).read_text())
        part.replace(tmp_path / replaced)

    async def late(self: ProcessChannel, frame: Mapping[str, Any]) -> None:
        moment = f"{frame['type']} {frame.get('dataset', '')}"
        if moment in moments:
            moments.remove(moment)
            replace()
        await send(self, frame)

    monkeypatch.setattr(ProcessChannel, "send", late)
    moments += ["describe ", "describe good"]
    found = await bench.runner.describe()
    assert [schema["name"] for schema in found.datasets] == ["good"], found.unread
    digest = next(spec["digest"] for spec in found.recipes if spec["name"] == "null")
    task = tmp_path / "work" / "task"
    task.mkdir()
    order = RunOrder("statistics", "null", digest, {}, DataRef(dataset="good"), {}, 1, task)
    for moment in ("", "run ", "between", "run ", ""):
        moments += [moment] * (moment == "run ")
        if moment == "between":
            replace()
        await bench.runner.run(order, lambda _: None, limit_s=30)
        assert not moments
    await bench.runner.close()


async def test_a_task_on_a_bad_data_set_fails_by_name_and_keeps_values_here(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("x,y\n1,0\nsecret-77,1\n")
    bench = Bench(tmp_path, entry("bad", "bad.csv"), entry("typo", "bad.csv", label="z"))
    found = await bench.runner.describe()
    digest = next(spec["digest"] for spec in found.recipes if spec["name"] == "null")
    task = tmp_path / "work" / "task"
    task.mkdir()
    order = RunOrder("statistics", "null", digest, {}, DataRef(dataset="bad"), {}, 1, task)
    with pytest.raises(TaskFailure) as caught:
        await bench.runner.run(order, lambda _: None, limit_s=30)
    await bench.runner.close()
    assert caught.value.code == "bad-dataset"
    assert caught.value.detail == "data set bad: column x holds a value that is not a number"
    assert "line 3, column x: 'secret-77'" in caught.value.text
