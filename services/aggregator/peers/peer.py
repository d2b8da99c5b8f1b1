"""Another service, as the aggregator asks it: by signed requests that may be repeated."""

from typing import Any, Final

import httpx

from undersong.shared.errors import Refusal, Unavailable, reason_of
from undersong.shared.secagg.engine import ANSWER_BYTES

_TRY_AGAIN: Final = frozenset({401, 408, 425, 429, 500, 502, 503, 504, 507})  # 401: its clock, or revocations, or start
_PAUSE_S: Final = 1.0


class AskRefused(Refusal):
    """The other service does not do this, and never will."""


class Peer:
    """`auth` signs for the audience `name`."""

    def __init__(self, http: httpx.AsyncClient, auth: httpx.Auth, url: str, name: str) -> None:
        self._http, self._auth, self._url, self._name = http, auth, f"{url}/v1", name

    async def _ask(self, method: str, path: str, *, answer_bytes: int = ANSWER_BYTES, **request: Any) -> httpx.Response:
        """Send a request and return the answer, whose body has at most `answer_bytes`.

        Raises Unavailable, or AskRefused where the other service refuses or its answer is too long.
        """
        try:
            async with self._http.stream(method, self._url + path, auth=self._auth, **request) as streamed:
                content = await self._limited(streamed, answer_bytes)
        except httpx.RequestError as error:
            detail = f"the {self._name} cannot be reached: {type(error).__name__}"
            raise Unavailable(detail, retry_after_s=_PAUSE_S) from error
        response = httpx.Response(streamed.status_code, content=content)
        if response.is_success:
            return response
        reason = reason_of(response.content, response.status_code)
        if response.status_code in _TRY_AGAIN:
            raise Unavailable(f"the {self._name} cannot serve now: {reason}", retry_after_s=_PAUSE_S)
        raise AskRefused(f"the {self._name} answered {response.status_code}: {reason}")

    async def _limited(self, response: httpx.Response, limit: int) -> bytes:
        parts, size = [], 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > limit:
                raise AskRefused(f"the {self._name} answered more than {limit} bytes")
            parts.append(part)
        return b"".join(parts)
