"""Content: model files on their way in, their inspection, and the clearing away of what no version needs."""

import asyncio
import mmap
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from undersong.services.registry.access import Asker, claimant
from undersong.services.registry.domain import Content, ContentDamaged, ContentMissing
from undersong.services.registry.repository.actions import ActionRepository
from undersong.services.registry.repository.contents import ContentRepository, no_content
from undersong.services.registry.views import ContentView
from undersong.shared.blobs import BlobCorrupt, BlobMissing, BlobStore, DigestMismatch
from undersong.shared.database import Database, Transaction
from undersong.shared.faults import point
from undersong.shared.ids import Digest, FederationId
from undersong.shared.learning import safetensors, tensors
from undersong.shared.telemetry.metrics import DAMAGED_BLOBS

log = structlog.get_logger(__name__)

_BATCH = 100
_UNTIL_STORED_S = 10.0
_UPLOAD_STALLS = timedelta(hours=1)  # an upload that goes on is touched with every block


@dataclass(frozen=True, slots=True)
class Upload:
    """What an upload says about itself: the digest in the address, the one in Content-Digest, the length in bytes.

    `federation_id` names the federation that it is for, where the caller writes in several.
    """

    digest: Digest
    announced: Digest | None
    size: int | None
    federation_id: str | None = None


