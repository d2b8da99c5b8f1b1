"""Stored blobs as local files, which is how they are folded."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.aggregator.domain import BodyLost
from shared.blobs import BlobMissing, BlobStore
from shared.ids import Digest


@asynccontextmanager
async def local_file(blobs: BlobStore, digest: Digest) -> AsyncIterator[Path]:
    """The blob as a local file; fetched for the moment where the store is not a folder. Raises BodyLost."""
    path = blobs.path(digest)
    if path is not None:
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="undersong-") as file:
        try:
            async for chunk in blobs.stream(digest):
                await asyncio.to_thread(file.write, chunk)
        except BlobMissing:
            raise BodyLost("the stored body is no longer there") from None
        file.flush()
        yield Path(file.name)
