"""The object store: who comes first stays, and what it does wrong is told."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic

import httpx
import obstore
import pytest

from tests.object_stores import CREDENTIALS, ObjectStore
from tests.shared.blobs.conftest import pieces
from tests.simulation.proxy import FAIR, Proxy, Weather
from undersong.shared.blobs import (
    BlobMissing,
    BlobStore,
    BucketOptions,
    StoreIgnoresConditions,
    StoreUnavailable,
    bucket,
)
from undersong.shared.blobs import remote as module
from undersong.shared.ids import digest_of

SMALL, LARGE = 1000, (11 << 20) + 7
exhaustive = pytest.mark.exhaustive


async def identity(store: BlobStore, data: bytes) -> tuple[object, ...]:
    return await store._backend.identity(digest_of(data))


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_of_many_uploads_of_one_content_the_first_object_stays(remote: BlobStore, size: int) -> None:
    data = os.urandom(size)
    await remote.put_stream(pieces(data), limit=size)
    first = await identity(remote, data)
    blobs = await asyncio.gather(*[remote.put_stream(pieces(data), limit=size) for _ in range(3)])
    assert {blob.digest for blob in blobs} == {digest_of(data)}
    assert await identity(remote, data) == first
    assert await remote.get(digest_of(data)) == data
    assert await remote.discard_incoming(timedelta(seconds=-5)) == 0


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_an_old_object_is_stored_again(remote: BlobStore, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be about to be cleared away, which goes by its age."""
    data = os.urandom(size)
    await remote.put_stream(pieces(data), limit=size)
    first = await identity(remote, data)
    monkeypatch.setattr(module, "YOUNG", timedelta(seconds=-60))
    await asyncio.sleep(1.1 if "S3Store" in repr(remote._backend._store) else 0)  # S3 dates objects by the second
    await remote.put_stream(pieces(data), limit=size)
    assert (await identity(remote, data))[2] > first[2]  # type: ignore[operator]
    assert await remote.get(digest_of(data)) == data


async def test_an_object_of_another_length_is_replaced(remote: BlobStore) -> None:
    data = os.urandom(SMALL)
    await obstore.put_async(remote._backend._store, module._key(digest_of(data)), b"half")
    assert (await remote.put(data)).size == SMALL
    assert await remote.get(digest_of(data)) == data


async def test_a_store_with_conditional_writes_is_found_right(remote: BlobStore) -> None:
    await remote.probe()
    await remote.probe()
    assert await remote.discard_incoming(timedelta(seconds=-5)) == 0
    await BlobStore.open("memory:///").probe()


async def test_a_folder_has_nothing_to_probe(blob_url: str) -> None:
    await BlobStore.open(blob_url).probe()


class _Lax(BaseHTTPRequestHandler):
    """A store that takes every object, whatever the request's conditions are."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(200)

    def do_DELETE(self) -> None:
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("etag", '"x"')
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def lax() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Lax) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    file = tmp_path / "credentials"
    file.write_text(CREDENTIALS.format(access="a", secret="b"))
    return file


async def test_a_store_that_ignores_conditions_is_told(credentials: Path) -> None:
    with lax() as endpoint:
        store = BlobStore.open("s3://bucket/x", BucketOptions(endpoint, "us-east-1", credentials))
        with pytest.raises(StoreIgnoresConditions):
            await store.probe()


async def test_conditional_writes_can_be_switched_off(credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a store that refuses them: `AWS_CONDITIONAL_PUT=disabled`."""
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    with lax() as endpoint:
        store = BlobStore.open("s3://bucket/x", BucketOptions(endpoint, "us-east-1", credentials))
        assert (await store.put(b"content")).digest == digest_of(b"content")
        with pytest.raises(StoreIgnoresConditions):
            await store.probe()


