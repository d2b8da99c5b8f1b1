"""What ends a service's command and is the operator's to correct is one line with the remedy, and changes nothing."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from undersong.services.aggregator.__main__ import PROGRAM as AGGREGATOR
from undersong.services.coordinator.__main__ import PROGRAM as COORDINATOR
from undersong.services.keys.__main__ import HELPER_PROGRAM as HELPER
from undersong.services.keys.__main__ import PROGRAM as KEYS
from undersong.services.registry.__main__ import PROGRAM as REGISTRY
from undersong.shared.database.migrations import migrate
from undersong.shared.web import program
from undersong.shared.web.program import Program

PROGRAMS: list[Program[Any]] = [AGGREGATOR, COORDINATOR, HELPER, KEYS, REGISTRY]
WRITING = [(each, name) for each in PROGRAMS for name, _, writes in each.listed() if writes]
OWN = [(each, name) for each in PROGRAMS for name, _, _ in each.listed() if name not in ("api", "worker")]
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process, and return the one line with which it ends."""

    def run(which: Program[Any], command: str, *arguments: str, **settings: str) -> str:
        prefix = str(which.settings.model_config["env_prefix"])
        given = {"DATA_DIR": str(tmp_path / "data"), "KEYS_URL": "http://127.0.0.1:9", "MIGRATE_ON_START": "false"}
        for name, value in {**given, **settings}.items():
            monkeypatch.setenv(f"{prefix}{name}", value)
        with pytest.raises(SystemExit) as stopped:
            which.main([command, *arguments])
        said = capsys.readouterr().err
        assert stopped.value.code == 2
        assert len(said.splitlines()) == 1, said
        return said

    for name in ("configure_logging", "configure_tracing", "arm"):
        monkeypatch.setattr(program, name, lambda *_, **__: None)
    return run


def unusable(kind: str, folder: Path) -> Path:
    file = folder / "file"
    file.write_text("")
    match kind:
        case "below a file":
            return file / "out"
        case "a file":
            return file
        case "a pipe":
            os.mkfifo(folder / "pipe")
            return folder / "pipe"
        case "no room":
            return Path("/dev/full/out")
        case "not ours":
            return Path("/proc/undersong/out")
    return Path("x" * 300) / "out"


BAD = ["below a file", "a file", "a pipe", "no room", "not ours", "too long"]


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(("which", "command"), WRITING, ids=lambda value: getattr(value, "name", value))
def test_an_out_that_cannot_be_written(run: Run, tmp_path: Path, which: Program[Any], command: str, kind: str) -> None:
    out = unusable(kind, tmp_path)
    assert "name another path" in run(which, command, "--out", str(out))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["below a file", "a file", "not ours"])
@pytest.mark.parametrize(("which", "command"), OWN, ids=lambda value: getattr(value, "name", value))
def test_a_data_folder_that_cannot_be_used(
    run: Run, tmp_path: Path, which: Program[Any], command: str, kind: str
) -> None:
    arguments = ["--out", str(tmp_path / "out")] if (which, command) in WRITING else []
    run(which, command, *arguments, DATA_DIR=str(unusable(kind, tmp_path)))


@pytest.mark.parametrize(
    ("which", "command"),
    [(KEYS, "new-operator-token"), (COORDINATOR, "bootstrap"), (COORDINATOR, "bump-epoch")],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_database_without_its_schema(run: Run, tmp_path: Path, which: Program[Any], command: str) -> None:
    arguments = ["--out", str(tmp_path / "out")] if (which, command) in WRITING else []
    said = run(which, command, *arguments)
    assert f"undersong.services.{which.name} migrate`" in said


@pytest.mark.parametrize("content", [None, "", "junk", "ff" * 31])
@pytest.mark.parametrize("command", ["new-seal-key", "reseal", "new-operator-token"])
def test_a_seal_key_that_is_none(run: Run, tmp_path: Path, command: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "seal.key").write_text(content)
    arguments = ["--out", str(tmp_path / "out")] if command == "new-operator-token" else []
    run(KEYS, command, *arguments)


@pytest.mark.parametrize("which", [AGGREGATOR, COORDINATOR, REGISTRY, HELPER], ids=lambda each: each.name)
def test_an_identity_that_cannot_be_renewed(run: Run, which: Program[Any]) -> None:
    if "rotate-identity" in which.commands:
        run(which, "rotate-identity")


@pytest.mark.parametrize("which", PROGRAMS, ids=lambda each: each.name)
def test_a_database_that_is_no_database(run: Run, tmp_path: Path, which: Program[Any]) -> None:
    file = tmp_path / "file.sqlite"
    file.write_bytes(b"something else " * 100)
    assert "DATABASE_URL" in run(which, "migrate", DATABASE_URL=f"sqlite+aiosqlite:///{file}")
    missing = f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/file.sqlite"
    assert "DATABASE_URL" in run(which, "migrate", DATABASE_URL=missing)


@pytest.mark.parametrize("which", PROGRAMS, ids=lambda each: each.name)
def test_a_port_that_is_taken(run: Run, which: Program[Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = run(which, "api", PORT=str(taken.getsockname()[1]), HOST="127.0.0.1", MIGRATE_ON_START="true")
    assert "already in use" in said


def test_the_operators_token_is_not_replaced_by_one_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/keys.sqlite"
    migrate(url, "keys")
    KEYS.run("bootstrap", KEYS.settings(database_url=url, data_dir=tmp_path / "data"), tmp_path / "first")
    before = (tmp_path / "keys.sqlite").read_bytes()
    (tmp_path / "out" / "operator-token").mkdir(parents=True)
    run(KEYS, "new-operator-token", "--out", str(tmp_path / "out"), DATABASE_URL=url)
    assert (tmp_path / "keys.sqlite").read_bytes() == before
