import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.object_stores import ObjectStore
from undersong.shared.blobs import (
    BlobChanged,
    BlobCorrupt,
    BlobMissing,
    BlobStore,
    BlobTooLarge,
    DigestMismatch,
    StorageFull,
)
from undersong.shared.ids import Digest, digest_of

NOTHING = Digest("0" * 64)


@pytest.fixture(params=["local", "remote", pytest.param("s3", marks=pytest.mark.exhaustive)])
def store(request: pytest.FixtureRequest, blob_url: str) -> BlobStore:
    """A folder, the object-store side over an object store in memory, and over a real S3 server."""
    if request.param == "s3":
        server: ObjectStore = request.getfixturevalue("object_store")
        return server.open()
    return BlobStore.open(blob_url if request.param == "local" else "memory:///")


async def pieces(data: bytes, length: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


async def listed(store: BlobStore, age: timedelta = timedelta(0)) -> list[str]:
    return [blob.digest async for blob in store.list(age)]


async def read(store: BlobStore, digest: Digest, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in store.stream(digest, start, end)])


@settings(max_examples=examples(40), deadline=None)
@given(
    data=st.binary(max_size=5000), length=st.integers(1, 700), cut=st.tuples(st.integers(0, 5000), st.integers(0, 5000))
)
def test_what_is_stored_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, length: int, cut: tuple[int, int]
) -> None:
    async def go() -> None:
        for url in (f"file://{tmp_path_factory.getbasetemp() / 'law'}", "memory:///"):
            store = BlobStore.open(url)
            blob = await store.put_stream(pieces(data, length), limit=5000)
            assert (blob.digest, blob.size) == (digest_of(data), len(data))
            assert await store.get(blob.digest) == data
            assert await store.size(blob.digest) == len(data)
            assert await read(store, blob.digest, *cut) == data[slice(*cut)]

    asyncio.run(go())