class Contents:
    """Model files by digest. A row in SQL precedes every file, so that nothing is cleared away under an upload."""

    def __init__(self, database: Database, store: BlobStore, *, limit: int) -> None:
        self._database = database
        self._store = store
        self.limit = limit

    async def put(self, asker: Asker, upload: Upload, chunks: AsyncIterator[bytes]) -> ContentView:
        """Store content of this digest for one federation; BlobTooLarge, DigestMismatch, StorageFull leave nothing.

        The whole body is received and hashed even where the content is stored already: only who sends all its bytes
        has shown to have them, and no caller learns from the answer what others have uploaded.
        """
        federation_id = claimant(asker, upload.federation_id)
        if upload.announced not in (None, upload.digest):
            raise DigestMismatch("Content-Digest is not the digest in the address.")

        async def claim(tx: Transaction) -> None:
            repository = ContentRepository(tx)
            await repository.expect_content(upload.digest)
            await repository.claim(upload.digest, federation_id)

        async def expect() -> None:  # only now: an announcement without its bytes changes nothing
            await self._database.run("content.expect", lambda tx: ContentRepository(tx).expect_content(upload.digest))

        blob = await self._store.put_stream(
            chunks, limit=self.limit, expect=upload.digest, expect_size=upload.size, came=expect
        )
        point("registry.content.stored")
        await self._database.run("content.claim", claim)
        return ContentView(digest=blob.digest, size=blob.size)

    async def verify(self, digest: Digest) -> None:
        """Make sure that the stored file is the right one, before a byte of it is served.

        Raises ContentDamaged where it is not, or is not there: a damaged file is set aside, and said so in the audit
        trail, the log and the metrics. The same content, uploaded again, takes its place.
        """
        try:
            await self._store.verify(digest)
        except BlobCorrupt:
            await self._set_aside(digest)
            raise _damaged(digest) from None
        except BlobMissing:
            log.warning("content.missing", digest=digest)
            raise _damaged(digest) from None

    async def _set_aside(self, digest: Digest) -> None:
        await self._store.quarantine(digest)
        DAMAGED_BLOBS.labels("registry").inc()
        log.error("content.damaged", digest=digest, set_aside=True)
        await self._database.run(
            "content.damaged", lambda tx: ActionRepository(tx).record("registry", "content.damaged", digest)
        )

    async def check(self) -> None:
        """Raise while quarantined files have not been stored again; for readiness."""
        count = await self._store.quarantined()
        if count:
            raise ContentDamaged(f"{count} damaged model files are set aside: store them again, or delete the versions")

    async def stream(self, digest: Digest, start: int, end: int, size: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to `end`, of `size`.

        A file that is damaged between `verify` and the end breaks the connection off before its last bytes; of a part,
        before the first byte that was not verified.
        """
        if (start, end) != (0, size):
            async for chunk in self._store.stream_part(digest, start, end):
                yield chunk
            return
        try:
            async for chunk in self._store.stream_whole(digest):
                yield chunk
        except BlobCorrupt:
            await self._set_aside(digest)
            raise

    async def inspect(self, digest: Digest, federation_id: FederationId) -> Content:
        """Read a model file that the federation uploaded; raises ContentMissing, BadModelFile or ModelMismatch."""
        if not await self._database.read(
            "content.claimed", lambda tx: ContentRepository(tx).has_claim(digest, federation_id)
        ):
            raise no_content(digest)
        try:
            size = await self._store.verify(digest)
            async with self._file(digest) as path:
                return await asyncio.to_thread(_inspect, digest, path, size)
        except BlobCorrupt as error:
            await self._set_aside(digest)
            raise ContentMissing(f"The content {digest} was damaged: upload it again.") from error
        except BlobMissing as error:
            raise no_content(digest) from error

    @asynccontextmanager
    async def _file(self, digest: Digest) -> AsyncIterator[Path]:
        local = self._store.path(digest)
        if local is not None:
            yield local
            return
        with tempfile.NamedTemporaryFile(prefix="undersong-", suffix=".safetensors") as file:
            async for chunk in self._store.stream(digest):
                await asyncio.to_thread(file.write, chunk)
            file.flush()
            yield Path(file.name)

    async def collect(self, keep: timedelta) -> int:
        """Delete files that no living version needs and that were not used for `keep`; returns how many."""
        await self._adopt_strays(keep)
        await self._database.run("content.unclaim", lambda tx: _forget_claims(tx, keep))
        await self._store.discard_incoming(max(keep, _UPLOAD_STALLS))

        async def candidates(tx: Transaction) -> list[Digest]:
            return await ContentRepository(tx).unused_contents(await tx.now() - keep, _BATCH)

        count = 0
        for digest in await self._database.read("content.unused", candidates):
            count += await self._forget(digest, keep)
        return count

    async def _forget(self, digest: Digest, keep: timedelta) -> bool:
        async def forget(tx: Transaction) -> bool:
            gone = await ContentRepository(tx).forget_content(digest, await tx.now() - keep)
            if gone:  # in the transaction: until it ends, an upload of the same content waits for the row
                await self._store.delete(digest)
            return gone

        gone = await self._database.run("content.forget", forget)
        if gone:
            log.info("content.cleared", digest=digest)
        return gone

    async def _adopt_strays(self, keep: timedelta) -> None:
        """Files without a row, as a crash or a restored database leaves them, get one, and a last chance."""
        batch: list[Digest] = []
        async for blob in self._store.list(keep):
            batch.append(blob.digest)
            if len(batch) == _BATCH:
                await self._adopt(batch)
                batch = []
        if batch:
            await self._adopt(batch)

    async def _adopt(self, digests: list[Digest]) -> None:
        known = await self._database.read("content.known", lambda tx: ContentRepository(tx).known_contents(digests))
        for digest in set(digests) - known:
            await self._database.run("content.adopt", lambda tx, d=digest: ContentRepository(tx).expect_content(d))  # type: ignore[misc]


async def _forget_claims(tx: Transaction, keep: timedelta) -> None:
    await ContentRepository(tx).forget_claims(await tx.now() - keep)


def _damaged(digest: Digest) -> ContentDamaged:
    detail = (
        f"The stored file {digest} is damaged or missing: store it again with PUT /v1/blobs/{digest}?federation_id=ID."
    )
    return ContentDamaged(detail, retry_after_s=_UNTIL_STORED_S)


def _inspect(digest: Digest, path: Path, size: int) -> Content:
    """Check it in a thread. The file is mapped, not loaded, and unmapped when the last view of it goes."""
    if size == 0:
        raise safetensors.BadModelFile("the file is empty")
    with path.open("rb") as file:
        model = tensors.load(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    return Content(
        digest, size, safetensors.tensor_digest(model.tensors, bfloat16=model.schema.bfloat16), model.schema.summary()
    )
