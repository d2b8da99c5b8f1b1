"""Workers of a simulation: processes of one thread each."""

from typing import Any

import pytest

from undersong.simulate import executors
from undersong.simulate.executors import WorkerSetup, _Worker


def test_libraries_start_one_thread_in_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the names that OpenMP, MKL, OpenBLAS and numba read."""
    given: list[dict[str, str]] = []

    def start(command: list[str], env: dict[str, str], **_: Any) -> None:
        given.append(env)

    monkeypatch.setattr(executors.subprocess, "Popen", start)
    _Worker(WorkerSetup("scratch", "kept", "null", (), "plain", 0))
    for library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
        assert given[0][f"{library}_NUM_THREADS"] == "1"
