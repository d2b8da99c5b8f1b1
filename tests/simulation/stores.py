"""Arenas over the stores of larger platforms: an S3 server, and a PostgreSQL with a standby."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from tests.object_stores import ObjectStore
from tests.simulation.arena import Arena
from tests.simulation.proxy import Proxy
from undersong.local.layout import Layout
from undersong.shared.blobs import BlobStore, BucketOptions
from undersong.shared.ids import Digest

KEEPERS = ("aggregator", "registry")


class BucketArena(Arena):
    """The services with blobs keep them in S3, each over a line of its own that can be hurt."""

    def __init__(self, server: ObjectStore, **options: Any) -> None:
        super().__init__(**options)
        self._server = server
        self._buckets: dict[str, Mapping[str, str]] = {}

    def _settings(self, service: str, layout: Layout) -> dict[str, str]:
        found = super()._settings(service, layout)
        if service not in KEEPERS:
            return found
        proxy = self._wire((service, "store"), self._server.port)
        self._buckets[service] = self._server.settings(service, endpoint=proxy.url)
        return {**found, **self._buckets[service]}

    def content(self, service: str, digest: str) -> bytes:
        """One blob, past the proxy."""
        return asyncio.run(self._open(service).get(Digest(digest)))

    def stored(self, service: str) -> set[str]:
        """The digests of all blobs."""

        async def look() -> set[str]:
            return {str(blob.digest) async for blob in self._open(service).list(timedelta(0))}

        return asyncio.run(look())

    def line(self, service: str) -> Proxy:
        """The line between a service and the store."""
        return self.proxies[service, "store"]

    def _open(self, service: str) -> BlobStore:
        server = self._server
        return BlobStore.open(
            self._buckets[service]["blob_url"], BucketOptions(server.endpoint, "us-east-1", server.credentials)
        )
