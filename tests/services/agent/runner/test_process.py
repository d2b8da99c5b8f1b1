"""The runner with real child processes that crash, hang, eat memory and leave children behind."""

import asyncio
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.shared.wire.manifests import manifest
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.protocol import Column, DataShape, source_digest
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.repository.residuals import Residuals
from undersong.services.agent.repository.samples import Samples
from undersong.services.agent.rounds.updates import make_payload
from undersong.services.agent.runner.answers import outcome
from undersong.services.agent.runner.process import ProcessLauncher
from undersong.services.agent.runner.protocol import FrameError, RunOrder, Setup, frame_length, pack, unpack
from undersong.services.agent.runner.warm import WarmRunner
from undersong.shared.ids import SiteId
from undersong.shared.learning.tensors import Model, Schema, flatten, load, save
from undersong.shared.secagg.quantise import plan_encoding
from undersong.shared.wire.manifest import DataRef
from undersong.shared.wire.privacy import RECORD_NOISE, PoissonGaussianEvent

pytestmark = pytest.mark.process
MIB = 2**20


class Bench:
    """A folder with data sets, a recipe and a model, and a runner on it."""

    def __init__(self, folder: Path, recipe: str, **setup) -> None:
        self.folder = folder
        self.task = folder / "work" / "task"
        self.task.mkdir(parents=True)
        self.recipe = folder / "odd.py"
        self.recipe.write_text(recipe)
        (folder / "datasets.yaml").write_text("datasets: [{name: bench, kind: none}]")
        tensors = {"weights": np.ones(4, np.float32)}
        (folder / "model").write_bytes(save(Model(Schema.of(tensors), tensors)))
        self.digest = source_digest(self.recipe)
        made = Setup(
            str(folder / "datasets.yaml"), (str(self.recipe),), (self.digest,), device="cpu",
            reads=(str(folder / "model"),), writes=(str(folder / "work"),), **setup,
        )  # fmt: skip
        self.runner = WarmRunner(ProcessLauncher(folder), made, taken=folder / "taken")

    def order(self, kind="train", recipe=None, **params) -> RunOrder:
        return RunOrder(
            kind, recipe or "odd", self.digest, params, DataRef(dataset="bench"), {}, 1, self.task,
            self.folder / "model",
        )  # fmt: skip

    async def run(self, limit_s=30.0, **params):
        return await self.runner.run(self.order(**params), lambda _: None, limit_s=limit_s)

    def printed(self, word: str) -> list[int]:
        """The numbers on the lines of the recipes' log that begin with this word."""
        log = self.folder / "recipes.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [int(part) for line in lines if line.startswith(word) for part in line.split() if part.isdigit()]


@pytest.fixture
async def bench(tmp_path, recipe_text):
    made = Bench(tmp_path, recipe_text)
    yield made
    await made.runner.close()


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_a_warm_child_answers_round_after_round(bench) -> None:
    for _ in range(2):
        outcome = await bench.run(add=0.5)
        assert (outcome.examples, outcome.loss) == (10, 0.25)
        np.testing.assert_array_equal(load(outcome.tensors.read_bytes()).tensors["weights"], np.float32(1.5))
    sums = await bench.run(kind="statistics")
    np.testing.assert_array_equal(np.fromfile(sums.sums), [3.0, -1.5])
    await bench.runner.close()
    first, second = bench.printed("training in")
    assert first == second, "the same process"


async def test_a_crash_is_told_and_the_next_order_gets_a_new_child(bench) -> None:
    with pytest.raises(TaskFailure) as failure:
        await bench.run(how="crash")
    assert failure.value.code == "child-died"
    assert "exit code 7" in failure.value.text
    assert (await bench.run()).examples == 10


async def test_a_hanging_recipe_is_killed_at_its_limit(bench) -> None:
    with pytest.raises(TaskFailure) as failure:
        await bench.run(limit_s=3, sleep_s=60)
    assert failure.value.code == "task-time"
    assert all(gone(pid) for pid in bench.printed("training in"))


async def test_a_recipes_own_sentence_leaves_the_child_and_an_exceptions_text_does_not(bench):
    """What a recipe raises for people is told; the text of any other exception may quote data and is not."""
    with pytest.raises(TaskFailure) as refused:
        await bench.run(how="refuse")
    assert (refused.value.code, refused.value.detail) == ("recipe-error", "odd cannot work with how=refuse")
    with pytest.raises(TaskFailure) as broken:
        await bench.run(how="raise")
    assert (broken.value.code, broken.value.detail) == ("recipe-error", "ValueError")


