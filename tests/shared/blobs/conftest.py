"""Stores of every kind, and what goes into them."""

from collections.abc import AsyncIterator

import pytest

from tests.object_stores import ObjectStore
from undersong.shared.blobs import BlobStore


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.exhaustive)])
def remote(request: pytest.FixtureRequest) -> BlobStore:
    """The object-store side over an object store in memory, and over a real S3 server."""
    if request.param == "s3":
        server: ObjectStore = request.getfixturevalue("object_store")
        return server.open()
    return BlobStore.open("memory:///")


async def pieces(data: bytes, length: int = 300_000) -> AsyncIterator[bytes]:
    """The bytes, as a sender sends them."""
    for start in range(0, len(data), length):
        yield data[start : start + length]
