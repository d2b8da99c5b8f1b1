"""What is stored, and what is refused."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from undersong.shared.errors import Kind, NotFound, Refusal, StorageFull, TooLarge, Unavailable
from undersong.shared.ids import Digest


@dataclass(frozen=True, slots=True)
class Blob:
    """Stored bytes by their SHA-256; `size` in bytes; `stored_at` is known where blobs are listed."""

    digest: Digest
    size: int
    stored_at: datetime | None = None


class BlobTooLarge(TooLarge):
    """The content is larger than allowed."""


class DigestMismatch(Refusal):
    """The content does not have the digest or size that was declared."""

    kind = Kind.INVALID


class BlobMissing(NotFound):
    """There is no such content."""


class BlobCorrupt(Exception):
    """Stored bytes no longer have their digest; the store is damaged."""


class BlobChanged(Exception):
    """The stored file is not the one any more that was found right; what was sent of it must not be finished."""


class StoreUnavailable(Unavailable):
    """The object store cannot be used now."""

    def __init__(self, detail: str, reason: str) -> None:
        super().__init__(detail, retry_after_s=_RETRY_AFTER_S)
        self.reason = reason


class StoreIgnoresConditions(Exception):
    """The object store replaces an object that it was asked to create."""

    reason = "ignored"


_RETRY_AFTER_S: Final = 5.0
QUARANTINE: Final = "quarantine"
SET_ASIDE: Final = ".damaged"
Identity = tuple[object, ...]
"""What tells one stored file from another: it changes whenever the file is written again."""


class Intake:
    """Counts and hashes content on its way in, and refuses what breaks its declaration."""

    def __init__(
        self, limit: int, expect: Digest | None, expect_size: int | None, came: Callable[[], Awaitable[object]] | None
    ) -> None:
        self.size = 0
        self._came = came
        self._limit = limit
        self._expect = expect
        self._expect_size = expect_size
        self._hash = hashlib.sha256()
        if expect_size is not None and expect_size > limit:
            raise BlobTooLarge(f"The content has {expect_size} bytes; at most {limit} are allowed.")

    def count(self, length: int) -> None:
        """Account for bytes that are about to be taken; BlobTooLarge beyond the limit."""
        self.size += length
        if self.size > self._limit:
            raise BlobTooLarge(f"The content has more than {self._limit} bytes.")
        if self._expect_size is not None and self.size > self._expect_size:
            raise DigestMismatch(f"The content has more than the {self._expect_size} bytes declared.")

    def hash(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes to the running digest."""
        self._hash.update(data)

    async def end(self) -> Blob:
        """Return the blob that came whole, once the caller was told of it; DigestMismatch."""
        blob = self.finish()
        if self._came is not None:
            await self._came()
        return blob

    def finish(self) -> Blob:
        """Return the finished blob; DigestMismatch when it is not what was declared."""
        if self._expect_size is not None and self.size != self._expect_size:
            raise DigestMismatch(f"The content has {self.size} bytes; {self._expect_size} were declared.")
        digest = Digest(self._hash.hexdigest())
        if self._expect is not None and digest != self._expect:
            raise DigestMismatch(f"The content has digest {digest}; {self._expect} was declared.")
        return Blob(digest, self.size)


__all__ = [
    "Blob",
    "BlobChanged",
    "BlobCorrupt",
    "BlobMissing",
    "BlobTooLarge",
    "DigestMismatch",
    "Intake",
    "StorageFull",
    "StoreIgnoresConditions",
    "StoreUnavailable",
]
