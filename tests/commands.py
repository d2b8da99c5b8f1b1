"""Commands as processes of their own, forked from one that has imported the command line: see `command_server`."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.pace import Deadline

ROOT: Final = Path(__file__).parents[1]
START_S: Final = 120.0
COMMAND_S: Final = 300.0


class Commands:
    """Runs `undersong WORDS…`: files, environment, folder and exit code are the command's own."""

    def __init__(self, folder: Path) -> None:
        self._path, log = folder / "commands", folder / "commands.log"
        with log.open("wb") as output:
            words = [sys.executable, "-m", "tests.command_server", str(self._path)]
            self._server = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=output)
        deadline = Deadline(START_S)
        while not self._listens():
            assert self._server.poll() is None, log.read_text()
            assert not deadline.over(), "the server of commands did not start"
            time.sleep(0.02)

    def run(
        self, *words: str, cwd: Path, env: Mapping[str, str], stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; a time limit of the test ends one that hangs."""
        with (
            tempfile.TemporaryFile("w+") as given,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as complaints,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client,
        ):
            given.write(stdin or "")
            given.seek(0)
            order = json.dumps({"words": words, "cwd": str(cwd), "env": dict(env)}).encode()
            client.connect(str(self._path))
            client.settimeout(COMMAND_S)
            socket.send_fds(client, [order], [file.fileno() for file in (given, out, complaints)])
            code = int(client.recv(16))
            for file in (out, complaints):
                file.seek(0)
            return subprocess.CompletedProcess(["undersong", *words], code, out.read(), complaints.read())

    def close(self) -> None:
        """End the server. Idempotent."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            return probe.connect_ex(str(self._path)) == 0
