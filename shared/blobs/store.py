"""The store interface that services use."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from undersong.shared.blobs.blob import Blob, BlobChanged, BlobCorrupt, Identity, Intake
from undersong.shared.blobs.bucket import BucketOptions, open_bucket
from undersong.shared.blobs.local import LocalBlobs
from undersong.shared.blobs.remote import RemoteBlobs
from undersong.shared.clock import monotonic
from undersong.shared.ids import Digest, digest_of

_VERDICT_S: Final = 3600.0
_VERDICTS: Final = 4096


class BlobStore:
    """Immutable content by SHA-256. A blob that can be read is complete; nothing here holds a whole stream."""

    def __init__(self, backend: LocalBlobs | RemoteBlobs) -> None:
        self._backend = backend
        self._verdicts: OrderedDict[Digest, tuple[Identity, float, asyncio.Future[bool]]] = OrderedDict()

    @classmethod
    def open(cls, url: str, options: BucketOptions | None = None) -> "BlobStore":
        """Return a folder (`file:///var/lib/x`) or a bucket (`s3://bucket/prefix`, reached by `options`)."""
        parts = urlsplit(url)
        if parts.scheme == "file":
            return cls(LocalBlobs(Path(unquote(parts.path))))
        if parts.scheme in ("s3", "memory"):
            return cls(RemoteBlobs(open_bucket(url, options or BucketOptions())))
        raise ValueError("a blob store is file:///folder or s3://bucket/prefix")

    async def put_stream(
        self,
        chunks: AsyncIterator[bytes],
        *,
        limit: int,
        expect: Digest | None = None,
        expect_size: int | None = None,
        came: Callable[[], Awaitable[object]] | None = None,
    ) -> Blob:
        """Store a stream durably before returning; the same bytes again give the same blob.

        `came` is awaited when all bytes have come and are what was declared, before the blob becomes visible.

        Raises BlobTooLarge beyond `limit` bytes, DigestMismatch when it is not `expect` or not `expect_size` bytes
        long, StorageFull; in every case nothing becomes visible.
        """
        return await self._backend.put_stream(chunks, Intake(limit, expect, expect_size, came), expect_size)

    async def put(self, data: bytes) -> Blob:
        """Store bytes at hand."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        return await self.put_stream(once(), limit=len(data), expect_size=len(data))

    async def get(self, digest: Digest) -> bytes:
        """Return all bytes, checked against the digest; BlobMissing, BlobCorrupt."""
        data = await self._backend.get(digest)
        if digest_of(data) != digest:
            raise BlobCorrupt(digest)
        return data

    def stream(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes from `start` up to (not with) `end`, in chunks; BlobMissing at the first one.

        Ask `size` before.
        """
        return self._backend.stream(digest, start, end)

    async def verify(self, digest: Digest) -> int:
        """Check the stored bytes against the digest and return their size; raises BlobMissing or BlobCorrupt.

        A verdict holds for `_VERDICT_S` as long as the store still has the very same file, so that the readers of one
        model cost one reading. Those that ask at the same time share it.
        """
        identity, now = await self._backend.identity(digest), monotonic()
        known = self._verdicts.get(digest)
        if known is None or known[:1] != (identity,) or now - known[1] > _VERDICT_S:
            known = (identity, now, asyncio.ensure_future(self._has_digest(digest)))
            self._verdicts[digest] = known
            while len(self._verdicts) > _VERDICTS:
                self._verdicts.popitem(last=False)
        try:
            good = await asyncio.shield(known[2])
        except Exception:
            self._verdicts.pop(digest, None)  # a failure to read is no verdict
            raise
        if not good:
            raise BlobCorrupt(digest)
        return await self._backend.size(digest)

    async def _has_digest(self, digest: Digest) -> bool:
        found = hashlib.sha256()
        async for chunk in self._backend.stream(digest, 0, None):
            await asyncio.to_thread(found.update, chunk)
        return found.hexdigest() == digest

    async def stream_part(self, digest: Digest, start: int, end: int) -> AsyncIterator[bytes]:
        """Stream the bytes from `start` up to `end` of the very file that was found right; BlobMissing, BlobCorrupt.

        Raises BlobChanged where another file was in its place, or it was written to: no byte of that is sent.
        """
        await self.verify(digest)
        verdict = self._verdicts.get(digest)
        if verdict is None:
            raise BlobChanged(digest)
        async for chunk in self._backend.stream(digest, start, end, verdict[0]):
            yield chunk

    async def stream_whole(self, digest: Digest) -> AsyncIterator[bytes]:
        """Stream all bytes, and hold the last of them back until the whole has its digest; BlobMissing, BlobCorrupt.

        A reader that gets the last byte has got the right bytes.
        """
        found, held = hashlib.sha256(), b""
        async for chunk in self._backend.stream(digest, 0, None):
            if held:
                yield held
            await asyncio.to_thread(found.update, chunk)
            held = chunk
        if found.hexdigest() != digest:
            raise BlobCorrupt(digest)
        if held:
            yield held

    async def quarantine(self, digest: Digest) -> None:
        """Move damaged bytes to quarantine, which no read reaches, so that the right ones can be stored again."""
        self._verdicts.pop(digest, None)
        await self._backend.quarantine(digest)

    async def quarantined(self) -> int:
        """Return how many damaged blobs lie set aside, for which no right one was stored since."""
        return await self._backend.quarantined()

    async def size(self, digest: Digest) -> int:
        """Size in bytes; BlobMissing."""
        return await self._backend.size(digest)

    async def delete(self, digest: Digest) -> None:
        """Remove a blob; a second time does nothing."""
        await self._backend.delete(digest)

    def list(self, older_than: timedelta) -> AsyncIterator[Blob]:
        """Blobs stored (or stored again) longer ago than that, with `stored_at`."""
        return self._backend.list(older_than)

    def path(self, digest: Digest) -> Path | None:
        """Return the local file of a stored blob, for mmap or readinto; None where blobs are not files."""
        return self._backend.path(digest) if isinstance(self._backend, LocalBlobs) else None

    async def discard_incoming(self, older_than: timedelta) -> int:
        """Remove what interrupted uploads left; returns how many."""
        return await self._backend.discard_incoming(older_than)

    async def check(self) -> None:
        """Raise when the store cannot be used; for readiness."""
        await self._backend.check()

    async def probe(self) -> None:
        """Raise StoreIgnoresConditions when the store would replace what it is asked to create; for readiness."""
        if isinstance(self._backend, RemoteBlobs):
            await self._backend.probe()
