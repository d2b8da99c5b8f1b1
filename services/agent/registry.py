"""The registry, as the agent speaks to it: the content of one model version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from services.agent.link import Away, Call, Link, pause_of
from services.agent.models import ModelCache
from shared.ids import Digest, VersionId

DOWNLOAD_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
BLOCK = 256 * 1024


class Registry:
    """Calls to the registry."""

    def __init__(self, link: Link, cache: ModelCache) -> None:
        self.link, self._cache = link, cache

    async def fetch(self, version_id: VersionId, digest: Digest, *, limit_bytes: int) -> Path:
        """The model's file, from the cache or downloaded and checked; asks until heard. Problem or TaskFailure."""
        found = self._cache.find(digest)
        while found is None:
            await asyncio.sleep(self.link.circuit.remaining_s())
            try:
                found = await self._download(version_id, digest, limit_bytes)
            except Away as away:
                await asyncio.sleep(pause_of(away))
        return found

    async def _download(self, version_id: VersionId, digest: Digest, limit_bytes: int) -> Path:
        call = Call("GET", f"/v1/versions/{version_id}/content", timeout=DOWNLOAD_TIMEOUT)
        async with self.link.open(call) as response:
            return await self._cache.store(digest, _blocks(response), limit_bytes=limit_bytes)


async def _blocks(response: httpx.Response) -> AsyncIterator[bytes]:
    async for block in response.aiter_raw(BLOCK):
        yield block
