"""A supervised process comes back when it dies, stays away when stopped, and tells when it cannot start."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pace import Deadline
from undersong.local.process import Supervised


def supervised(tmp_path: Path, code: str, **options: bool) -> Supervised:
    return Supervised(
        "probe", [sys.executable, "-c", code], env=dict(os.environ), cwd=tmp_path, log=tmp_path / "probe.log", **options
    )


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = Deadline(timeout_s)
    while not condition():
        assert not deadline.over(), "it did not happen in time"
        time.sleep(0.02)


SLEEPER = "import time; print('up', flush=True); time.sleep(60)"


def test_a_killed_process_comes_back_under_another_id(tmp_path: Path) -> None:
    process = supervised(tmp_path, SLEEPER)
    process.start()
    try:
        first = process.pid
        process.kill()
        until(lambda: process.pid not in (None, first))
        assert process.restarts == 1
        assert not process.failed
    finally:
        process.stop()
    assert process.pid is None


def test_a_stopped_process_stays_stopped_and_can_be_started_again(tmp_path: Path) -> None:
    process = supervised(tmp_path, SLEEPER)
    process.start()
    process.stop()
    assert process.pid is None
    process.start()
    assert process.pid is not None
    process.stop()


def test_stopping_takes_the_whole_group(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('child.pid', 'w').write(str(child.pid)); time.sleep(60)"
    )
    process = supervised(tmp_path, code)
    process.start()
    pid_file = tmp_path / "child.pid"
    until(lambda: pid_file.exists() and pid_file.read_text())
    process.stop()
    child = int(pid_file.read_text())
    until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def test_a_process_that_keeps_dying_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    process = supervised(tmp_path, "raise SystemExit('the port is taken')")
    process.start()
    until(lambda: process.failed)
    process.stop()
    assert "the port is taken" in process.log_tail()


def test_bad_settings_are_a_failure_at_once(tmp_path: Path) -> None:
    process = supervised(tmp_path, "raise SystemExit(2)")
    process.start()
    until(lambda: process.failed)
    process.stop()
    assert process.restarts <= 1


def test_a_command_that_does_not_exist_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undersong.local.process._leash", list)
    process = Supervised("probe", ["/nonexistent"], env={}, cwd=tmp_path, log=tmp_path / "probe.log")
    process.start()
    until(lambda: process.failed)
    assert "cannot start" in process.log_tail()
    process.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_nothing_survives_the_supervisors_own_death(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from undersong.local.process import Supervised\n"
        "p = Supervised('x', [sys.executable, '-c', 'import time; time.sleep(60)'], env=dict(os.environ),"
        " cwd=Path('.'), log=Path('x.log'))\n"
        "p.start(); Path('grandchild').write_text(str(p.pid)); time.sleep(60)"
    )
    outer = supervised(tmp_path, code, restart=False)
    outer.start()
    pid_file = tmp_path / "grandchild"
    until(lambda: pid_file.exists() and pid_file.read_text())
    outer.kill(signal.SIGKILL)
    grandchild = int(pid_file.read_text())
    until(lambda: not Path(f"/proc/{grandchild}").exists() or " Z " in Path(f"/proc/{grandchild}/stat").read_text())
    outer.stop()
