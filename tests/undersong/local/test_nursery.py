"""Forked processes look like started ones: own environment, folder, log and session; their end is told."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.pace import Deadline
from undersong.local.forks import GONE, Forked, Forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the nursery is used on Linux only")


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = Deadline(timeout_s)
    while not condition():
        assert not deadline.over(), "it did not happen in time"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """Also where the machine's first process, who has inherited it, takes its time to hear of that."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


FEW = ("json",)  # what a nursery imports is no matter here, and what services share takes seconds
PROBE = (
    "import os, sys, time\n"
    "print(__name__, sys.argv[1:], os.environ['COLOUR'], 'PATH' in os.environ, os.getcwd(),"
    " os.getsid(0) == os.getpid(), flush=True)\n"
    "if sys.argv[1] == 'stay': time.sleep(60)\n"
    "sys.exit(int(sys.argv[1]))\n"
)


@pytest.fixture(scope="module")
def new_forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Forks]]:
    """Start a nursery that can import `probe`."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.py").write_text(PROBE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield lambda: Forks(folder, folder / "nursery.log", FEW)


@pytest.fixture(scope="module")
def forks(new_forks: Callable[[], Forks]) -> Iterator[Forks]:
    """One nursery for all tests that do not close it."""
    made = new_forks()
    yield made
    made.close()


def test_a_fork_is_a_process_of_its_own(forks: Forks, tmp_path: Path) -> None:
    child = forks.spawn("probe", ["3"], env={"COLOUR": "blue"}, cwd=tmp_path, log=tmp_path / "log")
    assert child is not None
    assert child.wait(20) == 3
    assert (tmp_path / "log").read_text() == f"__main__ ['3'] blue False {tmp_path} True\n"


def test_the_end_is_told_and_the_next_one_starts(forks: Forks, tmp_path: Path) -> None:
    for _ in range(2):
        child = forks.spawn("probe", ["stay"], env={"COLOUR": "red"}, cwd=tmp_path, log=tmp_path / "log")
        assert child is not None
        assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(20) == -signal.SIGKILL


def test_a_failure_is_in_its_log(forks: Forks, tmp_path: Path) -> None:
    child = forks.spawn("no_such_module", [], env={}, cwd=tmp_path, log=tmp_path / "log")
    assert child is not None
    assert child.wait(20) == 1
    assert "no_such_module" in (tmp_path / "log").read_text()


def stay(forks: Forks, folder: Path) -> Forked:
    child = forks.spawn("probe", ["stay"], env={"COLOUR": "red"}, cwd=folder, log=folder / "log")
    assert child is not None
    return child


def test_children_outlive_a_killed_nursery_and_another_takes_its_place(
    new_forks: Callable[[], Forks], tmp_path: Path
) -> None:
    """Nothing that runs is touched; its end is known all the same; the next one is forked by a new nursery."""
    forks = new_forks()
    children, first = [stay(forks, tmp_path) for _ in range(3)], forks.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: not forks._nursery.alive)
    assert [child.poll() for child in children] == [None] * 3
    os.kill(children[0].pid, signal.SIGKILL)
    assert children[0].wait(20) == GONE
    another = stay(forks, tmp_path)
    assert forks.pid != first
    forks.close()
    for child in (*children, another):
        until(lambda pid=child.pid: ended(pid))  # type: ignore[misc]


def test_a_frozen_nursery_is_replaced_and_blocks_nobody(
    forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child's end is told by the kernel; an order that is not carried out in time is not carried out later."""
    child, first = stay(forks, tmp_path), forks.pid
    monkeypatch.setattr("undersong.local.forks.FORK_S", 0.5)
    monkeypatch.setattr("undersong.local.forks.CODE_S", 0.5)
    os.kill(first, signal.SIGSTOP)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(20) == GONE
    assert forks.spawn("probe", ["9"], env={"COLOUR": "late"}, cwd=tmp_path, log=tmp_path / "log") is None
    assert ended(first)
    monkeypatch.undo()
    after = forks.spawn("probe", ["3"], env={"COLOUR": "blue"}, cwd=tmp_path, log=tmp_path / "log")
    assert after is not None
    assert after.wait(20) == 3
    assert "late" not in (tmp_path / "log").read_text()


def test_children_end_with_the_platform_even_without_a_nursery(tmp_path: Path) -> None:
    """The platform's process is killed while its nursery is frozen: nothing is left behind."""
    script = (
        "import sys, time; from pathlib import Path; from undersong.local.forks import Forks\n"
        "forks = Forks(Path(sys.argv[1]), Path(sys.argv[1]) / 'nursery.log', ['json'])\n"
        "home = Path(sys.argv[1]); child = forks.spawn('probe', [], env={}, cwd=home, log=home / 'log')\n"
        "print(forks.pid, child.pid, flush=True); time.sleep(120)\n"
    )
    (tmp_path / "probe.py").write_text("import time; time.sleep(120)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as platform:
        assert platform.stdout is not None
        nursery, child = (int(word) for word in platform.stdout.readline().split())
        os.kill(nursery, signal.SIGSTOP)
        platform.kill()
    until(lambda: ended(child))
    os.kill(nursery, signal.SIGKILL)
