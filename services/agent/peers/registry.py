"""The registry, as the agent speaks to it: the content of one model version."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.peers.link import Away, Call, Link, RequestRefused, pause_of
from undersong.services.agent.repository.models import ModelCache
from undersong.shared.ids import Digest, VersionId
from undersong.shared.partial import UNSATISFIABLE, TooLong

DOWNLOAD_TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class Registry:
    """Calls to the registry."""

    def __init__(self, link: Link, cache: ModelCache) -> None:
        self.link, self._cache = link, cache

    async def fetch(self, version_id: VersionId, digest: Digest, *, limit_bytes: int) -> Path:
        """Return the model's file, from the cache or downloaded and checked; asks until heard.

        A cut download goes on where it was, also after a restart. Where parts do not make the model together, all of it
        is asked for once more. Raises RequestRefused or TaskFailure (`model-digest`, `model-too-large`), keeping none.
        """
        found, doubted = self._cache.find(digest), False
        while found is None:
            await asyncio.sleep(self.link.circuit.remaining_s())
            kept = self._cache.part(digest).size > 0
            try:
                await self._download(version_id, digest, limit_bytes)
            except Away as away:
                await asyncio.sleep(pause_of(away))
                continue
            found = await asyncio.to_thread(self._cache.adopt, digest)
            if found is None and (doubted or not kept):
                raise TaskFailure("model-digest", "the registry gave other bytes than the manifest names")
            doubted = True
        return found

    async def _download(self, version_id: VersionId, digest: Digest, limit_bytes: int) -> None:
        """Ask once for what is missing; raises Away where it was cut."""
        part = self._cache.part(digest)
        call = Call("GET", f"/v1/versions/{version_id}/content", headers=part.headers(), timeout=DOWNLOAD_TIMEOUT)
        try:
            async with self.link.open(call) as response:
                content_range = response.headers.get("content-range", "")
                await part.take(response.status_code, content_range, response.aiter_raw(), limit_bytes)
        except TooLong:
            part.discard()
            raise TaskFailure("model-too-large", f"the model is larger than {limit_bytes} bytes") from None
        except RequestRefused as problem:
            if problem.status != UNSATISFIABLE:
                raise
