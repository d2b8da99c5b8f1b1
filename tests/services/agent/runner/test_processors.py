"""How many threads recipes compute with: the usable processors, shared by the agents of a machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from undersong.services.agent.runner import processors


def test_agents_share_what_a_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "usable", lambda: 8)
    assert processors.threads(tmp_path) == 8, "no agent is counted"
    with processors.counted(tmp_path), processors.counted(tmp_path):
        assert processors.threads(tmp_path) == 4
        lines = [
            "from pathlib import Path",
            "from undersong.services.agent.runner.processors import counted",
            f"with counted(Path({str(tmp_path)!r})): print('counted', flush=True); input()",
        ]
        code = "\n".join(lines)
        others = [
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(8)
        ]
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == "counted\n"
        assert processors.agents(tmp_path) == 10
        assert processors.threads(tmp_path) == 1, "ten agents, eight processors: one thread each"
        for other in others:
            other.kill()
            other.communicate()
        assert processors.threads(tmp_path) == 4, "a killed agent counts no more"
    assert processors.agents(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_quota_limits_more_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    for quota, wanted in (
        ("max 100000", 16),
        ("200000 100000", 2),
        ("50000 100000", 1),
        ("250000 100000", 3),
        ("", 16),
    ):
        (tmp_path / "cpu.max").write_text(quota)
        assert processors.usable() == wanted, quota
