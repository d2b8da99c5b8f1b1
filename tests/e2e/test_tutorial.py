"""The tutorial's first page tells the truth: its commands run as they stand there, on real processes."""

import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.commands import Commands
from tests.pace import Deadline
from undersong.client import Client
from undersong.profile import load_profile
from undersong.shared.secagg.quantise import SUMS_SCALE

pytestmark = [pytest.mark.process, pytest.mark.exhaustive, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial" / "01-the-sum-of-a-and-b.md").read_text()
UNDERSONG = str(Path(sys.executable).with_name("undersong"))
STARTS = (" up ", " agent run ")
WAIT_S = 120.0
NUMBERS = (1729583.0, 2646417.0, 624000.0)
TOTAL = 5000000.0


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@dataclass
class Shell:
    """A reader's shells, all in one folder."""

    folder: Path
    commands: Commands
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "UNDERSONG_HOME": str(self.folder / "config")}

    def words(self, line: str) -> list[str]:
        first, *rest = shlex.split(line)
        assert first == ".venv/bin/undersong"
        return rest

    def start(self, line: str) -> None:
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            self.started.append(
                subprocess.Popen([UNDERSONG, *self.words(line)], cwd=self.folder, env=self.env, stdout=log, stderr=log)
            )

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return self.commands.run(*self.words(line), cwd=self.folder, env=self.env)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = Deadline(WAIT_S)
        while not holds():
            assert not deadline.over(), [path.read_text() for path in self.folder.glob("*.log")]
            time.sleep(0.2)

    def up(self) -> bool:
        return "Ctrl-C" in (self.folder / "0.log").read_text()

    def online(self) -> bool:
        with Client(load_profile()) as client:
            return [site.online for site in client.sites()] == [True] * 3


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "examples").symlink_to(ROOT / "examples")
    made = Shell(folder, commands)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNDERSONG_HOME", made.env["UNDERSONG_HOME"])
        yield made
    for process in reversed(made.started):
        process.send_signal(signal.SIGTERM)
    for process in made.started:
        process.wait(60)


def test_the_commands_run_and_say_what_the_page_says(shell: Shell) -> None:
    """The sum is right; what is not allowed is refused; the round's evidence holds."""
    asked: list[subprocess.CompletedProcess[str]] = []
    for line in commands():
        if any(word in line for word in STARTS):
            shell.start(line)
            if " up " in line:
                shell.until(shell.up)
        elif line.endswith("site list"):
            shell.until(shell.online)
            assert shell.run(line).stdout.count("online") == 3
        elif " stats ask " in line:
            asked.append(shell.run(line))
        elif "JOB" in line:
            job = json.loads(asked[1].stdout)["job_id"]
            (round_id,) = set(re.findall(r"rnd_\w+", shell.run(line.replace("JOB", job)).stdout))
        elif "ROUND" in line:
            done = shell.run(line.replace("ROUND", round_id))
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            done = shell.run(line)
            assert done.returncode == 0, done.stderr
    first, as_json, withheld, refused = asked
    shown = re.search(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    for printed, told in zip(first.stdout.splitlines()[:3], shown[1].splitlines()[:3], strict=True):
        assert printed.split() == told.split()
    (column,) = json.loads(as_json.stdout)["results"][0]["columns"]
    assert (column["sum"], column["known"]) == (TOTAL, 3.0)
    assert "fewer than 5 rows" in withheld.stdout
    assert str(int(TOTAL)) not in withheld.stdout
    assert refused.returncode != 0
    assert "failed" in refused.stderr


def alone(number: float) -> re.Pattern[bytes]:
    """The number as text, and not as a part of a longer one."""
    return re.compile(rb"(?<![0-9.])%d(?:\.0)?(?![0-9.])" % int(number))


def test_no_party_shows_its_number(shell: Shell) -> None:
    """What the services keep, as it lies on their disks, holds the sum and no number of a party."""
    home = shell.folder / ".home"
    kept = [path for path in home.rglob("*") if path.is_file() and path.stat().st_size < 50_000_000]
    found = b"".join(path.read_bytes() for path in kept)
    assert alone(TOTAL).search(found), "the sum is where the platform keeps it"
    for number in NUMBERS:
        assert not alone(number).search(found)
        assert struct.pack("<q", round(number * SUMS_SCALE)) not in found
