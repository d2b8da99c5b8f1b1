"""Backups of an embedded platform, made while it runs, and restored into an empty folder.

Two folders come of it: the data (databases, blobs, what sites keep) and the keys (key files, identities, first tokens).
Neither opens anything without the other, so keep them in different places.

Databases are copied by SQLite's own online backup, one after the other: who asks before whom it asks, so that nothing
in an earlier copy refers to what a later one lacks. Blobs never change, and are copied after the rows that name them.
The high-water files of keys, helper and agents are left out on purpose: by them a restore is noticed.
"""

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from undersong import __version__
from undersong.errors import UndersongError
from undersong.local.layout import HELPER, Layout
from undersong.shared.files import open_regular, read_text

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
IN_ORDER: Final = ("coordinator", "aggregator", HELPER, "registry", "keys")
"""Each refers only to what the ones after it hold."""
SITES: Final = "sites"
_SECRET_FOLDERS: Final = frozenset({"secrets", "identity", "tls"})
_SECRET_FILES: Final = frozenset({"seal.key", "enrol-token"})
_LEFT_OUT: Final = frozenset({"openings", "incoming", "work", "task", "models", "lock", "consent-page"})
_MARKS: Final = "high-water"  # and what lies beside it: by these a restore is noticed
_LEFT_OUT_ENDINGS: Final = ("-wal", "-shm", "-journal", ".lock", ".partial", ".sock")


class BackupError(UndersongError):
    """A backup that cannot be made, or cannot be trusted."""


@dataclass(frozen=True)
class Made:
    """What a backup holds."""

    files: int
    size: int
    seconds: float


@contextmanager
def _private() -> Iterator[None]:
    """Make files meanwhile that are their owner's alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@_private()
def back_up(home: Path, data: Path, keys: Path) -> Made:
    """Copy the platform in `home` into the new folders `data` and `keys`; it may be running."""
    if not (home / "secrets").is_dir():
        raise BackupError(f"there is no platform in {home}", remedy="name its folder with --home")
    began, backup_id = time.monotonic(), secrets.token_hex(16)
    targets = {"data": _fresh(data), "keys": _fresh(keys)}
    listed: dict[str, dict[str, Any]] = {"data": {}, "keys": {}}
    for source in _files(home):
        place = source.relative_to(home)
        part = "keys" if _secret(place) else "data"
        target = targets[part] / place
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _copied(source, target):
            listed[part][place.as_posix()] = {"size": target.stat().st_size, "sha256": _digest(target)}
    for part, final in (("data", data), ("keys", keys)):
        document = {
            "format": FORMAT,
            "part": part,
            "backup": backup_id,
            "version": __version__,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": listed[part],
        }
        with (targets[part] / MANIFEST).open("x") as file:
            file.write(json.dumps(document, indent=1, sort_keys=True))
            file.flush()
            os.fsync(file.fileno())
        targets[part].rename(final)
    for service in IN_ORDER:
        if (home / service).is_dir():
            (home / service / "last-backup").touch()
    found = [facts for part in listed.values() for facts in part.values()]
    return Made(len(found), sum(facts["size"] for facts in found), time.monotonic() - began)


@_private()
def restore(data: Path, keys: Path, home: Path, *, sites: bool = True) -> datetime:
    """Rebuild a platform in the empty folder `home`; when the backup was made. Start it afterwards with `undersong up`.

    `sites`: whether agents are restored too; leave them out where they live on, for they know what they answered since.
    """
    if home.exists() and any(home.iterdir()):
        raise BackupError(f"{home} is not empty", remedy="restore into an empty folder: name it with --home")
    documents = {part: _manifest(folder, part) for part, folder in (("data", data), ("keys", keys))}
    if documents["data"]["backup"] != documents["keys"]["backup"]:
        raise BackupError("data and keys are of different backups", remedy="give the two that were made together")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    for part, folder in (("data", data), ("keys", keys)):
        for name, facts in documents[part]["files"].items():
            if sites or not name.startswith(f"{SITES}/"):
                _put_back(folder / name, home / name, facts)
    layout = Layout.prepare(home)
    _tell(layout, "coordinator", "coordinator", "bump-epoch")  # agents refuse what they may have answered
    _tell(layout, HELPER, "keys", "helper-restored")  # and the helper what it may have opened
    for service in IN_ORDER:
        (home / service / "last-restore").touch()
    return datetime.fromisoformat(documents["data"]["made_at"])


def _files(home: Path) -> Iterator[Path]:
    """Yield what belongs into a backup, in the order in which it must be copied."""
    for folder in (*IN_ORDER, SITES, "secrets", "tls"):
        found = [path for path in sorted((home / folder).rglob("*")) if path.is_file() and not path.is_symlink()]
        kept = [path for path in found if not _left_out(path.relative_to(home))]
        yield from sorted(kept, key=lambda path: path.suffix != ".sqlite")  # rows before the blobs that they name


def _left_out(place: Path) -> bool:
    left_out = bool(_LEFT_OUT & set(place.parts)) or place.name.endswith(_LEFT_OUT_ENDINGS)
    return left_out or place.name.startswith(_MARKS)


def _secret(place: Path) -> bool:
    return bool(_SECRET_FOLDERS & set(place.parts)) or place.name in _SECRET_FILES


def _copied(source: Path, target: Path) -> bool:
    """Copy one file; False when it went away meanwhile, as blobs of ended rounds do."""
    if source.suffix == ".sqlite":
        _snapshot(source, target)
        return True
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        return False
    target.chmod(0o600)
    return True


def _snapshot(source: Path, target: Path) -> None:
    """Copy one moment of a database that others go on writing."""
    try:
        with closing(sqlite3.connect(source, timeout=30)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            (verdict,) = copy.execute("PRAGMA quick_check").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be copied: {error}", remedy="undersong doctor") from error
    if verdict != "ok":
        raise BackupError(f"{source} is damaged: {verdict}", remedy="restore the last good backup")
    target.chmod(0o600)


def _fresh(folder: Path) -> Path:
    """Return the folder's name while it is being filled, so that half a backup is not mistaken for a whole one."""
    if folder.exists():
        raise BackupError(f"{folder} exists already", remedy="each backup goes into new folders")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, mode=0o700)
    return partial


