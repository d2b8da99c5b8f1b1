"""What recipes leave at this site for a job's next round: a file for each round, never sent, and no part of any update.

A file belongs to a job, its recipe's code and its data, so that no other recipe reads it. A round reads what the newest
round before it left: a round that is tried again starts from the same file as its first try.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from undersong.shared.files import sync_folder
from undersong.shared.wire.manifest import RoundManifest

KEPT_ROUNDS: Final = 3
FORGET_AFTER_S: Final = 60 * 86_400.0
_SUFFIX: Final = ".safetensors"


class RoundFiles:
    """A folder with a file for each of a job's newest rounds, readable by its owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, manifest: RoundManifest) -> list[Path]:
        """Return the files of the job's rounds before this one, oldest first."""
        return [path for number, path in sorted(self._rounds(manifest)) if number < manifest.number]

    def put(self, manifest: RoundManifest, write: Callable[[Path], None]) -> None:
        """Let a file be written for this round, in place of one that is there; what older rounds left goes.

        write: makes the file that it is given, durably.
        """
        folder = self._of(manifest)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        part, path = folder / "part", folder / f"{manifest.number}{_SUFFIX}"
        write(part)
        part.replace(path)
        sync_folder(folder)
        older = sorted(self._rounds(manifest))[:-KEPT_ROUNDS]
        for _, past in older:
            past.unlink(missing_ok=True)

    def forget(self) -> None:
        """Erase what no round used for long."""
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            with suppress(FileNotFoundError):
                newest = max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
                if newest < time.time() - FORGET_AFTER_S:
                    shutil.rmtree(folder)

    def _rounds(self, manifest: RoundManifest) -> list[tuple[int, Path]]:
        return [(int(path.stem), path) for path in self._of(manifest).glob(f"*{_SUFFIX}") if path.stem.isdigit()]

    def _of(self, manifest: RoundManifest) -> Path:
        about = f"{manifest.job_id}/{manifest.recipe.digest}/{manifest.data.dataset}"
        return self._folder / hashlib.sha256(about.encode()).hexdigest()


class LocalTensors:
    """What recipes leave, in a folder of such files."""

    def __init__(self, folder: Path) -> None:
        self._files = RoundFiles(folder)

    def before(self, manifest: RoundManifest, folder: Path) -> Path | None:
        """Copy what the last round before this one left into the task's folder; None where there is nothing.

        In a round that protects records there never is: what earlier rounds left was trained without its noise.
        """
        if not _kept_in(manifest):
            return None
        rounds = self._files.before(manifest)
        if not rounds:
            return None
        copy = folder / f"local-before{_SUFFIX}"
        shutil.copyfile(rounds[-1], copy)
        copy.chmod(0o644)  # a container's own user reads it; above, only the agent can
        return copy

    def keep(self, manifest: RoundManifest, made: Path | None) -> None:
        """Take over what the recipe left in this round, durably; what older rounds left goes."""
        if made is None or not _kept_in(manifest):
            return

        def write(part: Path) -> None:
            with made.open("rb") as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())

        self._files.put(manifest, write)

    def forget(self) -> None:
        """Erase what no round used for long."""
        self._files.forget()


def _kept_in(manifest: RoundManifest) -> bool:
    return manifest.privacy is None or manifest.privacy.record_noise is None
