"""A path that cannot be read or written is one clear error of every command that takes one, never a traceback."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer.main
from typer.core import TyperArgument

from tests.effort import also
from undersong import cli


def commands(group: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(group, "commands"):
        for name, command in group.commands.items():
            yield from commands(command, *words, name)
    else:
        yield words, group


def taken(parameter: Any) -> bool:
    return "Path" in str(parameter.type_descriptor.annotation)


STARTING = (
    "up",
    "demo",
    "quickstart",
    "agent",
)  # they would start a platform in a folder that can be used; without a token, login asks
TAKING = [
    (words, command, parameter)
    for words, command in commands(typer.main.get_command(cli.app))
    for parameter in command.params
    if taken(parameter) and words[0] not in STARTING and parameter.name not in ("operator_token_file", "ca_file")
]


def unusable(kind: str, folder: Path) -> Path:
    (folder / "file").write_text("")
    match kind:
        case "a folder":
            (folder / "folder").mkdir()
            return folder / "folder"
        case "below a file":
            return folder / "file" / "below"
        case "full":
            return Path("/dev/full")
    return Path("/proc/undersong/file")


@pytest.mark.parametrize("kind", ["a folder", "full", *also("below a file", "not ours")])
@pytest.mark.parametrize(
    ("words", "command", "parameter"), TAKING, ids=[f"{'-'.join(words)}-{p.name}" for words, _, p in TAKING]
)
def test_a_path_that_cannot_be_used(
    words: tuple[str, ...],
    command: Any,
    parameter: Any,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad, given = str(unusable(kind, tmp_path)), list(words)
    for each in command.params:
        value = bad if each is parameter else str(tmp_path / "other") if taken(each) else "x"
        if isinstance(each, TyperArgument) and each.required:
            given.append(value)
        elif each is parameter or each.required:
            given += [each.opts[0], value]
    if isinstance(parameter, TyperArgument) and not parameter.required:
        given.append(bad)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["undersong", *given])
    before = structlog.get_config()
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        structlog.configure(**before)  # doctor sets it for its own process
    assert stopped.value.code in (1, 2, 3, 4), capsys.readouterr()
