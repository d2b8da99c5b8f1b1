"""Another service of the platform, as the coordinator asks it: JSON over signed requests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from pydantic import BaseModel, ConfigDict

from undersong.shared.errors import Conflict, NotFound, Unavailable
from undersong.shared.telemetry.traces import current_trace

_FAULTS: Final = 5  # of a request that another service refused, in the refusal's words
_AWAY: Final = frozenset({429, 500, 502, 503, 504, 507})


class PartyAway(Unavailable):
    """Another service of the platform cannot be reached."""


class PartyRefused(Conflict):
    """Another service of the platform refused."""


class Answer(BaseModel):
    """Other services may say more than we know of."""

    model_config = ConfigDict(extra="ignore", frozen=True)


@dataclass(frozen=True, slots=True)
class Call:
    """One request; with a `key`, one that may be repeated; with a person's `token`, one that the person makes."""

    method: str
    path: str
    key: str | None = None
    json: Any = None
    params: Mapping[str, str] = field(default_factory=dict)
    token: str | None = field(default=None, repr=False)


class Peer:
    """JSON over one httpx client, whose base address and signature are set where it is made."""

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        self._http, self._name = http, name

    async def _call(self, call: Call) -> dict[str, Any]:
        headers = {"idempotency-key": call.key} if call.key else {}
        trace = current_trace()
        if trace is not None:
            headers["traceparent"] = trace
        try:
            response = await self._http.request(
                call.method,
                call.path,
                json=call.json,
                params=dict(call.params) or None,
                headers=headers if call.token is None else headers | {"authorization": f"Bearer {call.token}"},
                auth=httpx.USE_CLIENT_DEFAULT if call.token is None else None,
            )
        except httpx.HTTPError as error:
            raise PartyAway(f"The {self._name} cannot be reached: {type(error).__name__}.", retry_after_s=2) from error
        return self._read(response)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        if response.status_code in _AWAY:
            raise PartyAway(f"The {self._name} answered {response.status_code}.", retry_after_s=2)
        try:
            answer = response.json() if response.content else {}
        except ValueError as error:
            raise PartyAway(f"The {self._name} did not answer in JSON.", retry_after_s=2) from error
        if not isinstance(answer, dict):
            raise PartyAway(f"The {self._name} did not answer with an object.", retry_after_s=2)
        if response.is_success:
            return answer
        reason = str(answer.get("type", response.status_code)).rpartition(":")[2]
        detail = f"The {self._name} refused ({reason}): {answer.get('detail', '')}{_faults(answer)}"
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(detail)
        raise PartyRefused(detail, reason=reason, invalid=response.status_code == httpx.codes.UNPROCESSABLE_ENTITY)


def _faults(answer: Mapping[str, Any]) -> str:
    """Return what is wrong with which field, where a problem document says so."""
    found = answer.get("errors")
    errors = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return "".join(f"; {each.get('path', '')}: {each.get('message', '')}" for each in errors[:_FAULTS])
