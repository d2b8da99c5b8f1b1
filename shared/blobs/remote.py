"""Blobs in an object store (S3 and its like), through obstore.

keys:  <digest[:2]>/<digest>   finished      incoming/<random>   being written

Up to a part's length is sent at once when all of it has come. What is longer goes to an incoming key in parts, because
its digest is known only at its end, and is then copied by the store itself. Either way the object is created under its
digest only where there is none (If-None-Match): of many uploads of one content the first one's object stays. One that
is older than `YOUNG` is replaced all the same: it may be about to be cleared away, and its bytes may have been damaged.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import obstore
import structlog
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore

from undersong.shared.blobs.blob import (
    QUARANTINE,
    SET_ASIDE,
    Blob,
    BlobChanged,
    BlobMissing,
    Identity,
    Intake,
    StoreIgnoresConditions,
    StoreUnavailable,
)
from undersong.shared.faults import point
from undersong.shared.ids import Digest, is_digest

if TYPE_CHECKING:
    from typing import Literal

    from obstore import GetOptions, ObjectMeta

    Mode = Literal["create", "overwrite"]

CHUNK = 5 << 20  # the least that S3 takes as a part of an upload
YOUNG: Final = timedelta(minutes=1)
_LONGEST: Final = 300  # characters of what the client says
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class RemoteBlobs:
    """Blobs in an object store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._probed = False

    async def put_stream(self, chunks: AsyncIterator[bytes], intake: Intake, _expect_size: int | None) -> Blob:
        """Upload the chunks and make them visible under their digest, all or nothing; StoreUnavailable."""
        whole = _checked(chunks, intake)
        start = await _first(whole)
        if len(start) < CHUNK:
            blob = await intake.end()
            point("blob.written")
            await self._create(blob, lambda mode: obstore.put_async(self._store, _key(blob.digest), start, mode=mode))
        else:
            blob = await self._put_parts(start, whole, intake)
        point("blob.stored")
        return blob

    async def _put_parts(self, start: bytes, rest: AsyncIterator[bytes], intake: Intake) -> Blob:
        temporary = f"incoming/{secrets.token_hex(16)}"
        try:
            with _store_errors():
                await obstore.put_async(self._store, temporary, _joined(start, rest), chunk_size=CHUNK)
            blob = await intake.end()
            point("blob.written")
            target = _key(blob.digest)

            async def copy(mode: "Mode") -> None:
                await obstore.copy_async(self._store, temporary, target, overwrite=mode == "overwrite")

            await self._create(blob, copy)
        finally:
            with suppress(StoreUnavailable):  # or it would hide what happened; `discard_incoming` comes by
                await self._forget(temporary)
        return blob

    async def _create(self, blob: Blob, store: "Callable[[Mode], Awaitable[object]]") -> None:
        """Have the object stored where there is none; one that is there stays if it is young and as long."""
        with _store_errors():
            try:
                await store("create")
            except NotImplementedError:  # switched off in the environment: AWS_CONDITIONAL_PUT=disabled
                await store("overwrite")
            except AlreadyExistsError:
                with suppress(FileNotFoundError):
                    found = await obstore.head_async(self._store, _key(blob.digest))
                    if found["size"] == blob.size and datetime.now(UTC) - found["last_modified"] < YOUNG:
                        return
                await store("overwrite")

    async def get(self, digest: Digest) -> bytes:
        """Return all bytes."""
        with _store_errors(digest):
            answer = await obstore.get_async(self._store, _key(digest))
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
        with _store_errors(digest):
            try:
                answer = await obstore.get_async(self._store, _key(digest), options=options)
            except PreconditionError as error:
                raise BlobChanged(digest) from error
            pieces = aiter(answer.stream(min_chunk_size=CHUNK))
        while True:
            with _store_errors(digest):
                try:
                    piece = bytes(await anext(pieces))
                except StopAsyncIteration:
                    return
            yield piece

    async def identity(self, digest: Digest) -> Identity:
        """Return what tells this object from any other."""
        with _store_errors(digest):
            found = await obstore.head_async(self._store, _key(digest))
        return (found["e_tag"], found["size"], found["last_modified"])

    async def quarantine(self, digest: Digest) -> None:
        """Move it aside."""
        try:
            with _store_errors():
                await obstore.copy_async(self._store, _key(digest), f"{QUARANTINE}/{digest}{SET_ASIDE}")
        except FileNotFoundError:
            return
        await self._forget(_key(digest))

    async def quarantined(self) -> int:
        """Return how many were moved aside and are not there again."""
        count = 0
        async for entry in self._entries(QUARANTINE):
            name = entry["path"].rsplit("/", 1)[-1].removesuffix(SET_ASIDE)
            try:
                await self.size(Digest(name))
            except BlobMissing:
                count += 1
        return count

    async def size(self, digest: Digest) -> int:
        """Size in bytes."""
        with _store_errors(digest):
            return int((await obstore.head_async(self._store, _key(digest)))["size"])

    async def delete(self, digest: Digest) -> None:
        """Remove it; nothing happens when it is not there."""
        await self._forget(_key(digest))

    async def list(self, older_than: timedelta) -> AsyncIterator[Blob]:
        """Blobs stored longer ago than that."""
        before = datetime.now(UTC) - older_than
        async for entry in self._entries():
            name = entry["path"].rsplit("/", 1)[-1]
            if is_digest(name) and entry["last_modified"] <= before:
                yield Blob(Digest(name), entry["size"], entry["last_modified"])

    async def discard_incoming(self, older_than: timedelta) -> int:
        """Remove what crashes left half-written; returns how many."""
        before = datetime.now(UTC) - older_than
        count = 0
        async for entry in self._entries("incoming"):
            if entry["last_modified"] < before:
                await self._forget(entry["path"])
                count += 1
        return count

    async def check(self) -> None:
        """Raise when the store does not answer."""
        with _store_errors():
            await obstore.list_with_delimiter_async(self._store, "incoming")

    async def probe(self) -> None:
        """Store one object twice and raise StoreIgnoresConditions when the second one is not refused.

        A store that refused it is not asked again; one that does not answer is what `check` tells.
        """
        if self._probed:
            return
        key = f"incoming/{secrets.token_hex(16)}"
        try:
            with _store_errors():
                await obstore.put_async(self._store, key, b"first", mode="create")
                try:
                    await obstore.put_async(self._store, key, b"second", mode="create")
                except AlreadyExistsError:
                    self._probed = True
                    return
                finally:
                    with suppress(StoreUnavailable):
                        await self._forget(key)
        except StoreUnavailable:
            return
        except NotImplementedError:
            pass
        raise StoreIgnoresConditions

    async def _entries(self, prefix: str | None = None) -> "AsyncIterator[ObjectMeta]":
        batches = aiter(obstore.list(self._store, prefix))
        while True:
            with _store_errors():
                try:
                    batch = await anext(batches)
                except StopAsyncIteration:
                    return
            for entry in batch:
                yield entry

    async def _forget(self, key: str) -> None:
        with _store_errors(), suppress(FileNotFoundError):
            await obstore.delete_async(self._store, key)


