"""Routes that will go: told to programs by headers, to people by the OpenAPI document.

``@router.get("/old", **deprecated(since=date(2027, 1, 1), until=date(2027, 7, 1), instead="/v1/new"))`` adds to every
answer of the route ``Deprecation`` (RFC 9745), ``Sunset`` (RFC 8594) and a ``Link`` to what is to be used instead.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final

from fastapi import Depends, Response

LEAST_NOTICE: Final = timedelta(days=180)


def deprecated(since: date, until: date, instead: str) -> dict[str, Any]:
    """Return a route's keywords; raises ValueError for less notice than `LEAST_NOTICE`."""
    if until - since < LEAST_NOTICE:
        raise ValueError(f"a route goes {LEAST_NOTICE.days} days after it was deprecated, or later")
    return {"deprecated": True, "dependencies": [Depends(_headers(since, until, instead))]}


def _headers(since: date, until: date, instead: str) -> Callable[[Response], Awaitable[None]]:
    moment, end = (datetime(each.year, each.month, each.day, tzinfo=UTC) for each in (since, until))
    told = {
        "deprecation": f"@{int(moment.timestamp())}",
        "sunset": format_datetime(end, usegmt=True),
        "link": f'<{instead}>; rel="successor-version"',
    }

    async def tell(response: Response) -> None:
        response.headers.update(told)

    return tell