async def test_memory_beyond_the_limit_is_a_failure_not_a_dead_machine(tmp_path, recipe_text) -> None:
    bench = Bench(tmp_path, recipe_text, memory_bytes=512 * MIB)
    with pytest.raises(TaskFailure) as failure:
        await bench.run(how="memory", bytes=1024 * MIB)
    assert failure.value.code == "out-of-memory"
    assert (await bench.run()).examples == 10
    await bench.runner.close()


async def test_abort_kills_what_the_recipe_started(bench) -> None:
    work = asyncio.create_task(bench.run(how="fork", sleep_s=60))
    while not bench.printed("left"):  # noqa: ASYNC110 (another process writes it)
        await asyncio.sleep(0.05)
    started = time.monotonic()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert time.monotonic() - started < 40  # and not after the minute that the recipe sleeps
    assert all(gone(pid) for pid in bench.printed("left"))


async def test_children_left_in_the_background_end_with_the_child(bench) -> None:
    await bench.run(how="fork")
    await bench.runner.close()
    assert len(bench.printed("left")) == 2
    assert all(map(gone, bench.printed("left")))


async def test_own_code_with_another_digest_is_not_even_imported(bench) -> None:
    touched = bench.folder / "touched"
    bench.recipe.write_text(bench.recipe.read_text() + f"\nopen({str(touched)!r}, 'w').close()\n")
    described = await bench.runner.describe()
    assert described.own_recipes == []
    assert "policy would need digest" in described.faults[0]
    with pytest.raises(TaskFailure):
        await bench.run()
    assert not touched.exists()


def the_recipes_process() -> psutil.Process:
    """Other tests of this process may have servers of their own."""
    (child,) = (c for c in psutil.Process().children() if "undersong.services.agent.runner.child" in c.cmdline())
    return child


async def test_the_child_sees_no_secret_of_the_agents_environment(bench, monkeypatch) -> None:
    monkeypatch.setenv("AGENT_SECRET", "do-not-tell")
    await bench.run()
    child = the_recipes_process()
    environment = child.environ()
    assert "AGENT_SECRET" not in environment
    assert environment["PYTHONSAFEPATH"] == "1"
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)


def network_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


async def test_a_recipe_has_no_network_where_the_kernel_allows_it(bench) -> None:
    await bench.run()
    child = the_recipes_process()
    if network_of(child.pid) == network_of(os.getpid()):
        pytest.skip("this kernel or container allows no network namespaces")


async def test_a_description_names_what_cannot_be_read(bench) -> None:
    (bench.folder / "datasets.yaml").write_text("datasets: [{name: lost, kind: csv, path: nowhere.csv}]")
    described = await bench.runner.describe()
    assert described.datasets == []
    assert [schema["name"] for schema in described.declared] == ["lost"]
    assert "there is no file" in described.unread["lost"]
    assert {spec["name"] for spec in described.recipes} == {
        "tabular",
        "image",
        "series",
        "text",
        "trees",
        "null",
        "statistics",
        "odd",
    }
    assert described.hardware["cpus"] >= 1


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x01", b"\x80", b"\x81\xa4type\x01", b"\x81\x01\x02", b"\x91" * 600])
def test_what_is_no_frame_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        unpack(body)


def test_a_frame_has_a_limit() -> None:
    with pytest.raises(FrameError):
        frame_length(b"\xff\xff\xff\xff")
    with pytest.raises(FrameError):
        pack({"type": "x", "data": bytes(17 * MIB)})


class TwoRecipes(Bench):
    """Two own recipes on one site, as two jobs use them, and the built-in one between."""

    def __init__(self, folder: Path, recipe: str, **setup) -> None:
        super().__init__(folder, recipe, **setup)
        other = folder / "other.py"
        other.write_text(recipe.replace('name="odd"', 'name="other"'))
        self.digests = {"odd": self.digest, "other": source_digest(other), "null": load_recipe("null").spec.digest}
        made = replace(
            self.runner._setup,
            recipes=(*self.runner._setup.recipes, str(other)),
            allowed_digests=(self.digests["odd"], self.digests["other"]),
        )
        self.runner = WarmRunner(ProcessLauncher(folder), made, taken=folder / "taken")

    async def give(self, name: str, **params) -> None:
        order = replace(self.order(recipe=name, **params), recipe_digest=self.digests[name])
        await self.runner.run(order, lambda _: None, limit_s=60)

    def children(self) -> list[psutil.Process]:
        return [c for c in psutil.Process().children() if "undersong.services.agent.runner.child" in c.cmdline()]


