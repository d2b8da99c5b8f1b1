import os
import signal
import subprocess
import sys
import time

import pytest

WORKER = """
import asyncio, sys
from undersong.shared.queues import run_all, worker_loop

async def beat():
    try:
        print("up", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
        print("down", flush=True)

async def broken():
    await asyncio.sleep(0.05)
    raise RuntimeError("loop broke")

async def done():
    return

worker_loop(run_all(beat(), *([broken()] if "broken" in sys.argv else [done()])))
"""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_finishes_and_exits_0_when_told_to_stop(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(0.1)
        os.kill(process.pid, number)
        assert process.stdout.readline() == "down\n"
        assert process.wait(10) == 0


@pytest.mark.process
def test_a_worker_whose_loop_breaks_says_so() -> None:
    run = subprocess.run([sys.executable, "-c", WORKER, "broken"], capture_output=True, text=True, timeout=100)
    assert run.returncode == 1
    assert "loop broke" in run.stderr
    assert run.stdout == "up\ndown\n"
