"""The keys service, as the aggregator speaks to it: as the witness of a round, and as the keeper of the log."""

from typing import Any, Final

import httpx
import msgpack

from shared.errors import Refusal, Unavailable
from shared.transparency.documents import RoundRecord
from shared.wire.manifest import SignedManifest

_TRY_AGAIN: Final = frozenset({401, 408, 425, 429, 500, 502, 503, 504, 507})  # 401: its clock, or revocations, or start
_PAUSE_S: Final = 1.0


class AskRefused(Refusal):
    """The keys service does not do this, and never will."""


class Keys:
    """`auth` signs for the audience ``keys``."""

    def __init__(self, http: httpx.AsyncClient, auth: httpx.Auth, keys_url: str) -> None:
        self._http, self._auth, self._url = http, auth, f"{keys_url}/v1"

    async def ask(self, signed: SignedManifest, ask: bytes) -> bytes:
        """What the witness says; the same question again gets the same answer. Unavailable or AskRefused."""
        content = msgpack.packb({"manifest": signed.model_dump_json().encode(), "ask": ask}, use_bin_type=True)
        path = f"/rounds/{signed.manifest.round_id}/witness"
        return (await self._post(path, content=content, headers={"content-type": "application/octet-stream"})).content

    async def record(self, record: RoundRecord) -> None:
        """Hand a round's record in for the log; twice is as once. Unavailable or AskRefused."""
        headers = {"content-type": "application/json"}
        await self._post(f"/rounds/{record.round_id}/records", content=record.model_dump_json(), headers=headers)

    async def _post(self, path: str, **request: Any) -> httpx.Response:
        try:
            response = await self._http.post(self._url + path, auth=self._auth, **request)
        except httpx.TransportError as error:
            detail = f"the keys service cannot be reached: {type(error).__name__}"
            raise Unavailable(detail, retry_after_s=_PAUSE_S) from error
        if response.is_success:
            return response
        try:
            problem = response.json()
            reason = f"{problem['title']} {problem['detail']}"
        except (ValueError, KeyError, TypeError):
            reason = f"status {response.status_code}"
        if response.status_code in _TRY_AGAIN:
            raise Unavailable(f"the keys service cannot serve now: {reason}", retry_after_s=_PAUSE_S)
        raise AskRefused(f"the keys service answered {response.status_code}: {reason}")