def _manifest(folder: Path, part: str) -> Mapping[str, Any]:
    try:
        document: dict[str, Any] = json.loads(read_text(folder / MANIFEST))
        known = (document["format"], document["part"]) == (FORMAT, part)
        strays = [name for name in document["files"] if ".." in PurePosixPath(name).parts or name.startswith("/")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_a_backup(folder, part, str(error)) from error
    if not known or strays:
        raise _not_a_backup(folder, part, f"it names {strays[0]}" if strays else "its format or kind is another")
    return document


def _not_a_backup(folder: Path, part: str, why: str) -> BackupError:
    return BackupError(
        f"{folder} is not the {part} of a backup: {why}", remedy="undersong restore DATA KEYS, in this order"
    )


def _put_back(source: Path, target: Path, facts: Mapping[str, Any]) -> None:
    try:
        intact = source.stat().st_size == facts["size"] and _digest(source) == facts["sha256"]
    except OSError:
        intact = False
    if not intact:
        raise BackupError(f"{source} is not what was backed up", remedy="take another backup; this one is damaged")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(source, target)
    target.chmod(0o600)


def _tell(layout: Layout, settings: str, service: str, command: str) -> None:
    """Run a service's command over its restored database: it is a copy, and must know."""
    words = [sys.executable, "-m", f"undersong.services.{service}", command]
    done = subprocess.run(
        words, env=layout.environment(settings), cwd=layout.home, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BackupError(f"{service} {command} failed:\n{done.stderr[-1000:]}", remedy="undersong doctor")


def _digest(file: Path) -> str:
    with os.fdopen(open_regular(file), "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
