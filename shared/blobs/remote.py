"""Blobs in an object store (S3 and its like), through obstore.

keys:  <digest[:2]>/<digest>   finished      incoming/<random>   being written

An upload goes to an incoming key, because its digest is known only at its end, and is then copied by the store itself;
when the digest is declared beforehand it goes straight to its place, which becomes visible only when it is complete.
"""

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import PreconditionError
from obstore.store import ObjectStore

from undersong.shared.blobs.blob import QUARANTINE, SET_ASIDE, Blob, BlobChanged, BlobMissing, Identity, Intake
from undersong.shared.ids import Digest, is_digest

if TYPE_CHECKING:
    from obstore import GetOptions

CHUNK = 5 << 20  # the least that S3 takes as a part of an upload


class RemoteBlobs:
    """Blobs in an object store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put_stream(self, chunks: AsyncIterator[bytes], intake: Intake, _expect_size: int | None) -> Blob:
        """Upload the chunks and make them visible under their digest, all or nothing."""
        temporary = f"incoming/{secrets.token_hex(16)}"
        try:
            await obstore.put_async(self._store, temporary, _checked(chunks, intake), chunk_size=CHUNK)
            blob = await intake.end()
            await obstore.copy_async(self._store, temporary, _key(blob.digest))
        finally:
            await self._forget(temporary)
        return blob

    async def get(self, digest: Digest) -> bytes:
        """Return all bytes."""
        try:
            answer = await obstore.get_async(self._store, _key(digest))
        except FileNotFoundError as error:
            raise _missing(digest) from error
        return bytes(await answer.bytes_async())

    async def stream(
        self, digest: Digest, start: int, end: int | None, same: Identity | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to `end`; with `same`, of the object with this identity, else BlobChanged.

        The store itself compares the tag (If-Match), and sends the object that it compared.
        """
        size = await self.size(digest)
        stop = size if end is None else min(end, size)
        if start >= stop:
            return
        options: GetOptions = {"range": (start, stop)}
        if same is not None and same[0]:
            options["if_match"] = str(same[0])
        try:
            answer = await obstore.get_async(self._store, _key(digest), options=options)
        except PreconditionError as error:
            raise BlobChanged(digest) from error
        async for chunk in answer.stream(min_chunk_size=CHUNK):
            yield bytes(chunk)

    async def identity(self, digest: Digest) -> Identity:
        """Return what tells this object from any other."""
        try:
            found = await obstore.head_async(self._store, _key(digest))
        except FileNotFoundError as error:
            raise _missing(digest) from error
        return (found["e_tag"], found["size"], found["last_modified"])

    async def quarantine(self, digest: Digest) -> None:
        """Move it aside."""
        try:
            await obstore.copy_async(self._store, _key(digest), f"{QUARANTINE}/{digest}{SET_ASIDE}")
        except FileNotFoundError:
            return
        await self._forget(_key(digest))

    async def quarantined(self) -> int:
        """Return how many were moved aside and are not there again."""
        count = 0
        async for batch in obstore.list(self._store, QUARANTINE):
            for entry in batch:
                name = entry["path"].rsplit("/", 1)[-1].removesuffix(SET_ASIDE)
                try:
                    await self.size(Digest(name))
                except BlobMissing:
                    count += 1
        return count

    async def size(self, digest: Digest) -> int:
        """Size in bytes."""
        try:
            return int((await obstore.head_async(self._store, _key(digest)))["size"])
        except FileNotFoundError as error:
            raise _missing(digest) from error

    async def delete(self, digest: Digest) -> None:
        """Remove it; nothing happens when it is not there."""
        await self._forget(_key(digest))

    async def list(self, older_than: timedelta) -> AsyncIterator[Blob]:
        """Blobs stored longer ago than that."""
        before = datetime.now(UTC) - older_than
        async for batch in obstore.list(self._store):
            for entry in batch:
                name = entry["path"].rsplit("/", 1)[-1]
                if is_digest(name) and entry["last_modified"] <= before:
                    yield Blob(Digest(name), entry["size"], entry["last_modified"])

    async def discard_incoming(self, older_than: timedelta) -> int:
        """Remove what crashes left half-written; returns how many."""
        before = datetime.now(UTC) - older_than
        count = 0
        async for batch in obstore.list(self._store, "incoming"):
            for entry in batch:
                if entry["last_modified"] < before:
                    await self._forget(entry["path"])
                    count += 1
        return count

    async def check(self) -> None:
        """Raise when the store does not answer."""
        await obstore.list_with_delimiter_async(self._store, "incoming")

    async def _forget(self, key: str) -> None:
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return


async def _checked(chunks: AsyncIterator[bytes], intake: Intake) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        intake.count(len(chunk))
        intake.hash(chunk)
        yield chunk


def _key(digest: Digest) -> str:
    if not is_digest(digest):
        raise _missing(digest)
    return f"{digest[:2]}/{digest}"


def _missing(digest: Digest) -> BlobMissing:
    return BlobMissing(f"There is no content {digest}.")
