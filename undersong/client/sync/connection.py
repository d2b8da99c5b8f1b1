"""A connection to a platform: requests, repeats and pages.

Generated from `aio/connection.py` by `make client`: change that file.
"""

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import httpx

from undersong.client import types as t
from undersong.client import wire
from undersong.client.calls import Call
from undersong.profile import Profile, load_profile

T = TypeVar("T")


class Connection:
    """Sends requests to all services of one platform, and repeats them while a service is away."""

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout: float | httpx.Timeout = wire.TIMEOUT,
    ) -> None:
        self.profile = profile or load_profile()
        options = wire.client_options(self.profile, timeout, own_transport=transport is not None)
        self._http = httpx.Client(transport=transport, **options)

    def __enter__(self) -> Self:
        """Return the client; `with` closes it at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, call: Call[T], *, until: float = math.inf) -> T:
        """Make one call; ApiError for a refusal, UnreachableError when nothing answers.

        It is repeated, and waited for, no longer than to `until` (monotonic seconds).
        """
        options = wire.request_options(self.profile, call)
        for attempt in range(wire.ATTEMPTS):
            last = attempt == wire.ATTEMPTS - 1
            try:
                response = self._http.request(**options, timeout=wire.within(self._http.timeout, until))
            except httpx.RequestError as error:
                pause_s = wire.delay_s(attempt, None)
                if last or wire.distrusts(error) or time.monotonic() + pause_s > until:
                    raise wire.unreachable(str(options["url"]), error) from error
                time.sleep(pause_s)
                continue
            pause_s = wire.delay_s(attempt, response)
            if response.status_code not in wire.TRY_AGAIN or last or time.monotonic() + pause_s > until:
                break
            time.sleep(pause_s)
        answer = wire.parse(call, response)
        return answer.asked_by(self) if isinstance(answer, t.Answer) else answer

    def all(self, page_of: Callable[[str | None], Call[t.Page[T]]]) -> list[T]:
        """Return every item of a paginated list; ApiError where the service names a page that was read before."""
        found: list[T] = []
        after: str | None = None
        seen: set[str] = set()
        while True:
            call = page_of(after)
            page = self.send(call)
            found += [each.asked_by(self) if isinstance(each, t.Answer) else each for each in page.items]
            if page.next is None:
                return found
            after = wire.further(call, page.next, seen)

    def health(self, service: str) -> t.Health:
        """Return what the service says at /health/ready; UnreachableError when it does not answer."""
        url = f"{wire.base_url(self.profile, service)}/health/ready"
        try:
            response = self._http.get(url, timeout=5.0)
            document = response.json()
        except httpx.TransportError as error:
            raise wire.unreachable(url, error) from error
        except ValueError:
            document = {}
        return t.Health(ready=response.is_success, status_code=response.status_code, document=document)
