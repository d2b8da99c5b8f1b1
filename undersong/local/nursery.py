"""A process that has imported what services and agents run, and forks them: the platform starts in a third of the time.

Every service would import the same web framework and database drivers, two seconds of processor time each. The nursery
does it once; a forked child then runs ``services.<name>`` as ``python -m`` would, in a session of its own, with its own
environment and log. It lives as long as the platform, and not as long as the nursery: it reads a pipe (the leash) that
the platform's process holds, and ends when that is closed. When the nursery's master goes away, so does the nursery.

Protocol on the inherited socket, a JSON document a line: {task, module, argv, env, cwd, log} to it;
{ready} once all is imported, {task, pid} and later {task, code} from it.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from undersong.shared import kernels

IMPORTED: Final = (
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "fastapi",
    "sqlalchemy.ext.asyncio",
    "alembic.command",
    "aiosqlite",
    "redis.asyncio",
    "jinja2",
    "jsonschema",
    "numpy",
    "obstore",
    "http_message_signatures",
    "undersong.shared.database.migrations",
    "undersong.shared.identity.enrol",
    "undersong.shared.identity.verify",
    "undersong.shared.privacy.noise",
    "undersong.shared.queues",
    "undersong.shared.secagg.engines",
    "undersong.shared.telemetry.logs",
    "undersong.shared.vdaf.pine_instances",
    "undersong.shared.vdaf.prio3",
    "undersong.shared.web.app",
    "undersong.shared.web.server",
    "undersong.shared.web.settings",
    "undersong.shared.wire.manifest",
    "undersong.services.coordinator.wiring",
    "undersong.services.aggregator.wiring",
    "undersong.services.registry.wiring",
    "undersong.services.keys.wiring",
    "undersong.services.keys.helper.wiring",
    "undersong.services.agent.loop",
)


@dataclass
class Nursery:
    """The parent's loop: forks on request and tells who has ended."""

    master: socket.socket
    tasks: dict[int, int] = field(default_factory=dict)  # process id → task
    buffer: bytes = b""

    def serve(self) -> dict[str, Any] | None:
        """Fork until the master goes away (None); in a forked child, the order to carry out comes back."""
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._tell({"ready": True})
        while True:
            ready, _, _ = select.select([self.master, wake_read], [], [])
            if wake_read in ready:
                with suppress(BlockingIOError):
                    wake_read.recv(4096)
                self._reap()
            if self.master in ready:
                data = self.master.recv(65_536)
                if not data:
                    self._dismiss()
                    return None
                for order in self._orders(data):
                    if not self._fork(order):
                        signal.set_wakeup_fd(-1)
                        for end in (wake_read, wake_write, self.master):
                            end.close()
                        return order

    def _orders(self, data: bytes) -> list[dict[str, Any]]:
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _fork(self, order: dict[str, Any]) -> bool:
        """Return True in the parent."""
        pid = os.fork()
        if pid == 0:
            return False
        self.tasks[pid] = order["task"]
        self._tell({"task": order["task"], "pid": pid})
        return True

    def _reap(self) -> None:
        for pid in list(self.tasks):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._tell({"task": self.tasks.pop(pid), "code": os.waitstatus_to_exitcode(status)})

    def _tell(self, document: dict[str, Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.master.sendall(json.dumps(document).encode() + b"\n")

    def _dismiss(self) -> None:
        for pid in self.tasks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


class QuickEnd:
    """Ends a forked process after its threads and exit handlers, without taking apart what was imported.

    Python would free every object, and so copy all memory that is shared with the nursery: a tenth of a second for each
    process. Exit handlers run in the opposite order of their registration, so this is made before all others.
    """

    def __init__(self) -> None:
        self._code = 0
        atexit.register(self._end)

    def run(self, program: Callable[[], None]) -> None:
        """Run a program to its end; the exit code is the one that Python would give."""
        try:
            program()
        except SystemExit as end:
            self._code = end.code if isinstance(end.code, int) else int(end.code is not None)
            raise
        except BaseException:
            self._code = 1
            raise

    def _end(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(self._code & 0xFF)


def become(order: dict[str, Any], leash: int) -> None:
    """In a forked child: be the ordered process, as long as the platform holds the leash's other end."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(leash,), name="leash", daemon=True).start()
    os.chdir(order["cwd"])
    _redirect(order["log"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = [order["module"], *order["argv"]]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def _end_with(leash: int) -> None:
    """Wait for the end of the pipe, then end this process as a supervisor would."""
    os.read(leash, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _redirect(log: str) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(out)


def main() -> None:
    """Import, then serve on the socket whose number is the first argument; the second is the leash.

    Further arguments are the modules to import, in the place of those that services and agents share.
    """
    master, leash = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    quick_end = QuickEnd()
    gc.disable()  # imports leave no garbage behind: looking for it would take a fifth of the time
    for name in sys.argv[3:] or IMPORTED:
        importlib.import_module(name)
    if not sys.argv[3:]:
        kernels.compile_all()
    gc.enable()
    gc.collect()
    gc.freeze()  # what is there already stays shared between the children
    order = Nursery(master).serve()
    if order is not None:
        quick_end.run(partial(become, order, leash))


if __name__ == "__main__":
    main()
