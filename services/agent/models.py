"""Global models on this site's disk, by content digest, within a size limit (least recently used go first)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from services.agent.domain import TaskFailure
from shared.ids import Digest

PART = ".part"


class ModelCache:
    """A folder of model files, each named by its SHA-256 and checked before it gets that name."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"*{PART}"):
            left.unlink(missing_ok=True)

    def find(self, digest: Digest) -> Path | None:
        """The model's file, marked as used now."""
        path = self._path(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    async def store(self, digest: Digest, chunks: AsyncIterator[bytes], *, limit_bytes: int) -> Path:
        """Stream a model to disk; TaskFailure `model-digest` or `model-too-large`, and nothing is kept."""
        path, part = self._path(digest), self._path(digest).with_suffix(PART)
        running, size = hashlib.sha256(), 0
        try:
            with part.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > limit_bytes:
                        raise TaskFailure("model-too-large", f"the model is larger than {limit_bytes} bytes")
                    running.update(chunk)
                    file.write(chunk)
            if running.hexdigest() != digest:
                raise TaskFailure("model-digest", "the registry gave other bytes than the manifest names")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._trim(keep=path)
        return path

    def evict(self) -> None:
        """Delete every model: each can be fetched again."""
        for path in self._folder.glob("*.safetensors"):
            path.unlink(missing_ok=True)

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest}.safetensors"

    def _trim(self, keep: Path) -> None:
        files = sorted(((p.stat(), p) for p in self._folder.glob("*.safetensors")), key=lambda item: item[0].st_mtime)
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in files:
            if total <= self._limit:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= stat.st_size
