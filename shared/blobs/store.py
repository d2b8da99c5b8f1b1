"""The store interface that services use."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from obstore.store import from_url

from shared.blobs.blob import Blob, BlobCorrupt, Intake
from shared.blobs.local import LocalBlobs
from shared.blobs.remote import RemoteBlobs
from shared.ids import Digest, digest_of


class BlobStore:
    """Immutable content by SHA-256. A blob that can be read is complete; nothing here holds a whole stream."""

    def __init__(self, backend: LocalBlobs | RemoteBlobs) -> None:
        self._backend = backend

    @classmethod
    def open(cls, url: str) -> "BlobStore":
        """A folder (`file:///var/lib/x`) or a bucket (`s3://bucket/prefix`, credentials from the environment)."""
        parts = urlsplit(url)
        if parts.scheme == "file":
            return cls(LocalBlobs(Path(unquote(parts.path))))
        if parts.scheme in ("s3", "memory"):
            return cls(RemoteBlobs(from_url(url)))
        raise ValueError("a blob store is file:///folder or s3://bucket/prefix")

    async def put_stream(
        self,
        chunks: AsyncIterator[bytes],
        *,
        limit: int,
        expect: Digest | None = None,
        expect_size: int | None = None,
    ) -> Blob:
        """Store a stream durably before returning; the same bytes again give the same blob.

        Raises BlobTooLarge beyond `limit` bytes, DigestMismatch when it is not `expect` or not `expect_size` bytes
        long, StorageFull; in every case nothing becomes visible.
        """
        return await self._backend.put_stream(chunks, Intake(limit, expect, expect_size), expect_size)

    async def put(self, data: bytes) -> Blob:
        """Store bytes at hand."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        return await self.put_stream(once(), limit=len(data), expect_size=len(data))

    async def get(self, digest: Digest) -> bytes:
        """All bytes, checked against the digest; BlobMissing, BlobCorrupt."""
        data = await self._backend.get(digest)
        if digest_of(data) != digest:
            raise BlobCorrupt(digest)
        return data

    def stream(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to (not with) `end`, in chunks; BlobMissing at the first one. Ask `size` before."""
        return self._backend.stream(digest, start, end)

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
        """The local file of a stored blob, for mmap or readinto; None where blobs are not files."""
        return self._backend.path(digest) if isinstance(self._backend, LocalBlobs) else None

    async def discard_incoming(self, older_than: timedelta) -> int:
        """Remove what interrupted uploads left; returns how many."""
        return await self._backend.discard_incoming(older_than)

    async def check(self) -> None:
        """Raise when the store cannot be used; for readiness."""
        await self._backend.check()
