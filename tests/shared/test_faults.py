"""Points do nothing in a process that was not armed, and what the folder says, once, in one that was."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.pace import Deadline
from tests.simulation.points import BESIDE, CUSTODIANS, PARTS, POINTS, TWO_SERVERS
from undersong.shared import clock, faults

ROOT = Path(__file__).parents[2]
CALL = re.compile(r'\bpoint\("([a-z.]+)"\)')


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults.watch(None)
    clock.run_ahead(None)


def armed(monkeypatch: pytest.MonkeyPatch, folder: Path, process: str = "probe") -> Path:
    (folder / process).mkdir()
    monkeypatch.setenv(faults.VARIABLE, str(folder))
    faults.arm(process)
    return folder / process


def test_every_point_in_the_code_is_in_the_matrix_and_the_reverse() -> None:
    """A step that is named and never tried would look as if it were safe."""
    files = [path for part in ("services", "shared") for path in (ROOT / part).rglob("*.py")]
    found = [name for path in files for name in CALL.findall(path.read_text())]
    assert sorted(set(found)) == sorted([*POINTS, *TWO_SERVERS, *PARTS, *CUSTODIANS, *BESIDE])


def test_a_process_that_was_not_started_for_it_knows_no_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    faults.arm("probe")
    assert faults._reach is None
    faults.point("anything")


def test_what_the_folder_says_happens_once_and_at_the_right_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = armed(monkeypatch, tmp_path)
    faults.point("a.b")
    (folder / "a.b").write_text("disk-full@2")
    faults.point("a.b")
    faults.point("a.c")
    with pytest.raises(OSError, match="No space left"):
        faults.point("a.b")
    faults.point("a.b")
    assert (folder / "a.b.reached").exists()


def test_a_clock_is_ahead_by_what_the_folder_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = armed(monkeypatch, tmp_path)
    before = clock.utc_now()
    (folder / "clock").write_text("3600")
    assert clock.utc_now() - before >= timedelta(hours=1)
    (folder / "clock").write_text("-3600")
    assert clock.utc_now() < before


def test_a_killed_process_is_gone_and_a_held_one_waits(tmp_path: Path) -> None:
    folder = tmp_path / "probe"
    folder.mkdir()
    (folder / "first").write_text("hold")
    (folder / "second").write_text("kill")
    code = "from undersong.shared import faults as f; f.arm('probe'); f.point('first'); print(1); f.point('second')"
    env = {**os.environ, faults.VARIABLE: str(tmp_path)}
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env)
    until = Deadline(60)
    while not (folder / "first.reached").exists():
        assert not until.over()
        time.sleep(0.01)
    assert child.poll() is None
    (folder / "first.reached").unlink()
    assert child.wait(60) == -signal.SIGKILL
