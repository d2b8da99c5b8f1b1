"""Changes that this site trained ahead of a round: one for a job, on this disk alone until a round collects it.

Each is a file of float32 numbers, named by its digest, and a note beside it that names it; the note is replaced in one
step, so that a crash leaves the change before or the one after. A change is given under one number of the job only.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgpack
from pydantic import TypeAdapter

from undersong.shared.files import sync_folder
from undersong.shared.ids import Digest, JobId, VersionId

GRACE_S: Final = 3600.0
_NOTE, _PART = ".note", ".part"


@dataclass(frozen=True, slots=True)
class ChangeNote:
    """What is known of a change: the order that it answers, and what a round has to say to get it.

    place: rounds of the job that were trained when it began. terms: the digest of the round's recipe, data and privacy
    terms. used: the number of the round that it was given to, if any.
    """

    order: Digest
    version_id: VersionId
    place: int
    terms: Digest
    examples: int
    loss: float
    until: float
    vector: Digest
    length: int
    used: int | None = None


_FORM: Final = TypeAdapter(ChangeNote)
_DIGEST: Final = re.compile("[0-9a-f]{64}")


class TrainedChanges:
    """A folder of them, readable by its owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, job_id: JobId) -> ChangeNote | None:
        """Return what is known of the job's change; None where there is none, or its note cannot be read."""
        return _read(self._note(job_id))

    def keep(self, job_id: JobId, note: ChangeNote, data: memoryview) -> None:
        """Store a change durably in the place of an earlier one; `note.vector` is the digest of its bytes."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(self._vector(note.vector), data)
        self._put(job_id, note)
        self._sweep()

    def vector(self, note: ChangeNote) -> bytes | None:
        """Return the bytes of a change; None where they are gone or damaged."""
        try:
            data = self._vector(note.vector).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == note.vector else None

    def use(self, job_id: JobId, note: ChangeNote, number: int) -> None:
        """Note durably, before anything of a change leaves, under which number of its job it is given."""
        if note.used != number:
            self._put(job_id, replace(note, used=number))

    def given(self, job_id: JobId, number: int) -> None:
        """Erase the change that was given under this number. Idempotent."""
        note = self.find(job_id)
        if note is not None and note.used == number:
            self._note(job_id).unlink(missing_ok=True)
            self._sweep()

    def forget(self) -> None:
        """Erase changes whose orders are over by any clock, and what a crash left."""
        if not self._folder.is_dir():
            return
        for path, note in self._notes():
            if note is None or note.until + GRACE_S < time.time():
                path.unlink(missing_ok=True)
        self._sweep()

    def _put(self, job_id: JobId, note: ChangeNote) -> None:
        fields = {name: getattr(note, name) for name in ChangeNote.__slots__}
        _write(self._note(job_id), memoryview(bytes(msgpack.packb(fields))))

    def _sweep(self) -> None:
        """Erase the vectors that no note names."""
        named = {f"{note.vector}.f32" for _, note in self._notes() if note is not None}
        for path in self._folder.iterdir():
            if path.suffix in (".f32", _PART) and path.name not in named:
                path.unlink(missing_ok=True)
        sync_folder(self._folder)

    def _notes(self) -> Iterator[tuple[Path, ChangeNote | None]]:
        for path in self._folder.glob(f"*{_NOTE}"):
            yield path, _read(path)

    def _note(self, job_id: JobId) -> Path:
        return self._folder / f"{hashlib.sha256(job_id.encode()).hexdigest()}{_NOTE}"

    def _vector(self, digest: Digest) -> Path:
        return self._folder / f"{digest}.f32"


def _read(path: Path) -> ChangeNote | None:
    try:
        note = _FORM.validate_python(msgpack.unpackb(path.read_bytes()))
    except (OSError, ValueError, TypeError, msgpack.exceptions.UnpackException):
        return None
    return note if _DIGEST.fullmatch(note.vector) else None


def _write(path: Path, data: memoryview) -> None:
    part = path.with_suffix(_PART)
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)
