"""The trace goes on across calls, whether or not anybody records it."""

import subprocess
import sys

import pytest

from undersong.shared.telemetry import continue_trace, current_trace

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_outside_of_any_trace_there_is_none() -> None:
    assert current_trace() is None


def test_a_parent_is_continued_under_a_new_span() -> None:
    with continue_trace(PARENT) as trace:
        assert current_trace() == trace
        assert trace[:36] == PARENT[:36]
        assert trace[36:52] != PARENT[36:52]
        assert trace.endswith("-01")
    assert current_trace() is None


@pytest.mark.parametrize(
    "parent", [None, "", "00-zz", PARENT.upper(), "00-" + "0" * 32 + "-b7ad6b7169203331-01", PARENT + "x"]
)
def test_without_a_proper_parent_a_new_trace_begins(parent: str | None) -> None:
    with continue_trace(parent) as trace:
        assert len(trace) == 55
        assert trace[3:35] != PARENT[3:35]


def test_a_failure_inside_ends_the_trace() -> None:
    with pytest.raises(KeyError), continue_trace(PARENT):
        raise KeyError
    assert current_trace() is None


LIGHT = """
import sys
from undersong.shared.identity import authority, directory, enrol, requests
from undersong.shared.telemetry import logs
heavy = {"fastapi", "starlette", "sqlalchemy", "prometheus_client", "opentelemetry", "redis", "torch", "numpy"}
print(sorted(heavy & set(sys.modules)))
"""


def test_what_an_agent_imports_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
