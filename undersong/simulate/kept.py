"""What simulated clients keep for the job's next round: one SQLite file in the run's folder.

A round reads what the newest round before it left, as at a real site (`undersong.services.agent`): a round that is
tried again, or that was cut off by a kill and is done again, starts from what its first try started from. Several
worker processes write one file; each holds one client's tensors at a time.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from undersong.errors import UndersongError
from undersong.recipes.protocol import Tensors
from undersong.shared.errors import Refusal
from undersong.shared.learning import safetensors

KEPT: Final = "clients.sqlite"
LOCAL: Final = "local"
"""What recipes leave."""
LEFT_OUT: Final = "left_out"
"""What updates leave out, with error feedback."""
_PATIENCE_S: Final = 60.0
_TABLES: Final = (
    """CREATE TABLE kept (what TEXT, client INTEGER, number INTEGER, tensors BLOB NOT NULL,
    PRIMARY KEY (what, client, number)) STRICT""",
    "CREATE TABLE stored (number INTEGER NOT NULL) STRICT",
    "INSERT INTO stored VALUES (-1)",
)


class KeptDamaged(Exception):
    """The file is not the one that a simulation's state was stored with."""


class KeptTensors:
    """The tensors of all clients. The file is made when a client first leaves some, so that most jobs have none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: sqlite3.Connection | None = None

    def before(self, client: int, number: int, what: str = LOCAL) -> Tensors:
        """Return what the newest round before this number left at a client; empty where none did."""
        if not self._exists():
            return {}
        asked = "SELECT tensors FROM kept WHERE what = ? AND client = ? AND number < ? ORDER BY number DESC LIMIT 1"
        try:
            found = self._database().execute(asked, (what, client, number)).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from None
        try:
            return {} if found is None else safetensors.read(found[0])
        except Refusal:
            said = f"what client {client} kept in {self._path} is damaged"
            raise UndersongError(said, remedy="name another --out, or delete the folder to begin anew") from None

    def keep(self, client: int, number: int, tensors: Tensors, what: str = LOCAL) -> None:
        """Store what a client leaves in a round; what it left before the round before is deleted."""
        data = safetensors.write(tensors)
        older = "SELECT max(number) FROM kept WHERE what = ? AND client = ? AND number < ?"
        delete = f"DELETE FROM kept WHERE what = ? AND client = ? AND number < ({older})"  # noqa: S608
        try:
            self._create()
            database = self._database()
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)", (what, client, number, data))
                database.execute(delete, (what, client, what, client, number))
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def clients(self, number: int) -> list[int]:
        """Return the clients that keep a recipe's tensors from a round before this number, in ascending order."""
        if not self._exists():
            return []
        asked = "SELECT DISTINCT client FROM kept WHERE what = ? AND number < ? ORDER BY client"
        try:
            return [client for (client,) in self._database().execute(asked, (LOCAL, number))]
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def settle(self, number: int) -> int | None:
        """Make durable what rounds up to this number left; returns the number, or None where nothing was ever left."""
        if not self._exists():
            return None
        try:
            database = self._database()
            with database:
                database.execute("UPDATE stored SET number = ?", (number,))
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from None
        return number

    def check(self, number: int | None) -> None:
        """Raise `KeptDamaged` unless the file holds all that rounds up to this number left."""
        if number is None:
            return
        try:
            found = self._database().execute("SELECT number FROM stored").fetchone() if self._exists() else None
        except sqlite3.Error:
            found = None
        if found is None or found[0] < number:
            raise KeptDamaged

    def forget(self) -> None:
        """Delete everything: a simulation begins."""
        self.close()
        for path in (self._path, *(self._path.with_name(self._path.name + end) for end in ("-wal", "-shm"))):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                said = f"{path} cannot be deleted: {error.strerror}"
                raise UndersongError(said, remedy="delete it, or name another --out") from None

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _exists(self) -> bool:
        return self._opened is not None or self._path.exists()

    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=rw", uri=True, timeout=_PATIENCE_S)
            self._opened.isolation_level = None
            self._opened.execute("PRAGMA synchronous = NORMAL")
        return self._opened

    def _create(self) -> None:
        """Make the file under another name and link it, so that no process sees half of it."""
        if self._exists():
            return
        part = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        part.unlink(missing_ok=True)
        with closing(sqlite3.connect(part, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            for statement in _TABLES:
                database.execute(statement)
        with suppress(FileExistsError):  # another worker was first
            os.link(part, self._path)
        part.unlink()

    def _failed(self, error: sqlite3.Error) -> UndersongError:
        said = f"what clients keep between rounds cannot be stored in {self._path}: {error}"
        return UndersongError(said, remedy="make room on the disk and run it again, or name another --out")