async def _checked(chunks: AsyncIterator[bytes], intake: Intake) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        intake.count(len(chunk))
        intake.hash(chunk)
        yield chunk


async def _first(chunks: AsyncIterator[bytes]) -> bytes:
    """Return what comes until it is a part's length, or all."""
    start = bytearray()
    async for chunk in chunks:
        start += chunk
        if len(start) >= CHUNK:
            break
    return bytes(start)


async def _joined(start: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield start
    async for chunk in rest:
        yield chunk


@contextmanager
def _store_errors(digest: Digest | None = None) -> Iterator[None]:
    """Say in the platform's words what the store's client says: StoreUnavailable, and BlobMissing of `digest`."""
    try:
        yield
    except FileNotFoundError as error:
        if digest is None:
            raise
        raise _missing(digest) from error
    except (AlreadyExistsError, PreconditionError):
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        log.error("blobs.refused", error=_first_line(error))  # noqa: TRY400  (no fault of the code)
        raise StoreUnavailable("The object store refuses this service's credentials.", "refused") from error
    except BaseError as error:
        log.warning("blobs.away", error=_first_line(error))
        raise StoreUnavailable("The object store does not answer.", "away") from error


def _first_line(error: BaseError) -> str:
    return str(error).partition("\n")[0][:_LONGEST]


def _key(digest: Digest) -> str:
    if not is_digest(digest):
        raise _missing(digest)
    return f"{digest[:2]}/{digest}"


def _missing(digest: Digest) -> BlobMissing:
    return BlobMissing(f"There is no content {digest}.")
