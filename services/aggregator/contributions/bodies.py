"""Stored blobs as local files, which is how they are folded."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

from undersong.services.aggregator.domain.refusals import BodyLost
from undersong.shared.blobs import BlobMissing, BlobStore
from undersong.shared.ids import Digest, SiteId
from undersong.shared.secagg.engine import BodySource, OpenBody
from undersong.shared.secagg.fold import FileSource, read_body_header
from undersong.shared.wire.updates import UpdateHeader


@asynccontextmanager
async def local_file(blobs: BlobStore, digest: Digest) -> AsyncIterator[Path]:
    """Lend the blob as a local file; fetched for the moment where the store is not a folder. Raises BodyLost."""
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


def opener(blobs: BlobStore, digests: Mapping[SiteId, Digest]) -> OpenBody:
    """Return what opens these stored bodies for an engine, which runs in a thread beside this event loop.

    Raises BodyLost or MalformedUpdate where a body cannot be read.
    """
    loop = asyncio.get_running_loop()

    @contextmanager
    def opened(site_id: SiteId) -> Iterator[tuple[UpdateHeader, BodySource]]:
        stored = local_file(blobs, digests[site_id])
        path = asyncio.run_coroutine_threadsafe(_entered(stored), loop).result()
        try:
            header, offset = read_body_header(path)
            with FileSource(path, offset) as source:
                yield header, source
        finally:
            asyncio.run_coroutine_threadsafe(_left(stored), loop).result()

    return opened


async def _entered(stored: AbstractAsyncContextManager[Path]) -> Path:
    return await stored.__aenter__()


async def _left(stored: AbstractAsyncContextManager[Path]) -> None:
    await stored.__aexit__(None, None, None)
