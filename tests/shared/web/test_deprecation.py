"""A route that will go says so in each answer and in the OpenAPI document."""

from datetime import date

import httpx
import pytest
from fastapi import FastAPI

from undersong.shared.web.deprecation import deprecated


async def test_a_deprecated_route_says_since_when_until_when_and_what_instead() -> None:
    app = FastAPI()

    @app.get("/old", **deprecated(date(2027, 1, 1), date(2027, 7, 1), "/v1/new"))
    async def old() -> int:
        return 1

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/old")
    assert answer.headers["deprecation"] == "@1798761600"
    assert answer.headers["sunset"] == "Thu, 01 Jul 2027 00:00:00 GMT"
    assert answer.headers["link"] == '</v1/new>; rel="successor-version"'
    assert app.openapi()["paths"]["/old"]["get"]["deprecated"] is True


def test_short_notice_is_refused() -> None:
    with pytest.raises(ValueError, match="180 days"):
        deprecated(date(2027, 1, 1), date(2027, 2, 1), "/v1/new")
