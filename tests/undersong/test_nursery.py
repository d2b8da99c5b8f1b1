"""Forked processes look like started ones: own environment, folder, log and session; their end is told."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from undersong.local.forks import GONE, Forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the nursery is used on Linux only")


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    """Also where the machine's first process, who has inherited it, takes its time to hear of that."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forks]:
    (tmp_path / "probe.py").write_text(
        "import os, sys, time\n"
        "print(__name__, sys.argv[1:], os.environ['COLOUR'], 'PATH' in os.environ, os.getcwd(),"
        " os.getsid(0) == os.getpid(), flush=True)\n"
        "if sys.argv[1] == 'stay': time.sleep(60)\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Forks(tmp_path, tmp_path / "nursery.log")
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


def test_without_the_nursery_nothing_is_forked_and_its_children_end(forks: Forks, tmp_path: Path) -> None:
    """Also those that were forked at that very moment, who cannot have asked the kernel to tell them of its death."""
    children = [
        forks.spawn("probe", ["stay"], env={"COLOUR": "red"}, cwd=tmp_path, log=tmp_path / "log") for _ in range(12)
    ]
    forks._process.kill()
    for child in children:
        assert child is not None
        assert child.wait(20) == GONE
        until(lambda pid=child.pid: ended(pid))  # type: ignore[misc]
    until(lambda: not forks.alive)
    assert forks.spawn("probe", ["0"], env={"COLOUR": "red"}, cwd=tmp_path, log=tmp_path / "log") is None