async def test_a_store_that_is_away_is_unavailable(credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "_RETRIES", 1)
    store = BlobStore.open("s3://bucket/x", BucketOptions("http://127.0.0.1:9", "us-east-1", credentials))
    asked = (store.check(), store.put(b"x"), store.size(digest_of(b"x")), store.get(digest_of(b"x")))
    for ask in (*asked, store.delete(digest_of(b"x")), store.quarantine(digest_of(b"x"))):
        with pytest.raises(StoreUnavailable, match="does not answer") as refused:
            await ask
        assert refused.value.reason == "away"
        assert refused.value.retry_after_s
    with pytest.raises(StoreUnavailable):
        await store.put_stream(pieces(bytes(LARGE)), limit=LARGE)
    await store.probe()  # it is `check` that tells


@exhaustive
async def test_an_answer_that_is_lost_leaves_the_object_once(object_store: ObjectStore) -> None:
    """The first request has stored it, so its repetition is refused: that is no failure."""
    data = os.urandom(SMALL)
    with Proxy(object_store.port) as proxy:
        store = object_store.open(endpoint=proxy.url)
        await store.check()
        proxy.set(Weather(drop_replies=True))
        task = asyncio.create_task(store.put(data))
        direct = object_store.open(prefix=store._backend._store.prefix)
        while not [blob async for blob in direct.list(timedelta(0))]:  # noqa: ASYNC110  (another process makes it)
            await asyncio.sleep(0.01)
        proxy.set(FAIR)
        assert (await task).digest == digest_of(data)
        assert await direct.get(digest_of(data)) == data


@exhaustive
@pytest.mark.parametrize("weather", [Weather(close_after=6 << 20), Weather(slice_bytes=5000, bytes_per_s=40 << 20)])
async def test_bad_lines_never_give_wrong_bytes(object_store: ObjectStore, weather: Weather) -> None:
    data = os.urandom(LARGE)
    with Proxy(object_store.port) as proxy:
        store = object_store.open(endpoint=proxy.url)
        proxy.set(weather)
        blob = await store.put_stream(pieces(data), limit=LARGE)
        assert b"".join([chunk async for chunk in store.stream_whole(blob.digest)]) == data


@exhaustive
async def test_a_store_that_falls_silent_is_unavailable(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "_CLIENT", {**bucket._CLIENT, "read_timeout": "300ms"})
    monkeypatch.setattr(bucket, "_RETRIES", 1)
    with Proxy(object_store.port) as proxy:
        store = object_store.open(endpoint=proxy.url)
        blob = await store.put(b"content")
        proxy.set(Weather(blackhole=True))
        began = monotonic()
        for ask in (store.get(blob.digest), store.put(b"other"), store.check()):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await ask
        assert monotonic() - began < 60
        proxy.set(FAIR)
        assert await store.get(blob.digest) == b"content"
        with pytest.raises(BlobMissing):
            await store.get(digest_of(b"nothing"))


@exhaustive
async def test_credentials_are_read_again(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "_READ_AGAIN", timedelta(0))
    file = tmp_path / "credentials"
    file.write_text(object_store.credentials.read_text())
    store = object_store.open(credentials_file=file)
    await store.put(b"content")
    file.write_text(CREDENTIALS.format(access="undersong", secret="withdrawn"))
    with pytest.raises(StoreUnavailable, match="refuses this service's credentials") as refused:
        await store.put(b"more")
    assert refused.value.reason == "refused"
    file.write_text("")
    with pytest.raises(StoreUnavailable):
        await store.put(b"more")
    file.write_text(object_store.credentials.read_text())
    assert await store.put(b"more")


@exhaustive
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_objects_are_encrypted_as_asked(object_store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    store = object_store.open(encryption="AES256")
    blob = await store.put_stream(pieces(data), limit=size)
    assert await store.get(blob.digest) == data
    url = obstore.sign(store._backend._store, "GET", module._key(blob.digest), timedelta(minutes=1))
    async with httpx.AsyncClient() as http:
        answer = await http.get(url, headers={"range": "bytes=0-9"})
    assert answer.headers["x-amz-server-side-encryption"] == "AES256"
