"""The README tells the truth: its commands exist, the cheap ones run, its links lead somewhere."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.commands import Commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def shown() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_two_set_up_commands_are_there() -> None:
    assert {"make demo", "make test"} <= set(shown())


@pytest.mark.parametrize("line", [line for line in shown() if line.startswith("make ")])
def test_every_make_command_is_a_target_that_make_accepts(line: str) -> None:
    words = shlex.split(line)
    assert words[1] in make_targets()
    assert run(*words, "--dry-run").returncode == 0


@pytest.mark.parametrize("line", [line for line in shown() if "undersong" in line.split()[0]])
def test_every_undersong_command_exists_with_its_options(commands: Commands, line: str) -> None:
    words = shlex.split(line)[1:]
    names = [word for word in words[:2] if re.fullmatch("[a-z]+", word) and word != "north"]
    answer = commands.run(*names, "--help", cwd=ROOT, env=os.environ)
    assert answer.returncode == 0, answer.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in answer.stdout


def test_no_other_kind_of_command_is_shown() -> None:
    """A command of another kind would need a test of its own."""
    assert all(line.startswith("make ") or "undersong" in line.split()[0] for line in shown())


def test_every_command_that_the_text_mentions_exists() -> None:
    """In code marks; the reference, which the README leads to, has every command."""
    reference = (ROOT / "docs/reference/cli.md").read_text()
    assert "docs/reference/cli.md" in README
    mentioned = re.findall(r"`undersong ([a-z]+(?: [a-z]+)?)", README)
    assert mentioned
    for words in mentioned:
        assert f"`undersong {words}`" in reference or f"`undersong {words.split()[0]}`\n" in reference


def test_make_help_lists_every_public_target() -> None:
    answer = run("make", "help")
    assert answer.returncode == 0
    for target in ("demo", "test", "check", "bench", "e2e", "openapi", "clean"):
        assert f"make {target}" in answer.stdout


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
