"""The code inside the child: takes orders on its standard input, answers on its standard output, and limits itself.

Started as `python -m undersong.services.agent.runner.child`, as a process or as a container's main program. Whatever a
recipe prints goes to standard error. When the agent goes away, standard input ends, and the child kills its group.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

from undersong.services.agent.runner.confine import confine
from undersong.services.agent.runner.protocol import PREFIX, Frame, FrameError, frame_length, pack, unpack

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PROGRESS_S = 0.5  # seconds between progress reports


class Pipes:
    """Frames over two file objects; writing is safe from several threads."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader, self._writer = reader, writer
        self._lock = threading.Lock()

    def receive(self) -> Frame | None:
        """Return the next frame; None at the end."""
        prefix = self._reader.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            return None
        size = frame_length(prefix)
        body = self._reader.read(size)
        return unpack(body) if len(body) == size else None

    def send(self, frame: Frame) -> None:
        """Write a frame."""
        with self._lock:
            self._writer.write(pack(frame))
            self._writer.flush()


def take_pipes() -> Pipes:
    """Keep the standard streams for frames, and give recipes an empty input and standard error to print to."""
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)  # a killed recipe's last words are read too
    return Pipes(reader, writer)


class Meter:
    """Sends progress, not too often."""

    def __init__(self, pipes: Pipes) -> None:
        self._pipes, self._last = pipes, 0.0

    def __call__(self, value: float) -> None:
        """Report 0..1."""
        now = time.monotonic()
        if now - self._last >= PROGRESS_S:
            self._last = now
            self._pipes.send({"type": "progress", "value": min(1.0, max(0.0, float(value)))})


def listen(pipes: Pipes, orders: queue.Queue[Frame]) -> None:
    """Read orders; at the end of input kill the whole group, training included."""
    try:
        while (frame := pipes.receive()) is not None:
            orders.put(frame)
    except FrameError:
        pass
    finally:
        end_group()


def end_group() -> None:
    """Kill this process and every process that it started in its group."""
    if os.getpid() == 1 or os.getpgrp() != os.getpid():  # a container ends with its first process
        os._exit(0)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Set up, say hello, and work until the agent goes away."""
    pipes = take_pipes()
    setup = pipes.receive()
    if setup is None or setup["type"] != "setup":
        sys.exit("the first frame must be the setup")
    closed = confine(setup)  # before there is a second thread, which would stay free
    os.environ["UNDERSONG_DEVICE"] = setup["device"]
    if setup["cpus"]:
        for name in THREADS:
            os.environ[name] = str(max(1, round(setup["cpus"])))
    orders: queue.Queue[Frame] = queue.Queue()
    threading.Thread(target=listen, args=(pipes, orders), daemon=True, name="orders").start()
    from undersong.services.agent.runner.work import (
        Workshop,  # after the limits: from here on recipes and their libraries load
    )

    pipes.send({"type": "hello", "pid": os.getpid(), "closed": closed})
    workshop = Workshop(setup)
    while True:
        order = orders.get()
        pipes.send({"type": "pong"} if order["type"] == "ping" else answer(workshop, order, Meter(pipes)))


def answer(workshop: Any, order: Frame, progress: Meter) -> Frame:
    """Do one order; whatever a recipe raises becomes a failure frame."""
    from undersong.services.agent.runner.work import failure_frame

    try:
        if order["type"] == "describe":
            found = (
                workshop.describe_dataset(order["dataset"])
                if "dataset" in order
                else workshop.describe(own=order["own"])
            )
            return {"type": "description", **found}
        return {"type": "result", **workshop.run(order, progress)}
    except (Exception, SystemExit) as error:  # noqa: BLE001 (recipes are other people's code)
        return failure_frame(error)


if __name__ == "__main__":
    main()
