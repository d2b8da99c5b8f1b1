"""The folder of an embedded platform, running or not: what would keep it from starting or from working."""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from undersong.doctor.findings import Finding, disk, open_database, private
from undersong.local.layout import HELPER, SERVICES, is_free
from undersong.profile import is_running, local_profiles
from undersong.shared.files import read_text
from undersong.shared.identity.authority import IDENTITY_FILE

_RESTORE: Final = "undersong restore DATA KEYS --home …, from the last backup"
_HELPERS_CODE: Final = "keys.helper"


def examine_home(home: Path) -> Iterator[Finding]:
    """Lock, ports, key files, databases, blob stores, disk."""
    if not (home / "secrets").is_dir():
        yield Finding("fault", "home", f"there is no platform in {home}", "name its folder with --home")
        return
    running = is_running(home)
    here = [found for found in local_profiles().values() if found.home == str(home.resolve())]
    state = (here[0].state if here else "") or "running"
    yield Finding("ok", "home", f"{home}, {state if running else 'not running'}")
    if not running:
        yield from _ports(home)
    yield from private("key files", _key_files(home))
    for service in (*SERVICES, HELPER):
        yield from _database(home, service)
    for service in ("aggregator", "registry"):
        yield from _blobs(home / service / "blobs", service)
    yield disk(home, "home's disk")


def _ports(home: Path) -> Iterator[Finding]:
    file = home / "ports.json"
    try:
        ports: dict[str, int] = json.loads(read_text(file)) if file.exists() else {}
    except (OSError, ValueError) as error:
        yield Finding("fault", "ports", f"{file} cannot be read: {error}", f"delete {file}: new ports are chosen")
        return
    for name, port in ports.items():
        if not is_free(port):
            remedy = "end what holds it; or undersong up --port N, or --move, and tell agents elsewhere the new address"
            yield Finding("fault", "ports", f"port {port} of {name} is in use by another program", remedy)


def _key_files(home: Path) -> Iterator[Path]:
    yield from sorted((home / "secrets").glob("*"))
    yield from sorted(home.glob(f"*/identity/{IDENTITY_FILE}"))
    yield from sorted(home.glob(f"sites/*/state/identity/{IDENTITY_FILE}"))


def _database(home: Path, service: str) -> Iterator[Finding]:
    file, subject = home / service / f"{service}.sqlite", f"{service} database"
    if not file.exists():
        return
    from undersong.shared.database.migrations import compare_revision

    try:
        with open_database(file) as db:
            found = db.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        yield Finding("fault", subject, f"{file} is damaged: {error}", _RESTORE)
        return
    standing = compare_revision(found[0] if found else None, _HELPERS_CODE if service == HELPER else service)
    if standing == "newer":
        detail = f"its schema ({found[0]}) is newer than this release knows"
        yield Finding("fault", subject, detail, "install the newer release again, or restore the backup from before")
    elif standing != "head":
        yield Finding("ok", subject, "an older schema, which the next start brings forward")
    else:
        yield Finding("ok", subject, f"schema {found[0]}")


def _blobs(folder: Path, service: str) -> Iterator[Finding]:
    if not folder.exists():
        return
    try:
        with tempfile.TemporaryFile(dir=folder / "incoming") as probe:
            probe.write(b"undersong")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        yield Finding("fault", f"{service} blobs", f"{folder} cannot be written: {reason}", "fix owner, mode or mount")
    else:
        yield disk(folder, f"{service} blobs")
