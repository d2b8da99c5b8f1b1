"""The registry, as the aggregator speaks to it: models by digest, versions by round, so that repeating is safe."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import httpx
from httpx import codes

from undersong.shared.blobs import BlobStore
from undersong.shared.errors import Refusal, Unavailable, reason_of
from undersong.shared.identity.digests import content_digest_from
from undersong.shared.ids import Digest, VersionId

_TRY_AGAIN: Final = frozenset({401, 408, 425, 429, 500, 502, 503, 504, 507})  # 401: its clock, or revocations, or start
_PAUSE_S: Final = 2.0


class RegistryRefused(Refusal):
    """The registry does not take the model, and never will."""


class RegistryDamaged(Unavailable):
    """The registry's file of a version is damaged."""


class Registry:
    """`auth` signs for the audience ``registry``."""

    def __init__(self, http: httpx.AsyncClient, auth: httpx.Auth, registry_url: str, blobs: BlobStore) -> None:
        self._http, self._auth, self._url, self._blobs = http, auth, f"{registry_url}/v1", blobs

    async def put_content(self, digest: Digest, federation_id: str) -> None:
        """Send a model of the federation from our blob store; Unavailable or RegistryRefused."""
        size = await self._blobs.size(digest)
        headers = {
            "content-type": "application/octet-stream",
            "content-length": str(size),
            "content-digest": content_digest_from(digest),
        }
        path, params = f"/blobs/{digest}", {"federation_id": federation_id}
        await self._ask("PUT", path, params=params, content=self._blobs.stream(digest), headers=headers)

    async def heal(self, version_id: VersionId, digest: Digest, federation_id: str) -> bool:
        """Store a version's file in the registry again where its own is damaged and ours is not; whether it was.

        Raises Unavailable or RegistryRefused.
        """
        try:  # a part is enough for the registry to look at the whole
            await self._ask("GET", f"/versions/{version_id}/content", headers={"range": "bytes=0-0"})
        except Unavailable as error:
            if not isinstance(error, RegistryDamaged):
                raise
            await self.put_content(digest, federation_id)
            return True
        return False

    async def post_version(self, model_id: str, body: Mapping[str, Any], round_id: str) -> VersionId:
        """Create the version of a round, or find it made; Unavailable or RegistryRefused."""
        headers = {"idempotency-key": f"publication-{round_id}"}
        answer = await self._ask("POST", f"/models/{model_id}/versions", json=dict(body), headers=headers)
        try:
            return VersionId(str(answer.json()["id"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable("the registry's answer has no version id", retry_after_s=_PAUSE_S) from error

    async def fetch(self, version_id: VersionId, digest: Digest, *, limit: int) -> None:
        """Bring a version's content into our blob store; Unavailable, RegistryRefused or DigestMismatch."""
        try:
            address = f"{self._url}/versions/{version_id}/content"
            async with self._http.stream("GET", address, auth=self._auth) as response:
                if not response.is_success:
                    await response.aread()
                    raise _refusal(response)
                await self._blobs.put_stream(_chunks(response), limit=limit, expect=digest)
        except httpx.TransportError as error:
            raise _away(error) from error

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, self._url + path, auth=self._auth, **request)
        except httpx.TransportError as error:
            raise _away(error) from error
        if not response.is_success:
            raise _refusal(response)
        return response


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    async for chunk in response.aiter_bytes():
        yield chunk


def _away(error: httpx.TransportError) -> Unavailable:
    return Unavailable(f"the registry cannot be reached: {type(error).__name__}", retry_after_s=_PAUSE_S)


def _refusal(response: httpx.Response) -> Refusal:
    reason = reason_of(response.content, response.status_code)
    if response.status_code == codes.SERVICE_UNAVAILABLE and "content-damaged" in response.text:
        return RegistryDamaged(f"the registry cannot serve now: {reason}", retry_after_s=_PAUSE_S)
    if response.status_code in _TRY_AGAIN:
        return Unavailable(f"the registry cannot serve now: {reason}", retry_after_s=_PAUSE_S)
    return RegistryRefused(f"the registry answered {response.status_code}: {reason}")
