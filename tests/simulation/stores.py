"""Arenas over the stores of larger platforms: an S3 server, and a PostgreSQL with a standby."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from tests.object_stores import ObjectStore
from tests.postgres_pair import USER, PostgresPair
from tests.simulation.arena import STORES, Arena
from tests.simulation.proxy import Proxy
from undersong.client.types import Job
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


class PairArena(Arena):
    """The services' databases are on a primary with a synchronous standby; the proxies lead to the one that is active,
    as an address does that follows the primary.
    """

    def __init__(self, pair: PostgresPair, **options: Any) -> None:
        super().__init__(**options)
        self._pair = pair

    def _prepare_databases(self) -> None:
        for service in STORES:
            self._pair.create_database(service)
            port = self._wire((service, "database"), self._pair.socket(self._pair.active)).port
            self._databases[service] = f"postgresql+psycopg://{USER}:@127.0.0.1:{port}/{service}"

    def database_url(self, service: str) -> str:
        """The service's database on the server that is up."""
        return self._pair.both(service)

    def warm_up(self, *, engine: str = "pairwise") -> Job:
        """Make version 0, without a copy of any database."""
        job = self.wait(self.submit("warm-up", rounds=1, engine=engine).id, 240)
        if job.state != "succeeded":
            raise RuntimeError(f"the first job {job.state}: {job.reason}")
        self.version_id = job.version_id
        return job

    def fail_over(self) -> None:
        """Kill the primary, promote the standby, and have the services' address follow."""
        self._pair.fail_over()
        for service in STORES:
            self.proxies[service, "database"].target = self._pair.socket(self._pair.active)
