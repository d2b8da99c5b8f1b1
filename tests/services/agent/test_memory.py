"""Memory that was freed goes back to the system; libraries that no agent uses are not loaded."""

import ctypes
import subprocess
import sys

import psutil
import pytest

from undersong.services.agent.memory import UNUSED, give_back


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_what_is_free_goes_back() -> None:
    blocks = [bytearray(60_000) for _ in range(2000)]  # below the size that is mapped by itself
    last = bytearray(60_000)  # keeps the heap's end in use
    held = psutil.Process().memory_info().rss
    del blocks
    give_back()
    assert psutil.Process().memory_info().rss < held - 60_000_000
    assert len(last) == 60_000


def test_an_agent_starts_without_what_it_does_not_use() -> None:
    told = "import sys; from undersong.services.agent import __main__; print([n for n in {0} if sys.modules.get(n)])"
    said = "from undersong.services.agent.memory import leave_out; leave_out(); " + told.format(UNUSED)
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
