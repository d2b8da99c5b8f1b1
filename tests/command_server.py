"""A process that has imported the command line and forks one process for each command.

The import is nine tenths of what a short command takes. Each connection brings a command, as JSON {words, cwd, env}
with its three standard files, and gets the exit code.
"""

import gc
import json
import os
import select
import socket
import sys
from typing import Any, Final

import undersong.doctor
import undersong.verify  # noqa: F401  (both are imported by their commands, which need not do it again)
from undersong import cli
from undersong.local.nursery import QuickEnd

MASTER: Final = 0  # nothing is written to it
MOST: Final = 150_000  # bytes of a command with its environment: what the kernel passes on in one piece


def serve(listener: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork until standard input ends, as it does with the process that holds its other end.

    In a forked child, the command to run and its files come back.
    """
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd: the process id, and who waits for its end
    while True:
        for ready in select.select([listener, MASTER, *running], [], [])[0]:
            if ready == MASTER:
                sys.exit()
            if ready is not listener:
                pid, client = running.pop(ready)
                os.close(ready)
                with client:
                    client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                continue
            client, _ = listener.accept()
            data, files, _, _ = socket.recv_fds(client, MOST, 3)
            if not data:  # a look whether this listens
                client.close()
                continue
            pid = os.fork()
            if pid == 0:
                for end in (listener, client, *(waiting for _, waiting in running.values())):
                    end.close()
                return json.loads(data), files
            for file in files:
                os.close(file)
            running[os.pidfd_open(pid)] = (pid, client)


def main() -> None:
    """Serve on the UNIX socket whose path is the argument; a forked child is its command from then on."""
    quick_end = QuickEnd()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        gc.collect()
        gc.freeze()  # what is there already stays shared between the commands
        command, files = serve(listener)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    sys.argv = ["undersong", *command["words"]]
    quick_end.run(cli.main)


if __name__ == "__main__":
    main()
