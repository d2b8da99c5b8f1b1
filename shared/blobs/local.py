"""Blobs in a folder.

layout:  <root>/<first two digits>/<digest>    finished, never changed
         <root>/incoming/<random>              being written; whatever a crash leaves here was never visible
         <root>/quarantine/<digest>.damaged    bytes that no longer had their digest

Written to incoming, fsynced, renamed, folder fsynced: a digest that can be read is complete and on the disk.
"""

import asyncio
import errno
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from undersong.shared.blobs.blob import QUARANTINE, SET_ASIDE, Blob, BlobChanged, BlobMissing, Identity, Intake
from undersong.shared.errors import StorageFull
from undersong.shared.faults import point
from undersong.shared.files import mark_of, sync_folder
from undersong.shared.ids import Digest, is_digest

CHUNK = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
RESERVE_BYTES = 64 << 20  # stays free for the database and its journal


class LocalBlobs:
    """Blobs below one local folder; file operations run in threads, a megabyte at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    async def put_stream(self, chunks: AsyncIterator[bytes], intake: Intake, expect_size: int | None) -> Blob:
        """Write the chunks and make them visible under their digest, all or nothing."""
        self._check_space(expect_size or 0)
        temporary = self._incoming / secrets.token_hex(16)
        try:
            with _storage_errors(), temporary.open("xb", buffering=0) as file:
                await self._fill(file, chunks, intake)
                await intake.end()
                point("blob.written")
                blob = await asyncio.to_thread(self._publish, file, temporary, intake)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return blob

    async def _fill(self, file: BinaryIO, chunks: AsyncIterator[bytes], intake: Intake) -> None:
        waiting: list[bytes] = []
        held = 0
        async for chunk in chunks:
            intake.count(len(chunk))
            waiting.append(chunk)
            held += len(chunk)
            if held >= CHUNK:
                await asyncio.to_thread(_take, file, waiting, intake)
                waiting, held = [], 0
        if held >= CHUNK // 8:
            await asyncio.to_thread(_take, file, waiting, intake)
        else:  # a hand-over costs more than this
            _take(file, waiting, intake)

    def _publish(self, file: BinaryIO, temporary: Path, intake: Intake) -> Blob:
        blob = intake.finish()
        target = self.path(blob.digest)  # one that is there already is replaced: its bytes may have been damaged
        os.fsync(file.fileno())
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            sync_folder(self.root)
        temporary.rename(target)
        sync_folder(target.parent)
        point("blob.stored")
        return blob

    def path(self, digest: Digest) -> Path:
        """Return where the blob is, or would be."""
        if not is_digest(digest):
            raise BlobMissing(f"There is no content {digest!r}.")
        return self.root / digest[:2] / digest

    async def get(self, digest: Digest) -> bytes:
        """Return all bytes."""
        try:
            return await asyncio.to_thread(self.path(digest).read_bytes)
        except FileNotFoundError as error:
            raise _missing(digest) from error

    async def stream(
        self, digest: Digest, start: int, end: int | None, same: Identity | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to `end`, in chunks of a megabyte.

        With `same`, only while the file that is open is the one with this identity: BlobChanged before any chunk that
        may come from another one, or from after a change. That another upload of the content took its place meanwhile
        does not matter: readers go on with the file that they opened, and see nothing of it.
        """
        path = self.path(digest)
        try:
            file = await asyncio.to_thread(_open_at, path, start)
        except FileNotFoundError as error:
            raise _missing(digest) from error
        left = max(0, (end if end is not None else os.fstat(file.fileno()).st_size) - start)
        try:
            while left:
                data = await asyncio.to_thread(file.read, min(CHUNK, left))
                if same is not None and not _is_same(os.fstat(file.fileno()), same):
                    raise BlobChanged(digest)
                if not data:
                    return
                left -= len(data)
                yield data
        finally:
            file.close()

    async def identity(self, digest: Digest) -> Identity:
        """Return what tells this file from any other."""
        try:
            return mark_of(self.path(digest).stat())
        except FileNotFoundError as error:
            raise _missing(digest) from error

    async def quarantine(self, digest: Digest) -> None:
        """Move it aside."""
        folder = self.root / QUARANTINE
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            self.path(digest).rename(folder / f"{digest}{SET_ASIDE}")

    async def quarantined(self) -> int:
        """Return how many were moved aside and are not there again."""
        aside = [path.name.removesuffix(SET_ASIDE) for path in (self.root / QUARANTINE).glob(f"*{SET_ASIDE}")]
        return sum(not self.path(Digest(name)).exists() for name in aside if is_digest(name))

    async def size(self, digest: Digest) -> int:
        """Size in bytes."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise _missing(digest) from error

    async def delete(self, digest: Digest) -> None:
        """Remove it; nothing happens when it is not there."""
        await asyncio.to_thread(self.path(digest).unlink, missing_ok=True)

    async def list(self, older_than: timedelta) -> AsyncIterator[Blob]:
        """Blobs stored longer ago than that."""
        before = time.time() - older_than.total_seconds()
        for folder in sorted(self.root.iterdir()):
            if folder != self._incoming and folder.is_dir():
                for blob in await asyncio.to_thread(_old_blobs, folder, before):
                    yield blob

    async def discard_incoming(self, older_than: timedelta) -> int:
        """Remove what crashes left half-written; returns how many."""
        before = time.time() - older_than.total_seconds()
        count = 0
        for file in list(self._incoming.iterdir()):
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < before:
                    file.unlink()
                    count += 1
        return count

    async def check(self) -> None:
        """Raise when the folder cannot take another blob."""
        self._check_space(0)
        if not os.access(self._incoming, os.W_OK):
            raise StorageFull("The blob folder is not writable.")

    def _check_space(self, size: int) -> None:
        if shutil.disk_usage(self._incoming).free < size + RESERVE_BYTES:
            raise StorageFull("There is no space left to store this.", retry_after_s=60)


def _take(file: BinaryIO, chunks: list[bytes], intake: Intake) -> None:
    for chunk in chunks:
        intake.hash(chunk)
        view = memoryview(chunk)
        while view:
            view = view[file.write(view) :]


def _is_same(found: os.stat_result, identity: Identity) -> bool:
    """Return whether an open file is the one with this identity; one without a name changed its ctime when it
    lost it.
    """
    known = mark_of(found)
    return known == identity or (found.st_nlink == 0 and known[:-1] == identity[:-1])


def _open_at(path: Path, start: int) -> BinaryIO:
    file = path.open("rb")
    file.seek(start)
    return file


def _old_blobs(folder: Path, before: float) -> list[Blob]:
    found = []
    for path in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):
            status = path.stat()
            if is_digest(path.name) and status.st_mtime <= before:
                found.append(Blob(Digest(path.name), status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)))
    return found


def _missing(digest: Digest) -> BlobMissing:
    return BlobMissing(f"There is no content {digest}.")


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull("There is no space left to store this.", retry_after_s=60) from error
        raise
