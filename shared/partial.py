"""A download that goes on where it was cut, and is checked as a whole: RFC 9110, Range with If-Range.

The file's SHA-256 is known beforehand and is its strong entity tag. What has come lies in a file of its own; each
request asks for the rest, and nothing is used before all of it has the digest. Bytes of two requests are never trusted
to belong together.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from undersong.shared.files import open_regular

PARTIAL: Final = 206
UNSATISFIABLE: Final = 416
"""All of the file is there already, or more than it has: the digest says."""


class TooLong(Exception):
    """More bytes have come than the reader takes."""


class PartialFile:
    """What has come so far of the content with this digest."""

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self._digest = path, digest

    @property
    def size(self) -> int:
        """How many bytes are there."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for the rest."""
        have = self.size
        return {"range": f"bytes={have}-", "if-range": f'"{self._digest}"'} if have else {}

    @contextmanager
    def taking(self, status: int, content_range: str) -> Iterator[BinaryIO]:
        """Open the file for an answer's body: behind what is there if the answer goes on from it, else anew."""
        have = self.size
        goes_on = have > 0 and status == PARTIAL and content_range.startswith(f"bytes {have}-")
        with self.path.open("ab" if goes_on else "wb") as file:
            yield file

    async def take(
        self, status: int, content_range: str, blocks: AsyncIterator[bytes], limit: int | None = None
    ) -> None:
        """Write an answer's body; raises TooLong where there are more than `limit` bytes in the end."""
        with self.taking(status, content_range) as file:
            size = file.tell()
            async for block in blocks:
                size += len(block)
                if limit is not None and size > limit:
                    raise TooLong
                file.write(block)

    def is_whole(self) -> bool:
        """Return whether the bytes have the digest."""
        try:
            with os.fdopen(open_regular(self.path), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self._digest
        except FileNotFoundError:
            return False

    def become(self, target: Path) -> None:
        """Put the file, once it is whole, into its place."""
        self.path.replace(target)

    def discard(self) -> None:
        """Forget what has come."""
        self.path.unlink(missing_ok=True)