async def test_jobs_that_alternate_keep_a_warm_child_each(tmp_path, recipe_text) -> None:
    """Fifteen tasks of three recipes start three children, and those of own code sleep while another works."""
    bench = TwoRecipes(tmp_path, recipe_text)
    for _ in range(5):
        for name in ("odd", "null", "other"):
            await bench.give(name)
    started = bench.printed("training in")
    assert len(started) == 10
    assert len(set(started)) == 2
    assert len(bench.children()) == 3
    odd, other = started[-2:]
    assert psutil.Process(odd).status() == psutil.STATUS_STOPPED
    assert psutil.Process(other).status() != psutil.STATUS_STOPPED
    await bench.give("odd")
    assert psutil.Process(other).status() == psutil.STATUS_STOPPED
    assert len(list((tmp_path / "home").iterdir())) == 3, "each child has a home of its own"
    await bench.runner.close()
    assert bench.children() == []
    assert all(map(gone, started))
    assert list((tmp_path / "children").iterdir()) == []
    assert list((tmp_path / "home").iterdir()) == []


async def test_a_failure_ends_only_its_own_child(tmp_path, recipe_text) -> None:
    bench = TwoRecipes(tmp_path, recipe_text)
    await bench.give("odd")
    await bench.give("other")
    with pytest.raises(TaskFailure):
        await bench.give("other", how="crash")
    await bench.give("odd")
    first, *_, last = bench.printed("training in")
    assert first == last
    await bench.runner.close()


async def test_children_together_hold_no_more_than_one_may(tmp_path, recipe_text) -> None:
    """Two that each hold a large part of the limit do not stay warm together."""
    bench = TwoRecipes(tmp_path, recipe_text, memory_bytes=512 * MIB)
    bench.runner._pool._memory_bytes = 1
    for _ in range(2):
        for name in ("odd", "other"):
            await bench.give(name)
            assert len(bench.children()) == 1
    assert len(set(bench.printed("training in"))) == 4
    await bench.runner.close()


async def test_a_child_that_is_idle_for_long_ends_alone(tmp_path, recipe_text) -> None:
    bench = TwoRecipes(tmp_path, recipe_text)
    bench.runner._pool._idle_s = 0.2
    await bench.give("odd")
    (pid,) = bench.printed("training in")
    while not gone(pid):  # noqa: ASYNC110 (another process ends)
        await asyncio.sleep(0.05)
    await bench.give("odd")
    await bench.runner.close()


async def test_the_next_agent_ends_all_children_of_a_killed_one(tmp_path, recipe_text) -> None:
    bench = TwoRecipes(tmp_path, recipe_text)
    await bench.give("odd")
    await bench.give("other")
    started = bench.printed("training in")
    await WarmRunner(ProcessLauncher(tmp_path), bench.runner._setup, taken=tmp_path / "taken").clean()
    assert all(map(gone, started))
    assert list((tmp_path / "children").iterdir()) == []
    await bench.runner.close()


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.services.agent.runner.test_process import TwoRecipes

