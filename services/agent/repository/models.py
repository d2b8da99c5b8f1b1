"""Global models on this site's disk, by content digest, within a size limit (least recently used go first)."""

from __future__ import annotations

import os
from pathlib import Path

from undersong.shared.ids import Digest
from undersong.shared.partial import PartialFile

PART = ".part"


class ModelCache:
    """A folder of model files, each named by its SHA-256 and checked before it gets that name."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, digest: Digest) -> Path | None:
        """Return the model's file, marked as used now."""
        path = self._path(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def part(self, digest: Digest) -> PartialFile:
        """Return what has come of a model that is not here yet, also before a restart of the agent."""
        return PartialFile(self._path(digest).with_suffix(PART), digest)

    def adopt(self, digest: Digest) -> Path | None:
        """Take a model in whose download has ended; None, and nothing is kept, where it has another digest."""
        path, part = self._path(digest), self.part(digest)
        whole = part.is_whole()
        if whole:
            part.become(path)
        self._forget_parts()
        if not whole:
            return None
        self._trim(keep=path)
        return path

    def evict(self) -> None:
        """Delete every model: each can be fetched again."""
        self._forget_parts()
        for path in self._folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest}.safetensors"

    def _forget_parts(self) -> None:
        for left in self._folder.glob(f"*{PART}"):
            left.unlink(missing_ok=True)

    def _trim(self, keep: Path) -> None:
        files = sorted(((p.stat(), p) for p in self._folder.glob("*.safetensors")), key=lambda item: item[0].st_mtime)
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in files:
            if total <= self._limit:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= stat.st_size