async def test_large_content_streams_in_and_out(store: BlobStore) -> None:
    data = os.urandom((11 << 20) + 7)
    blob = await store.put_stream(pieces(data, 300_000), limit=1 << 30, expect=digest_of(data), expect_size=len(data))
    assert await read(store, blob.digest) == data
    assert await read(store, blob.digest, 6 << 20, (9 << 20) + 1) == data[6 << 20 : (9 << 20) + 1]


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"limit": 4999}, BlobTooLarge),
        ({"limit": 4999, "expect_size": 5000}, BlobTooLarge),
        ({"limit": 5000, "expect": NOTHING}, DigestMismatch),
        ({"limit": 5000, "expect_size": 4999}, DigestMismatch),
        ({"limit": 6000, "expect_size": 5001}, DigestMismatch),
    ],
)
async def test_content_that_breaks_its_declaration_leaves_nothing(
    store: BlobStore, options: dict[str, object], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        await store.put_stream(pieces(bytes(5000)), **options)  # type: ignore[arg-type]
    assert await listed(store) == []
    assert await store.discard_incoming(timedelta(seconds=-5)) == 0


async def test_a_sender_that_breaks_off_leaves_nothing(store: BlobStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.put_stream(broken(), limit=100)
    assert await listed(store) == []
    assert await store.discard_incoming(timedelta(seconds=-5)) == 0


async def test_a_cancelled_upload_leaves_nothing(blob_url: str) -> None:
    store = BlobStore.open(blob_url)
    waiting = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(3 << 20)
        waiting.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(store.put_stream(slow(), limit=1 << 30))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await listed(store) == []
    assert await store.discard_incoming(timedelta(seconds=-5)) == 0


async def test_missing_content_is_refused_and_deleting_it_is_not(store: BlobStore) -> None:
    for ask in (store.size(NOTHING), store.get(NOTHING), read(store, NOTHING), store.size(Digest("../../etc/passwd"))):
        with pytest.raises(BlobMissing):
            await ask
    blob = await store.put(b"x")
    await store.delete(blob.digest)
    await store.delete(blob.digest)
    with pytest.raises(BlobMissing):
        await store.get(blob.digest)


async def test_the_same_content_twice_is_one_blob_and_young_again(blob_url: str) -> None:
    store = BlobStore.open(blob_url)
    blob = await store.put(b"content")
    path = store.path(blob.digest)
    assert path is not None
    os.utime(path, (1, 1))
    assert await listed(store, timedelta(days=1)) == [blob.digest]
    assert await store.put(b"content") == blob
    assert await listed(store, timedelta(days=1)) == []
    assert await listed(store) == [blob.digest]


async def test_many_uploads_of_the_same_content_at_once(store: BlobStore) -> None:
    data = os.urandom(100_000)
    blobs = await asyncio.gather(*[store.put_stream(pieces(data), limit=1 << 20) for _ in range(8)])
    assert {blob.digest for blob in blobs} == {digest_of(data)}
    assert await listed(store) == [digest_of(data)]


async def test_damage_is_noticed(blob_url: str) -> None:
    store = BlobStore.open(blob_url)
    blob = await store.put(b"content")
    path = store.path(blob.digest)
    assert path is not None
    path.write_bytes(b"c0ntent")
    with pytest.raises(BlobCorrupt):
        await store.get(blob.digest)


async def test_a_full_disk_is_said_so(blob_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore.open(blob_url)

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull):
            await store.put(b"x")
    assert await listed(store) == []
    monkeypatch.setattr("undersong.shared.blobs.local.RESERVE_BYTES", 1 << 62)
    with pytest.raises(StorageFull):
        await store.put(b"x")


WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
from undersong.shared.blobs import BlobStore

def die(*_args):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before-rename":
    Path.rename = die
if sys.argv[2] == "before-fsync":
    os.fsync = die

async def go():
    await BlobStore.open(sys.argv[1]).put(b"content")
    die()

asyncio.run(go())
"""


@pytest.mark.process
@pytest.mark.parametrize(("moment", "visible"), [("before-fsync", False), ("before-rename", False), ("after", True)])
async def test_a_killed_writer_leaves_all_or_nothing(blob_url: str, moment: str, visible: bool) -> None:
    run = subprocess.run([sys.executable, "-c", WRITER, blob_url, moment], timeout=30)  # noqa: ASYNC221
    assert run.returncode == -signal.SIGKILL
    store = BlobStore.open(blob_url)
    assert await listed(store) == ([digest_of(b"content")] if visible else [])
    assert await store.discard_incoming(timedelta(hours=1)) == 0
    assert await store.discard_incoming(timedelta(seconds=-5)) == (0 if visible else 1)
    assert (await store.put(b"content")).digest == hashlib.sha256(b"content").hexdigest()


async def test_memory_does_not_grow_with_size(blob_url: str) -> None:
    import tracemalloc

    store = BlobStore.open(blob_url)

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)

    tracemalloc.start()
    try:
        blob = await store.put_stream(zeros(), limit=1 << 30)
        async for chunk in store.stream(blob.digest):
            assert len(chunk) <= 1 << 20
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


async def test_other_urls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        BlobStore.open("ftp://example.org/x")
    store = BlobStore.open(f"file://{tmp_path}/with%20space")
    await store.check()
    assert (tmp_path / "with space").is_dir()


@pytest.mark.parametrize("change", ["written", "exchanged", "same bytes", "gone"])
async def test_a_part_is_of_the_file_that_was_found_right(store: BlobStore, change: str) -> None:
    """Whatever happens to it after it was verified: no byte of another file, or from after a change, is sent."""
    data = os.urandom(6 << 20)
    blob = await store.put(data)
    end = len(data) - 1
    assert b"".join([chunk async for chunk in store.stream_part(blob.digest, 1, end)]) == data[1:end]
    stream, path = store.stream_part(blob.digest, 1, end), store.path(blob.digest)
    got = await anext(stream)
    if path is None:  # the object store sends what it compared, whatever is stored there meanwhile
        await store.delete(blob.digest)
        assert got + b"".join([chunk async for chunk in stream]) == data[1:end]
        return
    if change == "written":
        with path.open("r+b") as file:
            file.seek(-9, os.SEEK_END)
            file.write(b"x")
    elif change == "gone":
        path.unlink()
    else:
        fresh = path.with_name("fresh")
        fresh.write_bytes(data if change == "same bytes" else bytes(len(data)))
        fresh.replace(path)
    rest: list[bytes] = []
    if change != "written":
        rest = [chunk async for chunk in stream]
        assert got + b"".join(rest) == data[1:end], "the file that was opened is read to its end"
        return
    with pytest.raises(BlobChanged):
        rest += [chunk async for chunk in stream]
    assert rest == [], "it was noticed before the next chunk"
    assert data[1:].startswith(got)


async def test_a_part_of_a_file_that_was_exchanged_unseen_is_not_sent(store: BlobStore) -> None:
    data = os.urandom(1 << 20)
    blob = await store.put(data)
    await store.verify(blob.digest)
    path = store.path(blob.digest)
    if path is not None:
        path.write_bytes(bytes(len(data)))
    else:
        await store._backend.quarantine(blob.digest)
    with pytest.raises((BlobCorrupt, BlobMissing)):
        await anext(store.stream_part(blob.digest, 1, 9))