async def main():
    bench = TwoRecipes(Path(sys.argv[1]), Path(sys.argv[2]).read_text())
    await bench.give("odd")
    await bench.give("other")
    print("started", *bench.printed("training in"), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_killed_agents_stopped_child_ends_without_another_agent(tmp_path, recipe_text) -> None:
    (text := tmp_path / "text").write_text(recipe_text)
    command = (sys.executable, "-c", KILLED, str(tmp_path / "bench"), str(text))
    agent = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert agent.stdout is not None
        while not (line := await agent.stdout.readline()).startswith(b"started"):
            assert line, "the agent ended"
        stopped, working = map(int, line.split()[1:])
        assert psutil.Process(stopped).status() == psutil.STATUS_STOPPED
    finally:
        agent.kill()
        await agent.wait()
    async with asyncio.timeout(30):
        while not (gone(stopped) and gone(working)):  # noqa: ASYNC110 (other processes end)
            await asyncio.sleep(0.05)


async def test_libraries_start_as_many_threads_as_this_agents_share(tmp_path, recipe_text, monkeypatch) -> None:
    monkeypatch.setattr("undersong.services.agent.runner.processors.threads", lambda: 3)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    shown = recipe_text.replace(
        'print(f"training in {os.getpid()}")', 'print("threads", os.environ["OMP_NUM_THREADS"])'
    )
    for place, (cpus, wanted) in enumerate(((0.0, 3), (2.0, 2))):
        folder = tmp_path / str(place)
        folder.mkdir()
        bench = Bench(folder, shown, cpus=cpus)
        await bench.run()
        assert bench.printed("threads") == [wanted]
        await bench.runner.close()


async def test_a_round_that_protects_records_adds_its_noise_in_the_child(tmp_path) -> None:
    """The update's noise has the size that is accounted for; what reports less noise, or none, is not sent."""
    (tmp_path / "rows.csv").write_text("x,y\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(1000)))
    columns = "[{name: x, type: number}, {name: y, type: number}]"
    (tmp_path / "datasets.yaml").write_text(
        f"datasets: [{{name: rows, kind: csv, path: rows.csv, label: y, columns: {columns}, test_fraction: 0}}]"
    )
    tabular, params = load_recipe("tabular"), {"model": "mlp", "hidden": [2000], "learning_rate": 1e-3}
    data = DataRef(dataset="rows", features=("x",), label="y")
    shape = DataShape((Column(name="x", type="number"),), "y")
    first = tabular.initial(shape, params, {}, 0)
    (tmp_path / "model").write_bytes(save(first))
    private = manifest(
        encoding=plan_encoding(summands=3, max_weight=1, clip_norm=None, bound_value=16.0, modulus_bits=32),
        privacy={
            "model": "record", "unit": "record", "noise_multiplier": 40.0, "delta": 1e-5, "epsilon": 1.0, "rounds": 3,
            "min_sites": 1, "steps": {"count": 5, "probability": 0.02, "clip_norm": 0.5},
        }
    )  # fmt: skip
    noise = private.privacy.record_noise
    made = Setup(
        str(tmp_path / "datasets.yaml"), device="cpu", reads=(str(tmp_path / "model"),),
        writes=(str(tmp_path / "work"),),
    )  # fmt: skip
    (tmp_path / "work" / "task").mkdir(parents=True)
    rows = {"rows": [tmp_path / "rows.csv"]}
    runner = WarmRunner(ProcessLauncher(tmp_path), made, taken=tmp_path / "taken", data=rows)
    order = RunOrder(
        "train", "tabular", tabular.spec.digest, params, data, {RECORD_NOISE: list(noise)}, 1,
        tmp_path / "work" / "task", tmp_path / "model",
    )  # fmt: skip
    try:
        outcome = await runner.run(order, lambda _: None, limit_s=120)
    finally:
        await runner.close()
    assert outcome.events == (PoissonGaussianEvent(noise_multiplier=40.0, probability=0.02, count=5),)
    after = load(outcome.tensors.read_bytes())
    change = flatten(after.schema, after.tensors) - flatten(first.schema, first.tensors)
    expected = 1e-3 * math.sqrt(5) * 40.0 * 0.5 / (0.02 * 1000)
    assert change.std() == pytest.approx(expected, rel=0.08)  # some 8000 draws, ten standard errors

    def payload(*events):
        unused = object.__new__(Samples)  # this round takes no commitments, and keeps nothing
        none = object.__new__(Residuals)
        return make_payload(
            private, SiteId("site_a"), replace(outcome, events=events), tmp_path / "model", unused, none
        )

    assert payload(*outcome.events).length > 6000
    done = outcome.events[0]
    for events in (
        (),
        (done, done),
        (done.model_copy(update={"noise_multiplier": 39.0}),),
        (done.model_copy(update={"probability": 0.03}),),
    ):
        with pytest.raises(TaskFailure) as refused:
            payload(*events)
        assert refused.value.code == "privacy-mismatch"


GOOD = {"event": "poisson-gaussian", "noise_multiplier": 1.0, "probability": 0.5, "count": 3}


@pytest.mark.parametrize(
    "events",
    [
        "many",
        {"event": "gaussian"},
        [None],
        [3],
        ["poisson-gaussian"],
        [{**GOOD, "event": "free"}],
        [{**GOOD, "count": 0}],
        [{**GOOD, "count": True}],
        [{**GOOD, "count": 2.5}],
        [{**GOOD, "noise_multiplier": float("nan")}],
        [{**GOOD, "noise_multiplier": float("inf")}],
        [{**GOOD, "probability": -0.1}],
        [{**GOOD, "more": 1}],
        [GOOD] * 65,
    ],
)
def test_what_a_child_says_of_its_noise_is_read_as_a_strangers_word(tmp_path: Path, events: object) -> None:
    frame = {"type": "result", "examples": 10, "loss": 0.0}
    assert outcome({**frame, "events": [GOOD]}, tmp_path, None, 0).events[0].count == 3
    with pytest.raises(TaskFailure) as refused:
        outcome({**frame, "events": events}, tmp_path, None, 0)
    assert refused.value.code == "bad-result"
