"""What is no file is refused at once, by every reader of a path that a user chose."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from undersong.cli.login import _secret
from undersong.errors import ProfileError, UndersongError
from undersong.profile import _read as read_profiles_file
from undersong.recipes.datasets import BadDataset
from undersong.recipes.declaration import read_texts
from undersong.recipes.draft import draft_text
from undersong.services.agent import settings
from undersong.services.agent.policy import file as policy
from undersong.services.agent.repository.highwater import SentMessages
from undersong.services.agent.repository.store import Store
from undersong.services.agent.settings import ConfigError
from undersong.services.keys.operators import _read as read_operator_token
from undersong.shared.files import (
    LARGEST_INPUT,
    NotAFile,
    file_mark,
    open_lock,
    read_bytes,
    read_input,
    read_text,
    tree_marks,
    write_new,
)
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.enrol import EnrolmentRefused, read_token
from undersong.shared.identity.highwater import DurableLines, HighWater
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.transport import ServerTls, trust

KINDS = ("a named pipe", "a device", "a folder", "a socket", "loop")


def in_folder(name: str, path: Path) -> Path:
    """A folder in which a file of this name leads to the path."""
    folder = path.with_name(f"in {name}")
    folder.mkdir()
    (folder / name).symlink_to(path)
    return folder


READERS: dict[str, tuple[type[Exception], Callable[[Path], Any]]] = {
    "bytes": (OSError, read_bytes),
    "text": (OSError, read_text),
    "lock": (OSError, open_lock),
    "lines": (OSError, lambda path: DurableLines(path).read()),
    "added line": (OSError, lambda path: DurableLines(path).add("word")),
    "mark": (OSError, lambda path: HighWater(path).read()),
    "high-water file": (ConfigError, SentMessages),
    "agent.yaml": (ConfigError, settings.load),
    "policy.yaml": (ConfigError, policy.load),
    "agent's database": (ConfigError, lambda path: Store(in_folder("agent.sqlite", path))),
    "datasets.yaml": (BadDataset, read_texts),
    "data to be declared": (BadDataset, lambda path: draft_text(path, None, None)),
    "identity": (OSError, lambda path: Identity.load(in_folder("identity.pem", path))),
    "enrolment token": (EnrolmentRefused, read_token),
    "operator token": (OSError, read_operator_token),
    "seal key": (OSError, Sealer.ensure),
    "authorities": (OSError, lambda path: trust(path, ["https://example.org"])),
    "more authorities": (OSError, lambda path: trust(path, ["https://example.org"], "added")),
    "server's key": (OSError, ServerTls),
    "profiles": (ProfileError, read_profiles_file),
}


@pytest.fixture(params=KINDS)
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "path"
    if request.param == "a named pipe":
        os.mkfifo(path)
    elif request.param == "a device":
        path.symlink_to("/dev/zero")
    elif request.param == "a folder":
        path.mkdir()
    elif request.param == "loop":
        path.symlink_to(path)
    with socket.socket(socket.AF_UNIX) as bound:
        if request.param == "a socket":
            bound.bind(str(path))
        yield path


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused_at_once(no_file: Path, name: str, request: pytest.FixtureRequest) -> None:
    """A pipe would be waited for, and a device never ends. The error says what it is."""
    refusal, read = READERS[name]
    kind = request.node.callspec.params["no_file"]
    with pytest.raises(refusal) as caught:
        read(no_file)
    if kind not in ("loop", "a socket"):
        assert kind in str(getattr(caught.value, "text", "")) + str(caught.value)


def test_a_command_reads_a_pipe_to_its_end(tmp_path: Path) -> None:
    """What a shell's <(command) is; a device is none, nor what never ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("token\n",))
    writer.start()
    assert _secret(pipe) == "token"
    writer.join()
    (tmp_path / "file").write_bytes(b"x")
    assert read_input(tmp_path / "file") == b"x"
    for path in (Path("/dev/zero"), tmp_path):
        with pytest.raises(NotAFile):
            read_input(path)
        with pytest.raises(UndersongError):
            _secret(path)
    with (tmp_path / "long").open("wb") as file:
        file.truncate(LARGEST_INPUT + 1)
    with pytest.raises(OSError, match="more than 64 MiB"):
        read_input(tmp_path / "long")


def test_ends_of_lines_are_read_as_python_does(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("a\r\nb\rc\né".encode())
    assert read_text(path) == path.read_text("utf-8")


def test_a_new_file_replaces_nothing(tmp_path: Path) -> None:
    target, gone = tmp_path / "policy.yaml", tmp_path / "gone"
    assert write_new(target, "first")
    assert not write_new(target, "second")
    assert target.read_text() == "first"
    link = tmp_path / "link"
    link.symlink_to(gone)
    assert not write_new(link, "third")
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "policy.yaml"]


def in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def by_renaming(path: Path, data: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(data)
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.rename(path)


def by_link(path: Path, data: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(data)
    path.unlink()
    path.symlink_to(new)


@pytest.mark.parametrize("replace", [in_place, by_renaming, by_link])
def test_a_file_with_the_size_and_time_of_the_old_one_has_another_mark(
    tmp_path: Path, replace: Callable[[Path, bytes], None]
) -> None:
    path = tmp_path / "policy.yaml"
    assert file_mark(path) is None
    path.write_bytes(b"strict")
    before, first = path.stat(), file_mark(path)
    assert file_mark(path) == first
    time.sleep(0.02)  # the kernel's clock for change times has ticks
    replace(path, b"casual")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert file_mark(path) != first


def test_the_marks_of_a_folder_change_with_any_file_in_it(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    file = inner / "x"
    file.write_text("1")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    seen = [tree_marks(tmp_path)]
    assert tree_marks(tmp_path) == seen[0]
    file.write_text("22")
    seen.append(tree_marks(tmp_path))
    file.rename(inner / "y")
    seen.append(tree_marks(tmp_path))
    (inner / "z").touch()
    seen.append(tree_marks(tmp_path))
    assert len(set(seen)) == len(seen)
    assert tree_marks(inner / "y") == ((str(inner / "y"), file_mark(inner / "y")),)
    assert tree_marks(tmp_path / "none") == ((str(tmp_path / "none"), None),)
